"""Routing: what leads into the inbox of this replica, and how that follows who is here.

``everything``: all pushes come to every replica, and local tables say whose they are. ``selective``: once it is
calm, ``user.*`` and ``control.*`` give way to one binding for each user who is here, ``*.<user>``; a push to somebody
else then costs this replica nothing. ``group.*`` always stays: that somebody is put into a group is told in this very
inbox, and what is pushed next would be lost before a binding stood.

Guarantees: a connection is welcomed once what is pushed to its user comes here, and as long as it is here it does
(:mod:`~towpath.gateway.routing_plan`); while everything comes here nobody waits, and otherwise a few seconds at
worst; bindings change at a bounded rate. A fresh inbox has the catch-alls, and one of which nobody knows any more
what is bound to it is given up for a fresh one. Local tables stay the truth: bindings spare traffic, and grant
nothing.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from towpath.gateway.routing_plan import Do, Plan, Step
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.routes import EVENTS, EVERYONE, PUSH, SERVICE_ALIVE, connection_key, encode_word
from towpath.servicekit.broker.interface import (
    Binding,
    Bindings,
    Broker,
    BrokerError,
    BrokerUnavailable,
    Inbox,
)
from towpath.servicekit.telemetry import Telemetry

log = structlog.get_logger(__name__)

#: What single bindings stand in for.
_CATCH_ALLS: Final = ("user.*", "control.*")
#: No right key has three words: a dot in an id is encoded. So these only bring pushes whose sender left a dot as it
#: is, to be counted and logged. Other wrong spellings come with the catch-alls.
_TOO_MANY_WORDS: Final = tuple(f"{kind}.*.*.#" for kind in ("user", "group", "control"))
#: Seconds until a user who waits for a binding is one too many, and until the broker must have changed one.
_PATIENCE: Final = 1.0
_LIMIT: Final = 2.0

_AT_ONCE: Final[AbstractAsyncContextManager[None]] = nullcontext()


def inbox(gateway_id: str) -> Inbox:
    """The queue of one replica: with catch-alls, so that it is right from the first moment."""
    keys = (connection_key(gateway_id), EVERYONE, "group.*", *_CATCH_ALLS, *_TOO_MANY_WORDS)
    bindings = [*(Binding(PUSH, key) for key in keys), Binding(EVENTS, SERVICE_ALIVE)]
    return Inbox(name=f"gateway.{gateway_id}", bindings=bindings)


@dataclass(frozen=True, slots=True)
class Way:
    """A routing key that leads here.

    Attributes:
        holds: Whether it has done so ever since.
    """

    key: str
    holds: Callable[[], bool]


class Routing:
    """Keeps the bindings of ``inbox``; :meth:`run` does it."""

    def __init__(self, broker: Broker, inbox: Inbox, settings: GatewaySettings, telemetry: Telemetry) -> None:
        self._broker = broker
        self._inbox = inbox
        self._selective = settings.routing == "selective"
        self._pause = 1 / settings.routing_binds_per_second
        self._settle = settings.routing_settle
        self._retry = settings.routing_calm
        self._plan = Plan(
            most=settings.routing_bindings_max,
            waiting_most=int(_PATIENCE * settings.routing_binds_per_second),
            patience=_PATIENCE,
            linger=settings.routing_linger,
            calm=settings.routing_calm,
        )
        self._bindings: Bindings | None = None
        self._news = asyncio.Event()
        self._reached: dict[str, asyncio.Future[None]] = {}
        self.waiting = 0  #: Connections that wait to be reached
        self._fallbacks = telemetry.counter(
            "routing_fallbacks", "Times that catch-alls had to be bound again"
        )
        telemetry.gauge("routing_user_bindings", "Bindings of single users", lambda: self._plan.bindings)
        telemetry.gauge("routing_waiting", "Connections that wait for a binding", lambda: self.waiting)
        telemetry.gauge(
            "routing_everything",
            "1 while pushes to all users come here",
            lambda: int(not self._plan.selective),
        )
        broker.on_rebuilt(self._forget)

    def reaching(self, user_id: str) -> AbstractAsyncContextManager[None]:
        """Inside, pushes to this user come here; entry waits for that."""
        return _Reaching(self, encode_word(user_id)) if self._selective else _AT_ONCE

    def ways(self, nobody: str) -> list[Way]:
        """The ways into the inbox; of the bindings of single users one.

        Args:
            nobody: A word that is no user's and no group's.
        """
        ways = [Way(f"group.{nobody}", lambda: True)]
        if self._plan.everything:
            turns = self._plan.turns
            ways += [
                Way(f"{kind}.{nobody}", lambda: self._plan.turns == turns) for kind in ("user", "control")
            ]
        elif (sample := self._plan.sample()) is not None:
            # What goes to a user reaches the connections. A directed item that says nothing does not.
            ways.append(Way(f"control.{sample[0]}", partial(self._plan.stands, *sample)))
        return ways

    async def run(self) -> None:
        """Follow who is here, from the moment that the inbox stands on."""
        try:
            while self._selective:
                bindings = self._standing()
                step = self._plan.take(_now()) if bindings is not None else None
                if bindings is None or step is None:
                    await self._until_news()
                else:
                    await self._carry_out(step, bindings)
        except Exception:
            # The step may have been done or not, and a wrong binding loses pushes: only a fresh inbox is certain.
            self._broker.rebuild("the routing failed in a way nobody expected")
            raise
        finally:
            self._forget()  # nobody waits for what will not be done

    async def arrive(self, user: str) -> None:
        """Count a connection in, and wait until pushes to its user come here."""
        self._plan.arrive(user, _now())
        self._news.set()
        if self._plan.reached(user) and user not in self._reached:
            return
        reached = self._reached.setdefault(user, asyncio.get_running_loop().create_future())
        self.waiting += 1
        try:
            await asyncio.wait([reached])  # others may wait for the same: it is not to be cancelled
        finally:
            self.waiting -= 1

    def leave(self, user: str) -> None:
        """Count a connection out."""
        self._plan.leave(user, _now())
        self._news.set()

    # Steps

    async def _carry_out(self, step: Step, bindings: Bindings) -> None:
        until = _now() + self._pause
        try:
            await self._change(step, bindings)
        except BrokerUnavailable:
            if self._bindings is bindings:
                self._forget()
        except BrokerError as error:
            if self._bindings is bindings:
                self._failed(step, error)
        else:
            if self._bindings is bindings:
                self._plan.done(step, _now())
                self._tell(step)
        await asyncio.sleep(until - _now())

    async def _change(self, step: Step, bindings: Bindings) -> None:
        match step.do:
            case Do.BIND:
                await bindings.add(_binding_of(step.user), timeout=_LIMIT)
            case Do.UNBIND:
                await bindings.remove(_binding_of(step.user), timeout=_LIMIT)
            case Do.CATCH_ALL:
                for key in _CATCH_ALLS:
                    await bindings.add(Binding(PUSH, key), timeout=_LIMIT)
                await asyncio.sleep(self._settle)
            case Do.CATCH_NONE:
                await asyncio.sleep(self._settle)  # for the last of the bindings that replace them
                for key in _CATCH_ALLS:
                    await bindings.remove(Binding(PUSH, key), timeout=_LIMIT)

    def _tell(self, step: Step) -> None:
        """Let those go on who waited for a step."""
        if step.do is Do.BIND and (reached := self._reached.get(step.user)) is not None:
            # In a cluster other nodes may know of a binding a moment later than the one that confirmed it:
            # https://www.rabbitmq.com/docs/metadata-store
            asyncio.get_running_loop().call_later(self._settle, self._release, step.user, reached)
        elif step.do is Do.CATCH_NONE:
            log.info("routing_selective", users=self._plan.users)
        elif step.do is Do.CATCH_ALL:
            self._fallbacks.add(1)
            log.warning("routing_fell_back", reason=step.reason, users=self._plan.users)
            self._release_all()

    def _failed(self, step: Step, error: BrokerError) -> None:
        if step.do is Do.BIND:
            log.warning("binding_failed", error=str(error))
            self._plan.bind_failed(step, _now())
        else:
            # A binding may be removed late that is counted on by then, or catch-alls may be missing.
            self._forget()
            self._broker.rebuild(f"nobody knows what the inbox is bound to: {error}")

    # One inbox after another

    def _standing(self) -> Bindings | None:
        if self._bindings is None:
            try:
                self._bindings = self._broker.bindings(self._inbox)
            except BrokerUnavailable:
                return None
            self._plan.begin(_now())
        return self._bindings

    def _forget(self) -> None:
        """The inbox is gone; the next one has the catch-alls, and clients are told to resume."""
        self._bindings = None
        self._plan.begin(_now())
        self._news.set()
        self._release_all()

    def _release(self, user: str, reached: "asyncio.Future[None]") -> None:
        if self._reached.get(user) is reached:
            del self._reached[user]
            reached.set_result(None)

    def _release_all(self) -> None:
        for user, reached in list(self._reached.items()):
            self._release(user, reached)

    async def _until_news(self) -> None:
        now = _now()
        due = (self._plan.due(now) if self._bindings is not None else None) or now + self._retry
        try:
            async with asyncio.timeout_at(due):
                await self._news.wait()
        except TimeoutError:
            return
        self._news.clear()


class _Reaching:
    """One connection, for as long as it is here."""

    __slots__ = ("_routing", "_user")

    def __init__(self, routing: Routing, user: str) -> None:
        self._routing = routing
        self._user = user

    async def __aenter__(self) -> None:
        try:
            await self._routing.arrive(self._user)
        except BaseException:
            self._routing.leave(self._user)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._routing.leave(self._user)


def _binding_of(user: str) -> Binding:
    """Both ``user.<user>`` and ``control.<user>``: half the bindings, and a third of what their end costs."""
    return Binding(PUSH, f"*.{user}")


def _now() -> float:
    return asyncio.get_running_loop().time()
