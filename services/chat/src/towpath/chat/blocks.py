"""Blocks: users from whom another user wants to hear nothing.

Guarantees: the number of statements does not depend on the number of requests. A message of a blocked user that is
handled after the answer to ``chat.block`` is hidden: both lock the stream of the room of the two.
"""

from collections import Counter
from collections.abc import Collection
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.errors import NotYourself, YouBlock
from towpath.chat.presence_events import Clock
from towpath.chat.tables import BLOCKS
from towpath.protocol.chat import BlockedUser
from towpath.protocol.errors import Conflict
from towpath.servicekit import bulk

#: The maximum of the limit: an answer with so many users is within the size limit of every hop.
MOST_BLOCKED: Final = 1000

#: The user who blocks, and the blocked one.
Pair = tuple[str, str]

_END: Final = BLOCKS.delete().where(
    BLOCKS.c.user_id == sa.bindparam("whose"), BLOCKS.c.blocked == sa.bindparam("which")
)


class TooManyBlocked(Conflict):
    """The user blocks as many users as the limit allows."""


class Blocks:
    """The blocks that one unit of work names: load, check, change, save.

    Args:
        limit: How many users one user may block.
    """

    def __init__(self, connection: AsyncConnection, limit: int, clock: Clock) -> None:
        self._connection = connection
        self._limit = limit
        self._clock = clock
        self._stored: set[Pair] = set()
        self._now: set[Pair] = set()
        self._counts: Counter[str] = Counter()

    async def load(self, pairs: Collection[Pair], blocking: Collection[str]) -> None:
        """Read those of ``pairs`` that exist, and how many users each of ``blocking`` blocks: two statements."""
        rows = await bulk.find(self._connection, BLOCKS, ("user_id", "blocked"), pairs)
        self._stored = {(row.user_id, row.blocked) for row in rows}
        self._now = set(self._stored)
        if blocking:
            names = bulk.name_values(self._connection, sorted(blocking))
            for user, blocked in await self._connection.execute(_count(self._connection.dialect.name), names):
                self._counts[user] = blocked

    def has(self, user_id: str, blocked: str | None) -> bool:
        """Whether ``user_id`` blocks ``blocked``; only for loaded pairs."""
        return (user_id, blocked) in self._now

    def check_writing(self, user_id: str, other: str | None) -> None:
        """Check that ``user_id`` does not block ``other``, the reader of a message.

        Raises:
            YouBlock
        """
        if other is not None and self.has(user_id, other):
            raise YouBlock(other)

    def add(self, user_id: str, blocked: str) -> None:
        """``user_id`` blocks ``blocked``; does nothing if that is so already.

        Raises:
            NotYourself, TooManyBlocked
        """
        if user_id == blocked:
            raise NotYourself
        if self.has(user_id, blocked):
            return
        if self._counts[user_id] >= self._limit:
            raise TooManyBlocked(f"You block {self._limit:,} users, which is the limit: unblock one first.")
        self._now.add((user_id, blocked))
        self._counts[user_id] += 1

    def remove(self, user_id: str, blocked: str) -> None:
        """``user_id`` does not block ``blocked`` any longer."""
        if self.has(user_id, blocked):
            self._now.discard((user_id, blocked))
            self._counts[user_id] -= 1

    async def save(self) -> None:
        """Write new blocks, and delete ended ones."""
        now = self._clock()
        await bulk.insert(
            self._connection,
            BLOCKS,
            [
                {"user_id": user, "blocked": blocked, "created_at": now}
                for user, blocked in sorted(self._now - self._stored)
            ],
        )
        if ended := sorted(self._stored - self._now):
            await self._connection.execute(
                _END, [{"whose": user, "which": blocked} for user, blocked in ended]
            )


async def read_blocked(connection: AsyncConnection, users: Collection[str]) -> dict[str, list[BlockedUser]]:
    """The users whom each of ``users`` blocks, by name. One statement; the limit bounds its rows."""
    found: dict[str, list[BlockedUser]] = {user: [] for user in users}
    if users:
        names = bulk.name_values(connection, sorted(users))
        for row in await connection.execute(_blocked(connection.dialect.name), names):
            found[row.user_id].append(BlockedUser(user=row.blocked, since=row.created_at))
    return {user: sorted(blocked, key=lambda one: one.user) for user, blocked in found.items()}


@cache
def _count(dialect: str) -> sa.Select[Any]:
    users = bulk.one_of(dialect, BLOCKS.c.user_id)
    return sa.select(BLOCKS.c.user_id, sa.func.count()).where(users).group_by(BLOCKS.c.user_id)


@cache
def _blocked(dialect: str) -> sa.Select[Any]:
    return sa.select(BLOCKS).where(bulk.one_of(dialect, BLOCKS.c.user_id))


def is_unwelcome(user: sa.ColumnElement[str], by: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether ``user`` blocks ``by``."""
    return sa.exists().where(BLOCKS.c.user_id == user, BLOCKS.c.blocked == by)
