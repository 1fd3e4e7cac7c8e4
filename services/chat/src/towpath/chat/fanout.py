"""Fan-out: limits the deliveries that one user may cause.

The cost of a message is the number of connections that receive it: one line in a room of 5,000 is 5,000 frames for
the gateways. So each user has a bucket of deliveries (:mod:`towpath.servicekit.runtime.buckets`), and pays for each
push to a room.
A long text costs more: one delivery per started 2 KiB.
Guarantees:

* A user causes at most ``deliveries_burst`` deliveries at once and ``deliveries_per_user`` a second, on each replica.
  A push to more connections is possible when the bucket is full, and leaves a debt.
* Typing is pushed at most once a second per user and room.
* Rooms are counted with one statement per unit of work, and each at most once in :data:`COUNTED_SECONDS`, a large one
  less often. Memory is bounded by the recently active users.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.tables import CONNECTIONS, MEMBERS
from towpath.protocol.errors import RateLimited
from towpath.servicekit import Buckets, Rate, bulk

#: Seconds that the number of a room's connections is cached: with few, and with many. A few can multiply at once, and
#: users would pay for few until the next count; many change less, and take longer to count.
COUNTED_SECONDS: Final = 1.0
_COUNTED_SECONDS_LARGE: Final = 10.0
#: Connections from which a room is a larger one.
_LARGE: Final = 100
_LETTERS: Final = 2048
_TYPING: Final = Rate(rate=1.0, burst=2.0)
_ROOMS_KEPT: Final = 10_000
#: Connections are counted up to this number: a push to so many empties every bucket.
_MOST_COUNTED: Final = 10_000


class FanOutLimitExceeded(RateLimited):
    """The user has caused as many deliveries as the limit allows."""


class FanOut:
    """The deliveries caused by each user; lives as long as the service.

    Args:
        deliveries: The limit per user.
        clock: Seconds.
    """

    def __init__(self, deliveries: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._users: Buckets[str] = Buckets(deliveries)
        self._typing: Buckets[tuple[str, str]] = Buckets(_TYPING)
        self._counted: OrderedDict[str, tuple[float, int]] = OrderedDict()  # Room → valid until, connections.

    def uncounted(self, rooms: Iterable[str]) -> set[str]:
        """The ``rooms`` whose connections must be counted before they are paid for."""
        now = self._clock()
        return {room for room in rooms if room not in self._counted or self._counted[room][0] <= now}

    async def count(self, connection: AsyncConnection, rooms: Collection[str]) -> None:
        """Count the connections in each of ``rooms``."""
        if not rooms:
            return
        asked = bulk.pair_values(connection, [(room, "") for room in sorted(rooms)])
        now = self._clock()
        for room, connections in await connection.execute(_count(connection.dialect.name), asked):
            seconds = COUNTED_SECONDS if connections < _LARGE else _COUNTED_SECONDS_LARGE
            self._counted[room] = now + seconds, connections
            self._counted.move_to_end(room)
        while len(self._counted) > _ROOMS_KEPT:
            self._counted.popitem(last=False)

    def pay(self, user_id: str, room: str, letters: int = 0) -> None:
        """Charge ``user_id`` for one push of a text of ``letters`` characters to ``room``.

        Raises:
            FanOutLimitExceeded
        """
        now = self._clock()
        if wait := self._users.of(user_id, now).take(self._cost(room, letters), now):
            raise FanOutLimitExceeded(
                "What you send reaches more people than one user may reach for now: slow down.",
                retry_after_ms=max(1, round(wait * 1000)),
            )

    def may_show_typing(self, user_id: str, room: str) -> bool:
        """Whether a typing push of ``user_id`` is allowed now; if so, it is charged."""
        now = self._clock()
        # First: a typing push that is not shown must not cost deliveries.
        if self._typing.of((user_id, room), now).take(1.0, now):
            return False
        return not self._users.of(user_id, now).take(self._cost(room), now)

    def _cost(self, room: str, letters: int = 0) -> int:
        connections = self._counted[room][1] if room in self._counted else 1
        # At least 1: a message that no connection receives is stored and answered like any other.
        return max(1, connections) * (1 + letters // _LETTERS)


@cache
def _count(dialect: str) -> sa.Select[Any]:
    asked = bulk.pairs(dialect).subquery()
    hearing = (
        sa.select(sa.literal(1).label("one"))
        .select_from(MEMBERS.join(CONNECTIONS, CONNECTIONS.c.user_id == MEMBERS.c.user_id))
        .where(MEMBERS.c.room == asked.c[0], CONNECTIONS.c.ended_at.is_(None))
        .limit(_MOST_COUNTED)
        .correlate(asked)
        .subquery()
    )
    count = sa.select(sa.func.count()).select_from(hearing).correlate(asked).scalar_subquery()
    return sa.select(asked.c[0], count)
