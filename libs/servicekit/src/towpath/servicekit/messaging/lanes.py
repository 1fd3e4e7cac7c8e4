"""Lanes: self-batching publishes, one lane per routing key.

A lane has one publish in flight; items that arrive meanwhile are published together as one JSON array. An idle lane
publishes a batch of one without added delay; under load, batches grow as far as the broker lags behind.

Guarantees: order within a lane is the order of :meth:`Lanes.post`; the callback of an item is called once with its
result, within the publish timeout of its batch, and at once if the broker is lost or blocked while the item still
waits; a full lane, or a broker that is disconnected or blocked, raises at once. An empty lane is deleted and costs
nothing. An unpublishable item fails alone, whatever else is in its batch.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Final

import structlog

from towpath.protocol.messages import join_batch
from towpath.servicekit.broker.interface import (
    Broker,
    BrokerBlocked,
    BrokerError,
    BrokerState,
    BrokerUnavailable,
    Message,
    PublishUnconfirmed,
    Unpublishable,
)
from towpath.servicekit.broker.limits import too_large
from towpath.servicekit.runtime import conventions
from towpath.servicekit.runtime.loops import keep_running
from towpath.servicekit.runtime.settings import BrokerSettings
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

#: Seconds between two looks at the broker's state, for items that wait while it is lost or blocked.
_STATE_CHECK: Final = 0.25
_NO_SPAN: Final[AbstractContextManager[object]] = nullcontext()


class LaneFull(BrokerError):
    """Too much waits for this routing key, or for all keys of the exchange."""


#: Called once: with ``None`` when the broker has confirmed the item, or with the error.
OnConfirm = Callable[[BrokerError | None], None]
_Waiting = tuple[bytes, OnConfirm, str | None]


class _Lane:
    __slots__ = ("items", "task")

    def __init__(self) -> None:
        self.items: deque[_Waiting] = deque()
        self.task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneKind:
    """Properties that all messages of some lanes share.

    Attributes:
        app_id: The program that publishes them (an AMQP property).
        persistent: Whether they must survive a restart of the broker.
        mandatory: Whether an item whose key no queue is bound to fails with ``Unroutable``.
        headers: AMQP headers of every message.
    """

    app_id: str
    persistent: bool
    mandatory: bool
    headers: Mapping[str, str] = field(default_factory=dict)


class Lanes:
    """The lanes of one exchange; made with :meth:`open`."""

    def __init__(
        self, broker: Broker, exchange: str, kind: LaneKind, settings: BrokerSettings, telemetry: Telemetry
    ) -> None:
        self._broker = broker
        self._exchange = exchange
        self._kind = kind
        self._settings = settings
        self._lanes: dict[str, _Lane] = {}
        self._bytes = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._telemetry = telemetry
        labels = {"exchange": exchange}
        self._sent = telemetry.counter("messages_published", "Messages the broker confirmed", labels)
        self._batches = telemetry.counter("batches_published", "AMQP messages the broker confirmed", labels)
        self._failed = telemetry.counter("messages_unpublished", "Messages the broker did not take", labels)
        self._confirm = telemetry.histogram("publish_confirm", "Time from publish to confirm", labels)
        self._sizes = telemetry.sizes("batch_messages", "Envelopes in one confirmed AMQP message", labels)
        telemetry.gauge(
            "lane_waiting",
            "Envelopes that wait to be published, behind those in flight",
            lambda: sum(len(lane.items) for lane in self._lanes.values()),
            labels,
            adds=True,
        )

    @classmethod
    @asynccontextmanager
    async def open(
        cls, broker: Broker, exchange: str, kind: LaneKind, settings: BrokerSettings, telemetry: Telemetry
    ) -> AsyncIterator["Lanes"]:
        """Lanes; flushed on exit within twice the publish timeout, not flushed when cancelled."""
        lanes = cls(broker, exchange, kind, settings, telemetry)
        watcher = asyncio.create_task(lanes._watch(), name=f"lanes {exchange}: watch")
        try:
            try:
                yield lanes
            except Exception:
                await lanes.flush()
                raise
            await lanes.flush()
        finally:
            lanes._fail_waiting(BrokerUnavailable("the program stops"))
            watcher.cancel()
            for lane in list(lanes._lanes.values()):
                if lane.task is not None:
                    lane.task.cancel()

    def post(
        self, routing_key: str, item: bytes, on_confirm: OnConfirm, traceparent: str | None = None
    ) -> None:
        """Queue one JSON text; ``on_confirm`` is called later, never within this call.

        Raises:
            LaneFull, BrokerUnavailable, BrokerBlocked, Unpublishable: Nothing was queued.
        """
        if len(item) > self._settings.message_max_bytes:
            raise too_large(len(item), self._settings.message_max_bytes)
        state = self._broker.state
        if state is not BrokerState.READY:
            # At once, and with nothing queued: the caller decides. A queue of messages here would hide the outage
            # and grow with it.
            raise _refusal(state)
        lane = self._lanes.get(routing_key)
        if lane is None:
            lane = self._lanes[routing_key] = _Lane()
            self._idle.clear()
            # The task takes its first batch in the next iteration of the loop: items posted in this one share it.
            lane.task = asyncio.create_task(self._pump(routing_key, lane), name=f"lane {routing_key}")
        # A bound per key, as one slow or hot key must not take the room of all. It limits what waits, and with that
        # the time that a new item would wait.
        elif len(lane.items) >= self._settings.lane_max_items:
            raise LaneFull(f"{len(lane.items)} messages wait for {routing_key!r} already")
        # One item always fits, or a bound below the size of a message would refuse that message for ever.
        if self._bytes and self._bytes + len(item) > self._settings.lane_max_bytes:
            raise LaneFull(f"{self._bytes} bytes wait for {self._exchange!r} already")
        lane.items.append((item, on_confirm, traceparent))
        self._bytes += len(item)

    def send(self, routing_key: str, item: bytes, traceparent: str | None = None) -> asyncio.Future[None]:
        """Like :meth:`post`, but returns a future: resolved by the confirm, or failed with a ``BrokerError``."""
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.post(routing_key, item, partial(resolve_future, confirmed), traceparent)
        return confirmed

    async def flush(self) -> None:
        """Wait until nothing waits or is in flight; at most twice the publish timeout."""
        try:
            async with asyncio.timeout(2 * self._settings.publish_timeout):
                await self._idle.wait()
        except TimeoutError:
            self._fail_waiting(BrokerUnavailable("the program stops, and the broker did not answer in time"))

    async def _pump(self, routing_key: str, lane: _Lane) -> None:
        # No timer: while one publish waits for its confirm, the next batch gathers. So the slower the broker, the
        # larger the batches, and an idle lane waits for nothing.
        try:
            while lane.items:
                # One publish in flight per key: with more, a returned or refused one in the middle would change the
                # order (ADR 1). A confirm arrives per message, not per item.
                # https://www.rabbitmq.com/docs/confirms#publisher-confirms
                batch = self._take(lane)
                await self._publish(routing_key, batch)
        finally:
            # Between the last look at `lane.items` and this line nothing is awaited, so no item is posted to a lane
            # that ends.
            del self._lanes[routing_key]
            if not self._lanes:
                self._idle.set()

    def _take(self, lane: _Lane) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while lane.items and len(batch) < self._settings.batch_max_items:
            length = len(lane.items[0][0])
            # The first item always fits: `post` has refused what the broker would not take.
            if batch and size + length > self._settings.batch_max_bytes:
                break
            size += length
            batch.append(lane.items.popleft())
        self._bytes -= size
        return batch

    async def _publish(self, routing_key: str, batch: list[_Waiting]) -> None:
        kind = self._kind
        # AMQP has one set of headers per message: a batch is traced as its first traced item.
        traceparent = next((trace for _, _, trace in batch if trace), None)
        body = join_batch([item for item, _, _ in batch])
        message = Message(
            body=body,
            persistent=kind.persistent,
            type="batch" if len(batch) > 1 else "envelope",
            app_id=kind.app_id,
            headers={**kind.headers, "traceparent": traceparent} if traceparent else kind.headers,
        )
        started = perf_counter()
        try:
            with self._span(batch, len(body)) if traceparent else _NO_SPAN:
                await self._broker.publish(self._exchange, routing_key, message, mandatory=kind.mandatory)
        except BaseException as error:
            if isinstance(error, Unpublishable) and error.of_content and len(batch) > 1:
                # The broker refuses the whole body and does not say which item is the reason. Halves, in order, until
                # only such items are refused: log2(n) publishes for each of them.
                middle = len(batch) // 2
                await self._publish(routing_key, batch[:middle])
                await self._publish(routing_key, batch[middle:])
                return
            self._failed.add(len(batch))
            # Not published again here: an unconfirmed batch may have arrived, and only the caller knows whether a
            # duplicate is harmless.
            cause = (
                error if isinstance(error, BrokerError) else PublishUnconfirmed(f"not confirmed: {error!r}")
            )
            _resolve(batch, cause)
            # Cancelled: the callbacks were called first, so no caller waits for ever.
            if not isinstance(error, Exception):
                raise
        else:
            self._confirm.record(perf_counter() - started)
            self._sent.add(len(batch))
            self._batches.add(1)
            self._sizes.record(len(batch))
            _resolve(batch, None)

    def _span(self, batch: list[_Waiting], size: int) -> AbstractContextManager[object]:
        traces = self._telemetry.recorded(trace for _, _, trace in batch)
        if not traces:
            return _NO_SPAN
        return self._telemetry.batch(
            conventions.publish(self._exchange),
            traces,
            conventions.PRODUCER,
            conventions.sending(self._exchange, len(batch), size),
        )

    async def _watch(self) -> None:
        await keep_running(f"lanes {self._exchange}", self._look_at_broker, pause=_STATE_CHECK)

    async def _look_at_broker(self) -> None:
        # Items that wait behind a publish hanging in a blocked broker fail at once: they were not sent, so their
        # callers may decide now, while the one in flight is unknown until its time limit.
        if self._lanes and self._broker.state is not BrokerState.READY:
            self._fail_waiting(_refusal(self._broker.state))

    def _fail_waiting(self, error: BrokerError) -> None:
        for lane in self._lanes.values():
            # The batch in flight is not among them: its own publish ends with a confirm, or at its time limit.
            waiting = list(lane.items)
            lane.items.clear()
            self._bytes -= sum(len(item) for item, _, _ in waiting)
            self._failed.add(len(waiting))
            _resolve(waiting, error)


def _refusal(state: BrokerState) -> BrokerError:
    if state is BrokerState.BLOCKED:
        return BrokerBlocked("the broker takes no messages for now (memory or disk alarm)")
    return BrokerUnavailable("there is no connection to the broker")


def _resolve(items: Iterable[_Waiting], error: BrokerError | None) -> None:
    """Call each item's callback; a callback that raises does not stop the others."""
    for _, on_confirm, _ in items:
        try:
            on_confirm(error)
        except Exception:
            log.exception("confirm_callback_failed")


def resolve_future(confirmed: "asyncio.Future[None]", error: BrokerError | None) -> None:
    """Resolve a future with the result of a publish."""
    if confirmed.done():
        return
    if error is None:
        confirmed.set_result(None)
    else:
        confirmed.set_exception(error)
