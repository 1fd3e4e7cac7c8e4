"""Routing: the bindings of the gateway inbox, which follow the connected users.

``everything``: all pushes reach every replica, and local tables give their receivers. ``selective``: once connects
are calm, ``user.*`` and ``control.*`` are replaced by one binding per connected user, ``*.<user>``; a push to another
user then costs this replica nothing. ``group.*`` always stays: group changes arrive in this same inbox, and a push
that follows one would be lost before a binding existed.

Guarantees: a connection is welcomed once pushes to its user reach this replica, and they do as long as it is
connected (:mod:`~towpath.gateway.inbox.binding_plan`); with catch-all bindings no connection waits, otherwise a few
seconds at worst; bindings change at a bounded rate. A new inbox has the catch-alls; an inbox whose bindings are
uncertain is replaced by a new one. Local tables remain the only source of membership: bindings save traffic, and
grant nothing.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from towpath.gateway.inbox.binding_plan import Plan, Step, StepKind
from towpath.gateway.inbox.queue import CATCH_ALLS
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.routes import PROBE, PUSH, encode_word
from towpath.servicekit.broker.interface import (
    Binding,
    Bindings,
    Broker,
    BrokerError,
    BrokerUnavailable,
    Inbox,
)
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

#: Seconds after which a user waiting for a binding triggers the fallback, and the time limit of a binding change.
_PATIENCE: Final = 1.0
_LIMIT: Final = 2.0

_AT_ONCE: Final[AbstractAsyncContextManager[None]] = nullcontext()


@dataclass(frozen=True, slots=True)
class Route:
    """A routing key that reaches this replica.

    Attributes:
        holds: Whether its binding has existed without a break since.
    """

    key: str
    holds: Callable[[], bool]


class Routing:
    """Maintains the bindings of ``inbox``; see :meth:`run`."""

    def __init__(self, broker: Broker, inbox: Inbox, settings: GatewaySettings, telemetry: Telemetry) -> None:
        self._broker = broker
        self._inbox = inbox
        self._selective = settings.routing == "selective"
        self._pause = 1 / settings.routing_binds_per_second
        self._propagation_delay = settings.routing_settle
        self._retry = settings.routing_calm
        self._plan = Plan(
            most=settings.routing_bindings_max,
            waiting_most=int(_PATIENCE * settings.routing_binds_per_second),
            patience=_PATIENCE,
            linger=settings.routing_linger,
            calm=settings.routing_calm,
        )
        self._bindings: Bindings | None = None
        self._changed = asyncio.Event()
        self._reached: dict[str, asyncio.Future[None]] = {}
        self.waiting = 0  #: Number of connections that wait for their routing.
        self._fallbacks = telemetry.counter(
            "routing_fallbacks", "Times that catch-alls had to be bound again"
        )
        telemetry.gauge("routing_user_bindings", "Bindings of single users", lambda: self._plan.bindings)
        telemetry.gauge("routing_waiting", "Connections that wait for a binding", lambda: self.waiting)
        telemetry.gauge(
            "routing_everything",
            "1 while pushes to all users reach this replica",
            lambda: int(not self._plan.selective),
        )
        broker.on_rebuilt(self._forget)

    @property
    def is_selective(self) -> bool:
        """Whether only pushes to connected users reach this replica now."""
        return self._plan.selective

    def routed_to(self, user_id: str) -> AbstractAsyncContextManager[None]:
        """Context in which pushes to this user reach this replica; entry waits for that."""
        return _RoutedConnection(self, encode_word(user_id)) if self._selective else _AT_ONCE

    def routes(self, unused: str) -> list[Route]:
        """The routes into the inbox; of the bindings of single users only one.

        Args:
            unused: A word that is not a user or group id.
        """
        routes = [Route(f"group.{unused}", lambda: True)]
        if self._plan.everything:
            removals = self._plan.removals
            routes += [
                Route(f"{kind}.{unused}", lambda: self._plan.removals == removals)
                for kind in ("user", "control")
            ]
        elif (sample := self._plan.sample()) is not None:
            # The binding is `*.<user>`: a key of a kind of its own matches it, and reaches no client. One sample a
            # probe: all bindings are checked in time.
            routes.append(Route(f"{PROBE}.{sample[0]}", partial(self._plan.binding_exists, *sample)))
        return routes

    async def run(self) -> None:
        """Follow the connected users, once the inbox exists."""
        try:
            while self._selective:
                bindings = self._current_bindings()
                step = self._plan.next_step(_now()) if bindings is not None else None
                if bindings is None or step is None:
                    await self._until_changed()
                else:
                    await self._carry_out(step, bindings)
        except Exception:
            # It is unknown whether the step took effect, and a missing binding loses pushes: only a new inbox is
            # certain.
            self._broker.rebuild("unexpected error of the routing")
            raise
        finally:
            self._forget()  # Release connections that wait for this step.

    async def arrive(self, user: str) -> None:
        """Add a connection, and wait until pushes to its user reach this replica."""
        self._plan.arrive(user, _now())
        self._changed.set()
        # With a future the binding is confirmed, but other nodes may not know it yet.
        if self._plan.reached(user) and user not in self._reached:
            return
        reached = self._reached.setdefault(user, asyncio.get_running_loop().create_future())
        self.waiting += 1
        try:
            await asyncio.wait([reached])  # Not cancelled: others may wait for the same future.
        finally:
            self.waiting -= 1

    def leave(self, user: str) -> None:
        """Remove a connection."""
        self._plan.leave(user, _now())
        self._changed.set()

    # Steps

    async def _carry_out(self, step: Step, bindings: Bindings) -> None:
        until = _now() + self._pause
        try:
            await self._change(step, bindings)
        except BrokerUnavailable:
            # Otherwise the inbox was replaced while the step ran, and its result is about the old one.
            if self._bindings is bindings:
                self._forget()
        except BrokerError as error:
            if self._bindings is bindings:
                self._failed(step, error)
        else:
            if self._bindings is bindings:
                self._plan.done(step, _now())
                self._release_waiting(step)
        # From the start of the step: one that took longer than the pause is not followed by another.
        await asyncio.sleep(until - _now())

    async def _change(self, step: Step, bindings: Bindings) -> None:
        match step.kind:
            case StepKind.BIND:
                await bindings.add(_binding_of(step.user), timeout=_LIMIT)
            case StepKind.UNBIND:
                await bindings.remove(_binding_of(step.user), timeout=_LIMIT)
            case StepKind.CATCH_ALL:
                for key in CATCH_ALLS:
                    await bindings.add(Binding(PUSH, key), timeout=_LIMIT)
                await asyncio.sleep(self._propagation_delay)
            case StepKind.CATCH_NONE:
                await asyncio.sleep(
                    self._propagation_delay
                )  # For the last of the bindings that replace them.
                for key in CATCH_ALLS:
                    await bindings.remove(Binding(PUSH, key), timeout=_LIMIT)

    def _release_waiting(self, step: Step) -> None:
        """Release connections that waited for a step."""
        if step.kind is StepKind.BIND and (reached := self._reached.get(step.user)) is not None:
            # In a cluster other nodes may see a binding a moment later than the node that confirmed it:
            # https://www.rabbitmq.com/docs/metadata-store
            asyncio.get_running_loop().call_later(self._propagation_delay, self._release, step.user, reached)
        elif step.kind is StepKind.CATCH_NONE:
            log.info("routing_selective", users=self._plan.users)
        elif step.kind is StepKind.CATCH_ALL:
            self._fallbacks.add(1)
            log.warning("routing_fallback", reason=step.reason, users=self._plan.users)
            self._release_all()

    def _failed(self, step: Step, error: BrokerError) -> None:
        if step.kind is StepKind.BIND:
            log.warning("binding_failed", error=str(error))
            self._plan.bind_failed(step, _now())
        else:
            # A late removal may hit a binding that is needed by then, or catch-alls may be missing.
            self._forget()
            self._broker.rebuild(f"the bindings of the inbox are uncertain: {error}")

    # Change of inbox

    def _current_bindings(self) -> Bindings | None:
        if self._bindings is None:
            try:
                self._bindings = self._broker.bindings(self._inbox)
            except BrokerUnavailable:
                return None
            self._plan.begin(_now())
        return self._bindings

    def _forget(self) -> None:
        """Forget the lost inbox; the next one has the catch-alls, and clients resume."""
        self._bindings = None
        self._plan.begin(_now())
        self._changed.set()
        self._release_all()

    def _release(self, user: str, reached: "asyncio.Future[None]") -> None:
        # A timer of an older binding must not release connections that wait for a newer one.
        if self._reached.get(user) is reached:
            del self._reached[user]
            reached.set_result(None)

    def _release_all(self) -> None:
        for user, reached in list(self._reached.items()):
            self._release(user, reached)

    async def _until_changed(self) -> None:
        now = _now()
        # Without an inbox no step is due: it is looked for again after a while.
        due = (self._plan.due(now) if self._bindings is not None else None) or now + self._retry
        try:
            async with asyncio.timeout_at(due):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()


class _RoutedConnection:
    """One connection, for its lifetime."""

    __slots__ = ("_routing", "_user")

    def __init__(self, routing: Routing, user: str) -> None:
        self._routing = routing
        self._user = user

    async def __aenter__(self) -> None:
        try:
            await self._routing.arrive(self._user)
        except BaseException:
            # A connection that gave up must not keep its user's binding.
            self._routing.leave(self._user)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._routing.leave(self._user)


def _binding_of(user: str) -> Binding:
    """One binding for ``user.<user>`` and ``control.<user>``: half the bindings, a third of the cost of removal."""
    return Binding(PUSH, f"*.{user}")


def _now() -> float:
    return asyncio.get_running_loop().time()
