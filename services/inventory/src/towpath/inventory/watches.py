"""Watches: the items whose stock a user follows, on every connection.

Guarantees: a user watches at most so many items as the limit allows; requests of one user under different ordering
keys, which several replicas handle at the same moment, may pass it by one each. The number of statements does not
depend on the number of requests.
"""

from collections.abc import Collection, Iterable, Sequence, Set
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.inventory.domain import MOST_WATCHED, TooManyWatches
from towpath.inventory.tables import WATCHES
from towpath.protocol.inventory import STREAM_PREFIX, UnwatchStock, WatchStock, stream_of
from towpath.protocol.sessions import SessionStarted
from towpath.protocol.streams import Resume
from towpath.servicekit import Request, bulk

#: User and item.
Watch = tuple[str, str]


class Watches:
    """The watches of the users of one unit of work: load, change, save."""

    def __init__(self, connection: AsyncConnection, limit: int) -> None:
        self._connection = connection
        self._limit = limit
        self._items: dict[str, set[str]] = {}
        self._stored: set[Watch] = set()

    async def load(self, requests: Iterable[Request]) -> None:
        """Read the watches of the users whose requests need them."""
        users = sorted({user for request in requests if (user := _watcher(request)) is not None})
        if not users:
            return
        self._items = {user: set() for user in users}
        names = bulk.name_values(self._connection, users)
        for row in await self._connection.execute(_of_users(self._connection.dialect.name), names):
            self._items[row.user_id].add(row.sku)
            self._stored.add((row.user_id, row.sku))

    def streams(self, user_id: str) -> Sequence[str]:
        """The streams of the items that a user watches, which are the groups of the user's connections."""
        return [stream_of(sku) for sku in sorted(self._items[user_id])[:MOST_WATCHED]]

    def add(self, user_id: str, sku: str) -> None:
        """The user watches one more item; one that is watched already changes nothing.

        Raises:
            TooManyWatches
        """
        items = self._items[user_id]
        if sku not in items and len(items) >= self._limit:
            raise TooManyWatches(
                f"You watch {len(items):,} items, and the limit is {self._limit:,}: unwatch one first."
            )
        items.add(sku)

    def remove(self, user_id: str, sku: str) -> None:
        """The user does not watch an item any more."""
        self._items[user_id].discard(sku)

    async def save(self) -> None:
        now = {(user, sku) for user, items in self._items.items() for sku in items}
        await bulk.insert(
            self._connection,
            WATCHES,
            [{"user_id": user, "sku": sku} for user, sku in sorted(now - self._stored)],
        )
        if gone := sorted(self._stored - now):
            asked = bulk.pair_values(self._connection, gone)
            await self._connection.execute(_delete(self._connection.dialect.name), asked)


@cache
def _of_users(dialect: str) -> sa.Select[Any]:
    return sa.select(WATCHES).where(bulk.one_of(dialect, WATCHES.c.user_id))


@cache
def _delete(dialect: str) -> sa.Delete:
    one = sa.tuple_(WATCHES.c.user_id, WATCHES.c.sku)
    return WATCHES.delete().where(one.in_(bulk.pairs(dialect)))


async def may_receive(
    connection: AsyncConnection, pairs: Collection[tuple[str, str]]
) -> Set[tuple[str, str]]:
    """The pairs of a user and a group or stream in which the user watches that item."""
    wanted = {
        (user, name.removeprefix(STREAM_PREFIX)) for user, name in pairs if name.startswith(STREAM_PREFIX)
    }
    rows = await bulk.find(connection, WATCHES, ("user_id", "sku"), wanted)
    return {(row.user_id, stream_of(row.sku)) for row in rows}


def _watcher(request: Request) -> str | None:
    """The user whose watches a request needs."""
    if isinstance(request.payload, SessionStarted):
        return request.payload.user_id
    if request.session is not None and isinstance(request.payload, WatchStock | UnwatchStock | Resume):
        return request.session.user_id
    return None
