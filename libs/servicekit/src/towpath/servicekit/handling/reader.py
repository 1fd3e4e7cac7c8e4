"""Reading: deliveries become requests; what cannot be read is parked.

Guarantees:

* An item that cannot be read is parked with its reason, and does not affect the other items. If enough of it could be
  decoded, its sender gets an error answer.
* A model's validator is the service's own code, and may crash or hang the program. So a delivery that was redelivered
  twice is read in a forked copy first (:mod:`towpath.servicekit.handling.crash_probe`).
* A delivery of commands that no gateway sent is not read, but acked and counted
  (:mod:`towpath.servicekit.messaging.sources`).
* A delivery that is deferred is not read at all: each of its items goes to a retry queue alone, because nothing is
  known about which of them crashes the program.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from typing import Final

from msgspec.structs import replace

from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import join_batch, split_batch
from towpath.servicekit.broker.interface import Delivery, undecodable
from towpath.servicekit.handling.crash_probe import End, run_crash_probe
from towpath.servicekit.handling.decoding import is_command, read_item, unread_command
from towpath.servicekit.handling.requests import HandlerTables, Request, Unreadable
from towpath.servicekit.messaging.dead_letters import DeadLetters
from towpath.servicekit.messaging.failure_headers import ATTEMPT, number
from towpath.servicekit.messaging.sources import REFUSALS
from towpath.servicekit.runtime.error_text import without_frames
from towpath.servicekit.runtime.sampled_log import SampledLog
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
        time_limit: Seconds that reading one item may take in a crash probe.
        watchdog: Entered around the reading of each item.
    """

    def __init__(
        self,
        tables: HandlerTables,
        dead_letters: DeadLetters,
        time_limit: float,
        watchdog: AbstractContextManager[None],
        telemetry: Telemetry,
    ) -> None:
        self._tables = tables
        self._dead_letters = dead_letters
        self._time_limit = time_limit
        self._watchdog = watchdog
        self._telemetry = telemetry
        self._refused = {
            reason: SampledLog(
                "commands_refused",
                telemetry.counter(
                    "commands_refused", "Deliveries of commands that no gateway sent", {"reason": reason}
                ),
            )
            for reason in REFUSALS
        }
        self._received = telemetry.counter("messages_received", "Requests and events taken")

    async def read(self, delivery: Delivery, *, isolated: bool = False, defer: bool = False) -> list[Request]:
        """The requests of a delivery, in their order; returns once everything else is parked or deferred.

        Args:
            isolated: Its requests run on the main path, one after another.
            defer: Do not read it; publish its items to a retry queue.
        """
        sources = self._tables.sources
        if is_command(delivery):
            if (refusal := sources.refusal(delivery)) is not None:
                # Not answered, as who asked is not known, and not parked: a forger must not fill the dead queue.
                self._refused[refusal].add(account=delivery.user_id, routing_key=delivery.routing_key)
                return []
        elif sources.service_of(delivery) == self._tables.service:
            return []
        if (odd := undecodable(delivery)) is not None:
            return await self._take(delivery, [Unreadable(delivery.body, Undecodable(odd))])
        try:
            parts = split_batch(delivery.body)
        except BadEnvelope as error:
            # The body cannot be divided, so its items are unknown: it is parked as a whole.
            return await self._take(delivery, [Unreadable(delivery.body, error)])
        # The bytes are divided, and no model is run: one of them may be the culprit.
        if defer:
            return await self._defer(delivery, parts)
        # Redelivered a second time: the crash probe of the handlers did not help, so a validator may be the culprit.
        found = await self._probe(delivery, parts) if returns(delivery) > 1 else {}
        items = [found.get(n) or self._read_item(delivery, part) for n, part in enumerate(parts)]
        requests = await self._take(delivery, [item for item in items if item is not None])
        return [replace(request, is_isolated=True) for request in requests] if isolated else requests

    def _read_item(self, delivery: Delivery, part: bytes) -> Request | Unreadable | None:
        return read_item(delivery, part, self._tables, self._telemetry, self._watchdog)

    async def _take(self, delivery: Delivery, items: Sequence[Request | Unreadable]) -> list[Request]:
        requests = [item for item in items if isinstance(item, Request)]
        # The usual case, with no further look at the items.
        if len(requests) == len(items):
            self._received.add(len(requests))
            return requests
        requests.clear()
        for item in _joined(items):
            self._received.add(1)
            if isinstance(item, Request):
                requests.append(item)
                continue
            trace = item.answer.traceparent if item.answer else traceparent(delivery)
            # Confirmed before the requests run: the delivery is acked after those, and the item must be in the dead
            # queue by then.
            await self._dead_letters.park(delivery, item.item, item.reason, item.error, trace)
            if item.answer:
                requests.append(item.answer)
        for item in items:
            if isinstance(item, Unreadable):
                without_frames(item.error)
        return requests

    async def _probe(self, delivery: Delivery, parts: Sequence[bytes]) -> dict[int, Unreadable]:
        """The items, by their index, that end a copy of this process when it reads them."""
        found: dict[int, Unreadable] = {}
        first = 0
        while first < len(parts):
            steps = [partial(self._read_item, delivery, part) for part in parts[first:]]
            failed = await run_crash_probe(steps, time_limit=self._time_limit)
            if failed is None:
                break
            culprit = first + failed.step
            answer = unread_command(delivery, parts[culprit], self._telemetry)
            found[culprit] = Unreadable(parts[culprit], CrashesDecoding(failed.how), failed.end, answer)
            # The copy ended at the culprit, and the items behind it were not read: another copy reads on from there.
            first = culprit + 1
        return found

    async def _defer(self, delivery: Delivery, parts: Sequence[bytes]) -> list[Request]:
        """Publish each item to the next retry queue; a command that is parked for good is answered."""
        answers: list[Request] = []
        error = RepeatedlyUnsettled(f"it was redelivered {returns(delivery)} times without being settled")
        for part in parts:
            is_parked = await self._dead_letters.retry(
                delivery, part, error, traceparent(delivery), reason=End.CRASHED
            )
            if is_parked and (answer := unread_command(delivery, part, self._telemetry)):
                answers.append(answer)
        return answers


def _joined(items: Sequence[Request | Unreadable]) -> list[Request | Unreadable]:
    """The same items; neighbours that are unreadable for the same reason, and not answered, become one.

    A careless publisher may send 10,000 of them in one delivery: they cost one parked message.
    """
    joined: list[Request | Unreadable] = []
    for reason, neighbours in groupby(items, key=_reason_without_answer):
        run = list(neighbours)
        if reason is None or len(run) == 1:
            joined += run
            continue
        unreadable = [item for item in run if isinstance(item, Unreadable)]
        error = BadEnvelope(f"{len(run)} items in a row; the first: {unreadable[0].error}")
        joined.append(Unreadable(join_batch([item.item for item in unreadable]), error, reason))
    return joined


def _reason_without_answer(item: Request | Unreadable) -> str | None:
    return item.reason if isinstance(item, Unreadable) and item.answer is None else None


def returns(delivery: Delivery) -> int:
    """How often it was delivered before, as far as the broker reports it.

    A sender may set these headers as well; RabbitMQ sets them, and the flag, on redeliveries.
    https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
    """
    # A publisher can write these headers, but not this flag: a first delivery never counts as redelivered.
    if not delivery.redelivered:
        return 0
    return max(number(delivery.headers, name) for name in _COUNTS)


def needs_isolation(delivery: Delivery) -> bool:
    """Whether it needs isolation, because a crash probe may not find its defect: redelivered twice, or failed
    before."""
    return returns(delivery) > 1 or ATTEMPT in delivery.headers


def traceparent(delivery: Delivery) -> str | None:
    """The trace context of the delivery as a whole."""
    header = delivery.headers.get("traceparent")
    return header if isinstance(header, str) else None
