"""The checks of guarantees: each makes one thing go wrong, and raises :class:`~towpath.testkit.trials.Seen`.

The kit keeps the guarantees for handlers that work through their unit of work. So a check finds what goes around it:
a write through another connection, into a variable or a file; a declaration that is wrong (``changes=False``); a
model that is too lax for its handler.
"""

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from datetime import time as time_of_day
from itertools import chain, zip_longest
from typing import Any, Final

import sqlalchemy as sa
from structlog.testing import capture_logs

from towpath.servicekit import Service
from towpath.testkit.builders import Incoming
from towpath.testkit.dispatching import ServiceUnderTest
from towpath.testkit.trials import (
    Case,
    Example,
    Seen,
    Tables,
    Trial,
    difference,
    failure_of,
    must_be_accepted,
)

#: Data of wrong types and extreme sizes.
_ODD: Final[Sequence[Any]] = (None, [], {}, [None], True, -1, 1e300, "", "\x00", "x" * 10_000)
#: Invalid messages of one batch: a user may have no more heavy reads at a time.
_BATCH: Final = 10
_INTERLEAVINGS: Final = 4
_DAY: Final = 86_400.0
_UNITS: Final = (1.0, 1e3, 1e6, 1e9)  # of seconds, in a stored time

_OUTSIDE_REMEDY: Final = (
    "write through the unit of work alone: its changes are committed with the inbox row of the message. Calls to the "
    "outside are effects, made after the commit"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One guarantee.

    Attributes:
        title: A sentence, in which ``{noun}`` is "a command" or "an event".
        run: Raises :class:`~towpath.testkit.trials.Seen` where the guarantee is broken.
        remedy: How to keep it.
    """

    title: str
    run: Callable[[Case], Awaitable[None]]
    remedy: str


async def _redelivered(case: Case) -> None:
    await _twice(case, redelivered=True)


async def _repeated(case: Case) -> None:
    await _twice(case, redelivered=False)


async def _twice(case: Case, *, redelivered: bool) -> None:
    async with case.trial() as trial:
        await trial.handle()
        done = await trial.done()
        await trial.handle(redelivered=redelivered)
        await trial.must_still_be(done, "after the second time")


async def _crash_before_commit(case: Case) -> None:
    async with case.trial() as trial:
        before = await trial.state()
        await _crash(trial.service.crash_before_commit, trial)
        await trial.must_be(before, "after the crash, when the transaction was rolled back,")
        await trial.service.redeliver()
        trial.must_be_accepted()
        after = await trial.state()
        if after == before and not trial.kinds():
            raise Seen("the message was redelivered, and nothing followed from it")
        await trial.handle(redelivered=True)
        await trial.must_be(after, "after one more delivery")


async def _crash_before_publish(case: Case) -> None:
    async with case.trial() as trial:
        await trial.handle()
        usual = trial.kinds()
    async with case.trial() as trial:
        await _crash(trial.service.crash_before_publish, trial)
        committed = await trial.state()
        await trial.service.redeliver()
        trial.must_be_accepted()
        await trial.must_be(committed, "after the redelivery")
        if lost := usual - trial.kinds():
            raise Seen(f"this was not published after the redelivery: {_listed(lost)}")


async def _crash_before_ack(case: Case) -> None:
    async with case.trial() as trial:
        await _crash(trial.service.crash_before_ack, trial)
        trial.must_be_accepted()
        done = await trial.done()
        await trial.service.redeliver()
        trial.must_be_accepted()
        await trial.must_still_be(done, "after the redelivery")


async def _invalid(case: Case) -> None:
    example = case.example
    refused = [example.with_data(data) for data in example.invalid]
    odd = [example.with_data(data) for data in odd_data(example.envelope["data"])]
    # An event has no answer: alone, what happened is known.
    size = _BATCH if example.is_command else 1
    async with case.trial() as trial:
        before, accepted = await trial.state(), False
        for message in refused:
            if await _accepted(trial.service, [message]):
                raise Seen(f"data {_data_of(message)} was accepted")
        await trial.must_be(before, "after data that were refused")
        for start in range(0, len(odd), size):
            accepted = bool(await _accepted(trial.service, odd[start : start + size])) or accepted
        if not accepted:
            await trial.must_be(before, "after data that were refused")
            await trial.handle()


async def _accepted(service: ServiceUnderTest, messages: Sequence[Incoming]) -> list[Incoming]:
    """Handle ``messages`` as one batch, and return those that were accepted.

    Raises:
        Seen: One was neither accepted nor refused.
    """
    service.forget()
    # Each would log its traceback: fifty pages of them hide the one that matters.
    with capture_logs():
        await service.dispatch(*messages)
    for message in messages:
        if failure := failure_of(service, message):
            raise Seen(f"with data {_data_of(message)} {failure}")
    found = [message for message in messages if _is_accepted(service, Example(message=message))]
    service.forget()
    return found


def _data_of(message: Incoming) -> str:
    return str(Example(message=message).envelope["data"])[:200]


async def _read(case: Case) -> None:
    async with case.trial() as trial:
        before = await trial.state()
        await trial.handle()
        await trial.must_be(before, "after it was handled")


#: For a handler that changes something.
CHANGES: Final = (
    Check(
        "{noun} that is redelivered takes effect once",
        _redelivered,
        "leave `changes=False` and `idempotent` out of the Handler, so that the inbox remembers the message; and "
        + _OUTSIDE_REMEDY,
    ),
    Check("a crash before the commit leaves nothing behind", _crash_before_commit, _OUTSIDE_REMEDY),
    Check(
        "a crash between commit and publish loses nothing",
        _crash_before_publish,
        "name all pushes and events in the Outcome: what a handler publishes by itself is lost; and "
        + _OUTSIDE_REMEDY,
    ),
    Check("a crash before the ack doubles nothing", _crash_before_ack, _OUTSIDE_REMEDY),
)
COMMANDS: Final = (
    Check(
        "the same msg_id is answered the same, and takes effect once",
        _repeated,
        "leave `changes=False` and `idempotent` out of the Handler, so that the inbox keeps the answer",
    ),
)
EVENTS: Final = (
    Check(
        "an event that comes twice changes once",
        _repeated,
        "leave `changes=False` and `idempotent` out of the Handler, so that the inbox remembers the event",
    ),
)
ANY: Final = (
    Check(
        "invalid data gets an error and loses nothing",
        _invalid,
        "let the model refuse what the handler cannot work with (types, lengths, bounds), and raise a TowpathError "
        "for what only the state can decide, before any change",
    ),
)
READS: Final = (
    Check(
        "a read changes nothing",
        _read,
        "leave `changes=False` out of the Handler: without it the inbox makes each message take effect once",
    ),
)


def odd_data(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Variants of valid data: fields left out, of other types, of extreme sizes."""
    yield {}
    for name in data:
        yield {field: value for field, value in data.items() if field != name}
        for odd in _ODD:
            yield {**data, name: odd}


# Messages in another order


@dataclass(frozen=True, slots=True)
class Stories:
    """Sequences of messages that have nothing to do with each other, such as those of several orders.

    Attributes:
        ignored: Columns that may differ, beside times, random ids and numbers of rows.
    """

    service: Service[Any]
    stories: Sequence[Sequence[Incoming]]
    ignored: Collection[str] = ()

    async def end_alike(self) -> None:
        """The outcome is the same, however the stories are interleaved.

        Raises:
            Seen
        """
        one_by_one = [[message] for message in chain(*self.stories)]
        first, again = await self._rows(one_by_one), await self._rows(one_by_one)
        volatile = {
            (table, column) for table, rows in first.items() for column in _volatile(rows, again[table])
        } | {(table.name, column) for table in Tables.of(self.service).own for column in self._numbers(table)}
        expected = _without(volatile, first)
        for title, order in self._orders():
            found = _without(volatile, await self._rows(order))
            if found != expected:
                raise Seen(f"{title}, {difference(expected, found)}")

    def _orders(self) -> Iterator[tuple[str, list[list[Incoming]]]]:
        backwards = [[message] for message in chain(*reversed(self.stories))]
        yield "with the last sequence first", backwards
        in_turn = [one for one in chain(*zip_longest(*self.stories)) if one is not None]
        yield "with one message of each sequence in turn", [[message] for message in in_turn]
        yield "with all messages in one batch", [in_turn]
        for seed in range(_INTERLEAVINGS):
            yield f"interleaved (seed {seed})", [[message] for message in _interleaved(self.stories, seed)]

    async def _rows(self, order: Sequence[Sequence[Incoming]]) -> "_Rows":
        async with ServiceUnderTest.running(self.service, try_seconds=0.0) as service:
            for batch in order:
                await service.dispatch(*batch)
                for message in batch:
                    must_be_accepted(service, Example(message=message))
            return {
                table.name: [dict(row._mapping) for row in await service.rows(table)]
                for table in Tables.of(self.service).own
            }

    def _numbers(self, table: sa.Table) -> Iterator[str]:
        """Columns that the database numbers, and those to be ignored."""
        yield from (column.name for column in table.columns if column.name in self.ignored)
        if table.autoincrement_column is not None:
            yield table.autoincrement_column.name


_Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def _volatile(rows: Sequence[Mapping[str, Any]], again: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The columns whose values are times, or differ between two runs that are alike."""
    for column in rows[0] if rows else ():
        values = [row[column] for row in rows]
        others = [row[column] for row in again]
        if Counter(map(repr, values)) != Counter(map(repr, others)) or any(map(_is_time, values)):
            yield column


def _is_time(value: object) -> bool:
    if isinstance(value, (datetime, date, time_of_day)):
        return True
    if not isinstance(value, (int, float)):
        return False
    return any(abs(value / unit - time.time()) < _DAY for unit in _UNITS)


def _without(volatile: Collection[tuple[str, str]], rows: _Rows) -> dict[str, list[str]]:
    return {
        table: sorted(
            ", ".join(f"{name}={value!r}" for name, value in row.items() if (table, name) not in volatile)
            for row in found
        )
        for table, found in rows.items()
    }


def _interleaved(stories: Sequence[Sequence[Incoming]], seed: int) -> Iterator[Incoming]:
    # Each story as often as it has messages, in a random order; then each turn takes its next message.
    turns = [number for number, story in enumerate(stories) for _ in story]
    random.Random(seed).shuffle(turns)
    positions = [iter(story) for story in stories]
    for number in turns:
        yield next(positions[number])


# Inside


async def _crash(crash: Callable[[Incoming], Awaitable[None]], trial: Trial) -> None:
    try:
        await crash(trial.example.message)
    except ValueError as error:
        raise Seen(str(error)) from None


def _is_accepted(service: ServiceUnderTest, example: Example) -> bool:
    try:
        must_be_accepted(service, example)
    except Seen:
        return False
    return True


def _listed(kinds: Counter[tuple[str, str]]) -> str:
    return ", ".join(f"{action} to {key}" for key, action in kinds)
