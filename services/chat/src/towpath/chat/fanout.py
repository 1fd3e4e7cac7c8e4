"""Fan-out: how many deliveries one user may cause.

What a message costs is how many connections hear it: one line in a room of 5,000 is 5,000 frames for the gateways.
So each user has a bucket of deliveries (:mod:`towpath.servicekit.buckets`), and pays for what is pushed to a room. A
long text costs more: one delivery for each 2 KiB that are begun.
Guarantees:

* A user causes at most ``deliveries_burst`` deliveries at once and ``deliveries_per_user`` a second, on each replica.
  A push to more connections than that is possible when the bucket is full, and paid for afterwards.
* That somebody types is pushed once a second for each user and room at most.
* Rooms are counted with one statement a unit of work, and each at most once in :data:`COUNTED_SECONDS`. Memory is
  bounded by who asked lately.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.tables import CONNECTIONS, MEMBERS
from towpath.protocol.errors import RateLimited
from towpath.servicekit import bulk
from towpath.servicekit.buckets import Buckets, Rate

#: So long the number of connections that hear a room is taken for true.
COUNTED_SECONDS: Final = 10.0
_LETTERS: Final = 2048
_TYPING: Final = Rate(rate=1.0, burst=2.0)
_ROOMS_KEPT: Final = 10_000
#: More connections than this are not counted: a push to so many empties every bucket.
_MOST_COUNTED: Final = 10_000


class TooManyHear(RateLimited):
    """The user has caused as many deliveries as the limit allows."""


class FanOut:
    """Who has caused how much; lives as long as the service.

    Args:
        deliveries: What each user may cause.
        clock: Seconds.
    """

    def __init__(self, deliveries: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._users: Buckets[str] = Buckets(deliveries)
        self._typing: Buckets[tuple[str, str]] = Buckets(_TYPING)
        self._counted: OrderedDict[str, tuple[float, int]] = OrderedDict()  # room → until when, connections

    def uncounted(self, rooms: Iterable[str]) -> set[str]:
        """Those of ``rooms`` whose connections have to be counted before they are paid for."""
        now = self._clock()
        return {room for room in rooms if room not in self._counted or self._counted[room][0] <= now}

    async def count(self, connection: AsyncConnection, rooms: Collection[str]) -> None:
        """Count how many connections hear each of ``rooms``."""
        if not rooms:
            return
        asked = bulk.pairs(connection, [(room, "") for room in sorted(rooms)]).subquery()
        hearing = (
            sa.select(sa.literal(1).label("one"))
            .select_from(MEMBERS.join(CONNECTIONS, CONNECTIONS.c.user_id == MEMBERS.c.user_id))
            .where(MEMBERS.c.room == asked.c[0], CONNECTIONS.c.ended_at.is_(None))
            .limit(_MOST_COUNTED)
            .correlate(asked)
            .subquery()
        )
        count = sa.select(sa.func.count()).select_from(hearing).correlate(asked).scalar_subquery()
        until = self._clock() + COUNTED_SECONDS
        for room, connections in await connection.execute(sa.select(asked.c[0], count)):
            self._counted[room] = until, connections
            self._counted.move_to_end(room)
        while len(self._counted) > _ROOMS_KEPT:
            self._counted.popitem(last=False)

    def pay(self, user_id: str, room: str, letters: int = 0) -> None:
        """Take what one push with a text of so many ``letters`` to ``room`` costs from ``user_id``.

        Raises:
            TooManyHear
        """
        now = self._clock()
        if wait := self._users.of(user_id, now).take(self._cost(room, letters), now):
            raise TooManyHear(
                "What you send reaches more people than one user may reach for now: slow down.",
                retry_after_ms=max(1, round(wait * 1000)),
            )

    def may_show_typing(self, user_id: str, room: str) -> bool:
        """Whether others may see now that ``user_id`` types; if so, it is paid for."""
        now = self._clock()
        if self._typing.of((user_id, room), now).take(1.0, now):
            return False
        return not self._users.of(user_id, now).take(self._cost(room), now)

    def _cost(self, room: str, letters: int = 0) -> int:
        connections = self._counted[room][1] if room in self._counted else 1
        return max(1, connections) * (1 + letters // _LETTERS)
