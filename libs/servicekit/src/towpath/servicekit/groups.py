"""Groups: who may hear what, in one order for all changes of it.

What goes to one connection and what goes to all of a user's comes to the gateways by two ways, and from several
replicas. So a service numbers its changes of groups, and gateways let the higher number win.

Guarantees:

* Numbers grow in the order in which the changes are committed: each transaction that changes groups takes its number
  last, and holds the row until it has committed. A number is at least the time, so numbers still grow after an older
  copy of the database was restored.
* What is read after :func:`read_number` has all changes up to that number.
* What a batch does to groups is right by the time it is committed, whether its requests come for the first time or
  again.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Set
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import now_ms
from towpath.servicekit.telling import Result

#: Of pairs of a user and a group or stream, those that are right by now: that user may hear it.
MayHear = Callable[[AsyncConnection, Collection[tuple[str, str]]], Awaitable[Set[tuple[str, str]]]]


_THE_ROW: Final = 1


@dataclass(frozen=True, slots=True)
class Groups:
    """What a service needs that puts connections into groups. It answers ``session.started`` with all of them.

    Attributes:
        numbers: See :func:`numbers_table`.
        may_hear: Asked at most once a batch, where a repetition names groups, or several requests the same one.
    """

    numbers: sa.Table
    may_hear: MayHear


def numbers_table(metadata: sa.MetaData, prefix: str) -> sa.Table:
    """Declare ``<prefix>_group_numbers``, of one row: a migration makes both (:func:`create_numbers_table`)."""
    return sa.Table(
        f"{prefix}_group_numbers",
        metadata,
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
    )


async def next_number(connection: AsyncConnection, table: sa.Table) -> int:
    """The number of what this transaction changes; others wait for theirs until it has ended."""
    number, now = table.c.number, now_ms()
    following = sa.case((number >= now, number + 1), else_=now)
    taken = await connection.execute(
        table.update().where(table.c.id == _THE_ROW).values(number=following).returning(number)
    )
    return int(taken.scalar_one())


async def read_number(connection: AsyncConnection, table: sa.Table) -> int:
    """The number of the last change that is committed, or that this transaction has made."""
    return int((await connection.execute(sa.select(table.c.number))).scalar_one())


async def correct(connection: AsyncConnection, may_hear: MayHear, results: Iterable[Result]) -> None:
    """Of what ``results`` do to groups, leave what is right, where that may be something else; one question at most.

    It may be for a repetition: the user may have left or come back since. And it may be where several requests are
    about one user and group, because what goes to a connection and what goes to all of a user's has no order.
    """
    named = [(result, pairs) for result in results if (pairs := _named(result))]
    times = Counter(pair for _, pairs in named for pair in pairs)
    doubtful = [
        (result, pairs)
        for result, pairs in named
        if result.outcome is None or any(times[pair] > 1 for pair in pairs)
    ]
    if not doubtful:
        return
    right = await may_hear(connection, {pair for _, pairs in doubtful for pair in pairs})
    for result, _ in doubtful:
        user = None if result.session is None else result.session.user_id
        result.settled = result.settled.within({group for who, group in right if who == user}, right)


def _named(result: Result) -> set[tuple[str, str]]:
    """The pairs of a user and a group or stream that a result is about."""
    settled = result.settled
    pairs = {(leave.user_id, leave.group) for leave in settled.leaves}
    if result.session is not None:
        pairs |= {(result.session.user_id, group) for group in settled.heard}
    return pairs
