"""Publishing the results of a finished batch, in order, until the broker has confirmed all of them.

Guarantees: membership changes are published first, and replays are read only after they are confirmed, so that no
entry
is missed: an entry committed after the read is pushed after the subscription. A delivery is acked only when all its
messages are confirmed; unconfirmed messages are published again. The results of heavy reads are published in pages:
each page after the confirms of the one before.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import sqlalchemy as sa
import structlog
from msgspec.structs import replace

from towpath.protocol.envelope import write
from towpath.protocol.errors import TowpathError
from towpath.protocol.messages import NO_JSON, Directed, Session, split_directed
from towpath.servicekit.broker.interface import BrokerError, Delivery
from towpath.servicekit.handling.outcome import Outcome, answer_data, with_texts
from towpath.servicekit.handling.requests import Request
from towpath.servicekit.messaging.confirms import PendingConfirms
from towpath.servicekit.messaging.lanes import LaneFull
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.runtime.backoff import attempts
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.storage.leaves import ConfirmedLeaves
from towpath.servicekit.storage.replays import PAGE_BYTES, PAGE_ENTRIES, Replays
from towpath.servicekit.storage.stored_outcome import StoredOutcome
from towpath.servicekit.storage.streams import Replay
from towpath.servicekit.storage.withheld import EntryId

log = structlog.get_logger(__name__)

_LANE_PAUSE: Final = 0.02
#: The broker is disconnected, or the database cannot be reached while entries are replayed.
PUBLISH_ERRORS: Final = (BrokerError, sa.exc.SQLAlchemyError, OSError)


@dataclass(slots=True)
class Result:
    """The result of one request, to be published.

    Attributes:
        session: The session of the asking client; ``None`` for an event.
        outcome: The handler's return value, if it ran in this batch.
        answer_only: A client's repetition: its pushes were published before.
        changed: It changed state, so membership changes apply to the user's other connections too.
        is_temporary: Refused with a temporary error: the inbox does not store it, and a repetition is handled again.
        park: The error of a refused event, which is parked.
        as_of: The number of its membership changes, see :mod:`towpath.servicekit.storage.group_numbers`.
    """

    session: Session | None
    stored: StoredOutcome
    traceparent: str
    request: Request | None = None
    outcome: Outcome | None = None
    answer_only: bool = False
    changed: bool = False
    is_temporary: bool = False
    park: TowpathError | None = None
    as_of: int = 0


class SharedAck:
    """Acks a delivery once all its holders have released it: its heavy reads finish separately."""

    __slots__ = ("_delivery", "_holders")

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._holders = 1

    def hold(self) -> None:
        """Add a holder."""
        self._holders += 1

    def release(self) -> None:
        """Remove a holder; the last one acks."""
        self._holders -= 1
        if not self._holders:
            self._delivery.ack()


class Publishing:
    """Publishes results.

    Args:
        replays: Reads stream entries; ``None`` for a service without streams.
        confirmed: Records the leaves that RabbitMQ has confirmed.
    """

    def __init__(
        self, publisher: Publisher, replays: Replays | None, confirmed: ConfirmedLeaves | None = None
    ) -> None:
        self._publisher = publisher
        self._confirmed = confirmed
        self._replays = replays

    async def publish(
        self, results: Sequence[Result], confirms: PendingConfirms, *, again: bool = False
    ) -> None:
        """Queue all messages of ``results``, in order.

        Args:
            again: A repeated publish: fields may have been withheld since.

        Raises:
            PUBLISH_ERRORS: Not all messages are queued.
        """
        await self._subscribe(results)
        starts = _starts(results)
        replays: Sequence[dict[str, Replay]] = [{} for _ in results]
        if self._replays is not None and any(starts):
            replays = await self._replays.small(starts)
        publisher = self._publisher
        stored = await self._stored(results, again=again)
        for result, replayed in zip(results, replays, strict=True):
            if not result.answer_only:
                for item in with_texts(result.stored.outgoing, stored):
                    await _queue(confirms, partial(publisher.post, item, confirms.resolve))
            if (session := result.session) is not None:
                for directed in _directed(result, session, replayed):
                    post = partial(publisher.direct, session, directed, confirms.resolve, result.traceparent)
                    await _queue(confirms, post)

    async def publish_in_pages(self, results: Sequence[Result], wanted: Callable[[Session], bool]) -> None:
        """Publish the results of heavy reads, page by page, until the broker has confirmed all of them.

        Args:
            wanted: Whether answers should still be prepared for a session.

        Raises:
            PUBLISH_ERRORS: Not all messages are confirmed.
        """
        await self._subscribe(results)
        starts = [result.stored.replay for result in results]
        replaying = [n for n, positions in enumerate(starts) if positions and self._replays is not None]
        pages = _PagedPublisher(self._publisher)
        for n, result in enumerate(results):
            if n not in replaying:
                await pages.publish(result, {})
        if self._replays is not None and replaying:
            async for part in self._replays.parts([starts[n] for n in replaying]):
                for n, replayed in part.items():
                    result = results[replaying[n]]
                    if result.session is None or wanted(result.session):
                        await pages.publish(result, replayed)
        await pages.confirmed()

    async def _stored(self, results: Sequence[Result], *, again: bool) -> Mapping[EntryId, bytes | None]:
        """Current texts of pushes that may have changed since; ``None`` for entries that no stream has any more.

        Reads nothing if all ``results`` are new.
        """
        wanted = {
            (item.stream, item.seq)
            for result in results
            if (again or result.outcome is None) and not result.answer_only
            for item in result.stored.outgoing
            if item.stream
        }
        if not wanted or self._replays is None:
            return {}
        return dict.fromkeys(wanted) | await self._replays.pushes(wanted)

    async def _subscribe(self, results: Sequence[Result]) -> None:
        """Publish membership changes, and wait for their confirms.

        Replays are read only after that. So no entry is missed: an entry committed after the read is pushed after the
        subscription.
        """
        confirms = PendingConfirms()
        for result in results:
            settled = result.stored
            if not settled.changes_groups:
                continue
            for leave in settled.leaves:
                out = Directed(unsubscribe=[leave.group], as_of=result.as_of)
                await _queue(confirms, partial(self._publisher.control, leave.user_id, out, confirms.resolve))
            item = Directed(
                subscribe=settled.subscribe,
                unsubscribe=settled.unsubscribe,
                as_of=result.as_of,
                complete=settled.complete,
            )
            target = (result.outcome.connection if result.outcome else None) or result.session
            if target is not None:
                mine = replace(item, connection_id=target.connection_id, inbox=target.inbox)
                for part in split_directed(mine):
                    await _queue(confirms, partial(self._publisher.direct, target, part, confirms.resolve))
            if result.changed and result.session is not None:
                user_id = result.session.user_id
                for part in split_directed(item):
                    await _queue(confirms, partial(self._publisher.control, user_id, part, confirms.resolve))
        await confirms.confirmed()
        if self._confirmed is not None:
            self._confirmed.add(leave for result in results for leave in result.stored.leaves)

    async def complete(
        self, deliveries: Sequence[SharedAck], results: Sequence[Result], confirms: PendingConfirms
    ) -> None:
        """Wait for the confirms of :meth:`publish`, publish unconfirmed results again, and release ``deliveries``."""
        # Committed but not confirmed: published again until the broker confirms. If the connection was lost
        # meanwhile, the deliveries are stale; they are redelivered, and published once more from the inbox.
        async for _ in attempts():
            try:
                await confirms.confirmed()
                break
            except BrokerError as error:
                log.warning("not_published", deliveries=len(deliveries), error=describe_error(error, 300))
            confirms = PendingConfirms()
            try:
                await self.publish(results, confirms, again=True)
            except PUBLISH_ERRORS as error:
                confirms.fail(error)
        for delivery in deliveries:
            delivery.release()


def answer_json(request: Request, outcome: Outcome, replays: Mapping[str, Replay], trace: str) -> msgspec.Raw:
    answer = outcome.answer(replays) if callable(outcome.answer) else outcome.answer
    if request.session is None:
        return NO_JSON
    return msgspec.Raw(
        write(
            f"{request.envelope.action}.ok",
            {} if answer is None else answer_data(answer),  # Every command gets an answer.
            correlation_id=request.envelope.msg_id,
            traceparent=trace,
        )
    )


class _PagedPublisher:
    """Queues items for connections, and waits for the broker's confirms after each page of them."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._receipt = PendingConfirms()
        self._items = self._bytes = 0

    async def publish(self, result: Result, replays: Mapping[str, Replay]) -> None:
        session, confirms = result.session, self._receipt
        if session is None:
            return
        for item in _directed(result, session, replays):
            post = partial(self._publisher.direct, session, item, confirms.resolve, result.traceparent)
            await _queue(confirms, post)
            self._items += 1
            self._bytes += len(item.envelope)
            if self._items >= PAGE_ENTRIES or self._bytes >= PAGE_BYTES:
                await self.confirmed()

    async def confirmed(self) -> None:
        self._items = self._bytes = 0
        await self._receipt.confirmed()


def _directed(result: Result, session: Session, replays: Mapping[str, Replay]) -> Iterator[Directed]:
    """The replayed entries and the answer, for the asking connection."""
    settled = result.stored
    for stream in replays.values():
        for entry in stream.entries:
            yield Directed(connection_id=session.connection_id, envelope=msgspec.Raw(entry))
    answer = settled.answer
    if not answer and result.request is not None and result.outcome is not None:
        answer = answer_json(result.request, result.outcome, replays, result.traceparent)
    if answer:
        yield Directed(connection_id=session.connection_id, envelope=answer)


async def _queue(confirms: PendingConfirms, post: Callable[[], None]) -> None:
    """Queue one item, waiting for room while a lane is full."""
    while True:
        try:
            post()
        except LaneFull:
            await asyncio.sleep(_LANE_PAUSE)
        else:
            confirms.expect()
            return


def _starts(results: Sequence[Result]) -> list[Mapping[str, int]]:
    """The positions from which each result is replayed.

    Entries that this batch pushes after the subscription are not replayed as well: else a thousand users who join a
    room together would each receive all others twice. (An answer that depends on the replay needs all of it.)
    """
    if not any(result.stored.replay for result in results):
        return [{} for _ in results]
    pushed: dict[str, set[int]] = {}
    for result in results:
        for item in () if result.answer_only else result.stored.outgoing:
            if item.stream:
                pushed.setdefault(item.stream, set()).add(item.seq)
    last: dict[tuple[str, int], int] = {}
    for stream, seqs in pushed.items():
        for seq in sorted(seqs, reverse=True):
            last[stream, seq] = last.get((stream, seq + 1), seq)
    return [
        {stream: last.get((stream, seq + 1), seq) for stream, seq in result.stored.replay.items()}
        if result.stored.answer
        else result.stored.replay
        for result in results
    ]
