"""Publishing: what follows from a unit of work goes out in order, until the broker has confirmed all of it.

The order: leaves and group changes, and their confirms; then for each request its pushes and events, the replayed
stream entries, and its answer. Replays are read only after the confirms of the group changes (subscribe, then read;
docs/adr/0003): so no entry is missed, because an entry that is committed after the read is pushed after the
subscription. An entry may arrive twice; clients drop what they have by its number.

Cases in which messages are published again. The effects are committed, so nothing is run again:

1. The broker did not take a message, or its answer is unknown: :meth:`Publishing.until_confirmed` publishes the whole
   unit again, with growing pauses. Order matters more than duplicates: clients drop those by ``msg_id`` and number.
2. The connection was lost meanwhile: as 1, on the next connection. The deliveries are stale, and the broker delivers
   them again; the inbox knows them then, and all is published once more (``transactions``, case 3).
3. The program ends before the confirm: the delivery was not acked. As 2, in the next process.
4. A stream text was withheld or deleted meanwhile: a second publish reads texts again, and sends what is left.

Where a replay starts. A client names the last entry that it has of each stream:

1. The answer is made from the replay (it is a function): all entries after that position.
2. The answer is known: entries that this very unit pushes after the subscription are skipped. Else a thousand users
   who join a room together would each receive all others twice. Example: entries 4, 5, 6 are pushed by this unit,
   the client has 3: the replay starts at 6.
3. On the main path, replays that do not fit a small shared read are left out: the client sees the gap, and resumes.
4. For heavy reads, each replay that does not fit the shared read is read alone. It is sent in pages, each after the
   confirms of the one before, so that one large answer fills neither the memory nor the lanes.
5. The user has left the group since the commit: the stream is not replayed, and is answered as one of another user.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec
import sqlalchemy as sa
import structlog
from msgspec.structs import replace

from towpath.protocol.messages import Directed, Session, split_directed
from towpath.servicekit.broker.interface import BrokerError
from towpath.servicekit.handling.invocation import answer_json
from towpath.servicekit.handling.outcome import with_texts
from towpath.servicekit.handling.result import Result
from towpath.servicekit.handling.store import Store
from towpath.servicekit.messaging.confirms import PendingConfirms
from towpath.servicekit.messaging.lanes import LaneFull
from towpath.servicekit.messaging.publisher import Publisher
from towpath.servicekit.runtime.backoff import attempts
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.settings import ServiceSettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.storage.leaves import ConfirmedLeaves
from towpath.servicekit.storage.replays import PAGE_BYTES, PAGE_ENTRIES, Asked, Replays
from towpath.servicekit.storage.streams import Replay
from towpath.servicekit.storage.withheld import Entry, EntryId

log = structlog.get_logger(__name__)

_LANE_PAUSE: Final = 0.02
#: The broker is disconnected, or the database cannot be reached while entries are replayed.
_MAY_PASS: Final = (BrokerError, sa.exc.SQLAlchemyError, OSError)

#: Replays by the index of their result. Results of one part are published together.
_Part = Mapping[int, Mapping[str, Replay]]


class Publishing:
    """Publishes results.

    Args:
        store: Its streams, if it has any, are replayed; ``None`` for a service without storage.
        is_connected: False for a session whose connection is known to have ended: no large answer is prepared for it.
    """

    def __init__(
        self,
        publisher: Publisher,
        store: Store[Any] | None,
        settings: ServiceSettings,
        is_connected: Callable[[Session], bool],
        telemetry: Telemetry,
    ) -> None:
        self._publisher = publisher
        self._is_connected = is_connected
        self._resumes = {
            outcome: telemetry.counter(
                "resumes",
                "Answers to <domain>.resume, by whether all streams were replayed whole",
                {"outcome": outcome},
            )
            for outcome in ("complete", "incomplete")
        }
        self._replays: Replays | None = None
        self._confirmed_leaves: ConfirmedLeaves | None = None
        if store is not None:
            groups = store.storage.groups
            if store.storage.streams is not None:
                self._replays = Replays(
                    store.database,
                    store.storage.streams,
                    limit=settings.replay_limit,
                    max_bytes=settings.replay_max_bytes,
                    may_receive=None if groups is None else groups.may_receive,
                )
            self._confirmed_leaves = store.database.confirmed_leaves

    async def publish(
        self, results: Sequence[Result], *, again: bool = False, in_pages: bool = False
    ) -> PendingConfirms:
        """Queue all messages of ``results``, in order; a failure is in the returned confirms.

        Args:
            again: They were published before: texts of stream entries may have been withheld since.
            in_pages: They are heavy reads: see cases 3 and 4 of replays.
        """
        confirms = PendingConfirms()
        try:
            # First, with its confirms awaited: the replays below are read after the subscriptions exist (ADR 3).
            await self._change_groups(results)
            texts = await self._current_texts(results, again=again)
            page = _Page(confirms) if in_pages else None
            async for part in self._parts(results, in_pages=in_pages):
                for index, replays in part.items():
                    await self._publish_one(results[index], replays, texts, confirms, page)
                    if not again:
                        self._count_resume(results[index], replays)
        except _MAY_PASS as error:
            # Messages that were queued before stay queued; `until_confirmed` publishes all again, in order.
            confirms.fail(error)
        return confirms

    async def until_confirmed(
        self, results: Sequence[Result], confirms: PendingConfirms, *, in_pages: bool = False
    ) -> None:
        """Wait for the confirms of :meth:`publish`; publish again until they have come."""
        # No time limit: the effects are committed, so giving up would lose their messages. An ack has not been sent,
        # and prefetch bounds how much waits here.
        async for _ in attempts():
            try:
                await confirms.confirmed()
                return
            except BrokerError as error:
                log.warning("not_published", results=len(results), error=describe_error(error, 300))
            confirms = await self.publish(results, again=True, in_pages=in_pages)

    # The steps, in their order

    async def _change_groups(self, results: Sequence[Result]) -> None:
        """Publish leaves and group changes, and wait for their confirms."""
        confirms = PendingConfirms()
        for result in results:
            stored, session = result.stored, result.session
            if not stored.changes_groups:
                continue
            # Leaves first: a push of this very unit must not reach a user whom it removes from the group.
            for leave in stored.leaves:
                out = Directed(unsubscribe=[leave.group], as_of=result.number)
                await _queue(confirms, partial(self._publisher.control, leave.user_id, out, confirms.resolve))
            change = Directed(
                subscribe=stored.subscribe,
                unsubscribe=stored.unsubscribe,
                as_of=result.number,
                complete=stored.complete,
            )
            # The event `session.started` has no session of its own: the connection is named by the handler's
            # outcome.
            target = (result.outcome.connection if result.outcome else None) or session
            if target is not None:
                own = replace(change, connection_id=target.connection_id, inbox=target.inbox)
                for item in split_directed(own):
                    await _queue(confirms, partial(self._publisher.direct, target, item, confirms.resolve))
            if result.request.handler.changes and session is not None:
                # A change holds for the user's other connections too; a list of groups only for the one that asked.
                for item in split_directed(change):
                    post = partial(self._publisher.control, session.user_id, item, confirms.resolve)
                    await _queue(confirms, post)
        await confirms.confirmed()
        # Only after the confirms: from here on, later pushes to these groups are no longer preceded by the leaves.
        if self._confirmed_leaves is not None:
            self._confirmed_leaves.add(leave for result in results for leave in result.stored.leaves)

    async def _current_texts(
        self, results: Sequence[Result], *, again: bool
    ) -> Mapping[EntryId, Entry | None]:
        """Current texts of pushes that may have changed since; ``None`` for entries that no stream has any more.

        Reads nothing if all ``results`` are new.
        """
        wanted = {
            (item.stream, item.seq)
            for result in results
            if again or result.outcome is None
            for item in result.stored.outgoing
            if item.stream
        }
        if not wanted or self._replays is None:
            return {}
        return dict.fromkeys(wanted) | await self._replays.pushes(wanted)

    async def _parts(self, results: Sequence[Result], *, in_pages: bool) -> AsyncIterator[_Part]:
        """All ``results`` with their replays; those with large replays one after another."""
        nothing: Mapping[str, Replay] = {}
        starts = _starts(results)
        replaying = [index for index, positions in enumerate(starts) if positions]
        if self._replays is None or not replaying:
            # The usual batch: one part, without a query.
            yield dict.fromkeys(range(len(results)), nothing)
        elif not in_pages:
            # Case 3: one bounded read, as everything behind this unit on the main path waits for it.
            yield dict(enumerate(await self._replays.small(_asked(results, starts))))
        else:
            # Case 4: results without a replay do not wait for the large reads.
            yield {index: nothing for index, positions in enumerate(starts) if not positions}
            asked = _asked([results[index] for index in replaying], [starts[index] for index in replaying])
            async for part in self._replays.parts(asked):
                yield {replaying[n]: replays for n, replays in part.items()}

    async def _publish_one(
        self,
        result: Result,
        replays: Mapping[str, Replay],
        texts: Mapping[EntryId, Entry | None],
        confirms: PendingConfirms,
        page: "_Page | None",
    ) -> None:
        # The answer is queued last, after everything else that the request causes, also when it is published again.
        for publication in with_texts(result.stored.outgoing, texts):
            post = partial(self._publisher.post, publication, confirms.resolve, result.traceparent)
            await _queue(confirms, post)
        session = result.session
        # An event has no answer. A large answer for a connection that has ended would fill the lanes for no reader.
        if session is None or (replays and page is not None and not self._is_connected(session)):
            return
        # Replayed entries, then the answer, with one routing key: so one lane keeps this order (ADR 1).
        for item in _directed(result, session, replays):
            post = partial(self._publisher.direct, session, item, confirms.resolve, result.traceparent)
            await _queue(confirms, post)
            if page is not None:
                await page.add(len(item.envelope))

    def _count_resume(self, result: Result, replays: Mapping[str, Replay]) -> None:
        if result.outcome is None or not result.request.envelope.action.endswith(".resume"):
            return
        is_complete = len(replays) == len(result.stored.replay) and all(
            stream.complete for stream in replays.values()
        )
        self._resumes["complete" if is_complete else "incomplete"].add(1)


class _Page:
    """The items that were queued since the last wait for confirms."""

    def __init__(self, confirms: PendingConfirms) -> None:
        self._confirms = confirms
        self._items = self._bytes = 0

    async def add(self, size: int) -> None:
        """Count one item; wait for all confirms once the page is full.

        Raises:
            BrokerError: A message is not confirmed.
        """
        self._items += 1
        self._bytes += size
        if self._items >= PAGE_ENTRIES or self._bytes >= PAGE_BYTES:
            self._items = self._bytes = 0
            # The wait is the brake: no more than a page of a large answer is in the lanes at a time.
            await self._confirms.confirmed()


def _directed(result: Result, session: Session, replays: Mapping[str, Replay]) -> Iterator[Directed]:
    """The replayed entries and the answer, for the asking connection."""
    for stream in replays.values():
        for entry in stream.entries:
            yield Directed(connection_id=session.connection_id, envelope=msgspec.Raw(entry))
    answer = result.stored.answer
    if not answer and result.outcome is not None:
        answer = answer_json(result.request, result.outcome, replays, result.traceparent)
    if answer:
        yield Directed(connection_id=session.connection_id, envelope=answer)


async def _queue(confirms: PendingConfirms, post: Callable[[], None]) -> None:
    """Queue one item, waiting for room while a lane is full."""
    while True:
        try:
            post()
        except LaneFull:
            # Wait, do not refuse: the effect is committed. The lane empties as the broker confirms.
            await asyncio.sleep(_LANE_PAUSE)
        else:
            confirms.expect()
            return


def _asked(results: Sequence[Result], starts: Sequence[Mapping[str, int]]) -> list[Asked]:
    sessions = (result.session for result in results)
    return [
        Asked(positions, "" if session is None else session.user_id)
        for positions, session in zip(starts, sessions, strict=True)
    ]


def _starts(results: Sequence[Result]) -> list[Mapping[str, int]]:
    """The positions from which each result is replayed; cases 1 and 2.

    Example: entries 4, 5, 6 of a stream are pushed by this unit, and the client has 3: the replay starts at 6. If the
    client has 2, the replay starts at 2: entry 3 is not of this unit, and the client drops the second 4, 5 and 6 by
    their numbers.
    """
    if not any(result.stored.replay for result in results):
        return [{} for _ in results]
    pushed: dict[str, set[int]] = {}
    for result in results:
        for item in result.stored.outgoing:
            if item.stream:
                pushed.setdefault(item.stream, set()).add(item.seq)
    #: The last entry of each unbroken run of entries that the unit pushes, by the first one and each later one.
    last: dict[tuple[str, int], int] = {}
    for stream, seqs in pushed.items():
        # From the end, so that each entry knows the end of its run: 4, 5, 6 all have 6; a gap ends the run.
        for seq in sorted(seqs, reverse=True):
            last[stream, seq] = last.get((stream, seq + 1), seq)
    # A known answer (case 2) starts behind the run that follows its position; one that is made from the replay
    # (case 1) has to include it.
    return [
        {stream: last.get((stream, seq + 1), seq) for stream, seq in result.stored.replay.items()}
        if result.stored.answer
        else result.stored.replay
        for result in results
    ]
