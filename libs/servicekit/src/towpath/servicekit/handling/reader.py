"""Reading: deliveries become requests; content that may crash or hang the program is isolated first.

Guarantees:

* An unreadable item is returned as :class:`Unreadable` with its reason, and does not affect the other items.
* A delivery that was redelivered often without being settled is not read: each of its items is retried alone and
  later.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Final

from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import join_batch, split_batch
from towpath.servicekit.broker.interface import Delivery, undecodable
from towpath.servicekit.handling import requests
from towpath.servicekit.handling.crash_probe import End, run_crash_probe
from towpath.servicekit.handling.requests import Handlers, Refusal, Request, Unreadable
from towpath.servicekit.messaging.dead_letters import DeadLetters
from towpath.servicekit.messaging.failure_headers import ATTEMPT, number
from towpath.servicekit.runtime.telemetry import Telemetry

_COUNTS: Final = ("x-delivery-count", "x-acquired-count")


class CrashesDecoding(Exception):
    """Reading the item crashes or hangs the program."""


class Undecodable(Exception):
    """The driver could not decode the properties, headers or routing key."""


class RepeatedlyUnsettled(Exception):
    """The program crashed, or lost the broker, several times while this delivery was unsettled."""


class Reader:
    """Reads deliveries.

    Args:
        commands: The service's table of actions.
        events: Its table of events on ``towpath.events``.
        time_limit: Seconds that reading one item may take in a crash probe.
        watched: Entered around the reading of each item.
    """

    def __init__(
        self,
        commands: Handlers,
        events: Handlers,
        dead_letters: DeadLetters,
        telemetry: Telemetry,
        *,
        time_limit: float,
        watched: AbstractContextManager[None] | None = None,
    ) -> None:
        self._commands = commands
        self._events = events
        self._dead_letters = dead_letters
        self._telemetry = telemetry
        self._time_limit = time_limit
        self._watched = watched or nullcontext()

    async def read(self, delivery: Delivery, *, defer: bool = False) -> list[Request | Refusal | Unreadable]:
        """The items of a delivery, in their order.

        Args:
            defer: Do not read it: defer it.
        """
        if (odd := undecodable(delivery)) is not None:
            return [Unreadable(delivery, delivery.body, Undecodable(odd))]
        try:
            parts = split_batch(delivery.body)
        except BadEnvelope as error:
            return [Unreadable(delivery, delivery.body, error)]
        times = returns(delivery)
        if defer:
            return await self._defer(delivery, parts, times)
        # Redelivered a second time: the crash probe of the handlers did not help. A model's validator may be the
        # culprit.
        found = await self._try_reading(delivery, parts) if times > 1 else {}
        items = (found.get(n) or self._read_item(delivery, part) for n, part in enumerate(parts))
        return _joined([item for item in items if item is not None])

    def _read_item(self, delivery: Delivery, part: bytes) -> Request | Refusal | Unreadable | None:
        return requests.read_item(
            delivery, part, self._commands, self._events, self._telemetry, self._watched
        )

    async def _try_reading(self, delivery: Delivery, parts: Sequence[bytes]) -> dict[int, Unreadable]:
        found: dict[int, Unreadable] = {}
        first = 0
        while first < len(parts):
            steps = [partial(self._read_item, delivery, part) for part in parts[first:]]
            fell = await run_crash_probe(steps, time_limit=self._time_limit)
            if fell is None:
                break
            at = first + fell.step
            refusal = requests.refusal(delivery, parts[at], self._telemetry)
            found[at] = Unreadable(delivery, parts[at], CrashesDecoding(fell.how), fell.end, refusal)
            first = at + 1
        return found

    async def _defer(
        self, delivery: Delivery, parts: Sequence[bytes], times: int
    ) -> list[Request | Refusal | Unreadable]:
        """Defer each item, alone, because nothing else is known about which one crashes the program."""
        refusals: list[Request | Refusal | Unreadable] = []
        for part in parts:
            error = RepeatedlyUnsettled(f"it came back {times} times without being settled")
            parked = await self._dead_letters.retry(
                delivery, part, error, traceparent(delivery), reason=End.CRASHED
            )
            if parked and (refusal := requests.refusal(delivery, part, self._telemetry)):
                refusals.append(refusal)
        return refusals


def _joined(
    items: Sequence[Request | Refusal | Unreadable],
) -> list[Request | Refusal | Unreadable]:
    """The same items, with consecutive items that are unreadable for the same reason joined, to be parked as one."""
    joined: list[Request | Refusal | Unreadable] = []
    run: list[Unreadable] = []
    for item in items:
        if (
            isinstance(item, Unreadable)
            and item.refusal is None
            and (not run or run[0].reason == item.reason)
        ):
            run.append(item)
            continue
        joined += _as_one(run)
        run = []
        if isinstance(item, Unreadable) and item.refusal is None:
            run.append(item)
        else:
            joined.append(item)
    return joined + _as_one(run)


def _as_one(run: Sequence[Unreadable]) -> list[Unreadable]:
    if len(run) < 2:
        return list(run)
    first = run[0]
    error = BadEnvelope(f"{len(run)} items in a row; the first: {first.error}")
    return [Unreadable(first.delivery, join_batch([one.item for one in run]), error, first.reason)]


def returns(delivery: Delivery) -> int:
    """How often it was delivered before, as far as the broker reports it.

    A sender may set these headers as well; RabbitMQ sets them, and the flag, on redeliveries.
    https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
    """
    if not delivery.redelivered:
        return 0
    return max(number(delivery.headers, name) for name in _COUNTS)


def needs_isolation(delivery: Delivery) -> bool:
    """Whether it needs isolation, because a crash probe may not find its defect: redelivered twice, or failed
    before."""
    return returns(delivery) > 1 or ATTEMPT in delivery.headers


def traceparent(delivery: Delivery) -> str | None:
    """The trace context of the delivery as a whole."""
    told = delivery.headers.get("traceparent")
    return told if isinstance(told, str) else None
