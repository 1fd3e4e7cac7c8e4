"""Limits on the rooms and invitations of one user, and on the rooms that one user may create in a day.

Guarantees:

* The number of statements does not depend on the number of requests, and no count reads more rows than its limit.
* The counts include the changes of the same unit of work. Every ``check_...`` is a check only.
* Concurrent units of work of one user in different partitions do not see each other: such a user can exceed a limit
  by a few, and is refused from then on.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.gone import is_withdrawn
from towpath.chat.presence_events import Clock
from towpath.chat.tables import GONE, INVITATIONS, MEMBERS, ROOMS
from towpath.protocol.chat import DIRECT_PREFIX, is_direct
from towpath.protocol.errors import Conflict, RateLimited
from towpath.servicekit import Rate, bulk

DAY_MS: Final = 86_400_000
#: The maximum of ``crowd_members``: an answer with so many members is within the size limit of every hop.
MOST_LISTED: Final = 1000
#: The maximum of the limits: a connection is subscribed to the groups of no more rooms than this.
MOST_ROOMS: Final = 10_000

_DIRECT: Final = "direct"
_ORDINARY: Final = "ordinary"


@dataclass(frozen=True)
class Limits:
    """The limits of chat; :class:`~towpath.chat.settings.ChatSettings` describes each."""

    rooms_per_user: int = 1000
    direct_rooms_per_user: int = 1000
    rooms_made_per_day: int = 200
    invitations_per_user: int = 200
    invitations_per_pair: int = 1
    blocks_per_user: int = 1000
    crowd_members: int = 100
    deliveries_per_user: float = 2000.0
    deliveries_burst: float = 10_000.0

    @property
    def deliveries(self) -> Rate:
        """The limit of deliveries per user."""
        return Rate(self.deliveries_per_user, self.deliveries_burst)


class TooManyRooms(Conflict):
    """The user is in as many rooms as the limit allows."""


class TooManyRoomsMade(RateLimited):
    """The user has created as many rooms in 24 hours as the limit allows."""


class TooManyInvitations(Conflict):
    """The user has as many open invitations as the limit allows, in total or from one inviter."""


class Quotas:
    """The counts of the users of one unit of work: load, check, change."""

    def __init__(self, connection: AsyncConnection, limits: Limits, clock: Clock) -> None:
        self._connection = connection
        self._limits = limits
        self._clock = clock
        self._rooms: Counter[tuple[str, str]] = Counter()
        self._made: Counter[str] = Counter()
        self._oldest: dict[str, int] = {}
        self._open: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()

    async def load(
        self,
        *,
        entering: Collection[tuple[str, str]],
        making: Collection[str],
        inviting: Collection[tuple[str, str]],
    ) -> None:
        """Read the counts that the checks below need: three statements at most.

        Args:
            entering: Users, each with the name of a room that the user may enter.
            making: Users who may create a room.
            inviting: Pairs of inviter and invitee.
        """
        if entering:
            await self._load_rooms({(user, _kind(room)) for user, room in entering})
        if making:
            await self._load_made(set(making))
        if inviting:
            await self._load_invitations(set(inviting))

    def check_entering(self, user_id: str, room: str, *, by: str) -> None:
        """Check that ``user_id`` may be in one more room; ``by`` is the asking user.

        Raises:
            TooManyRooms
        """
        direct = is_direct(room)
        limit = self._limits.direct_rooms_per_user if direct else self._limits.rooms_per_user
        if self._rooms[user_id, _kind(room)] < limit:
            return
        subject = "You are" if user_id == by else f"{user_id!r} is"
        kind = "rooms of two" if direct else "rooms"
        advice = "" if direct else ": leave one first"
        raise TooManyRooms(f"{subject} in {limit:,} {kind}, which is the limit{advice}.")

    def check_making(self, user_id: str) -> None:
        """Check that the user may create one more room today.

        Raises:
            TooManyRoomsMade
        """
        limit = self._limits.rooms_made_per_day
        if self._made[user_id] < limit:
            return
        now = self._clock()
        # Until the oldest of them is a day old.
        wait = max(1000, self._oldest.get(user_id, now) + DAY_MS - now)
        raise TooManyRoomsMade(
            f"You have made {limit:,} rooms within 24 hours, which is the limit: try again later.",
            retry_after_ms=wait,
        )

    def check_inviting(self, by: str, user_id: str) -> None:
        """Check that ``by`` may invite ``user_id`` to one more room.

        Raises:
            TooManyInvitations
        """
        if self._pairs[by, user_id] >= self._limits.invitations_per_pair:
            raise TooManyInvitations(
                f"{user_id!r} has not answered your last invitation yet: wait until they have joined."
            )
        if self._open[user_id] >= self._limits.invitations_per_user:
            raise TooManyInvitations(
                f"{user_id!r} has {self._limits.invitations_per_user:,} open invitations, which is the limit."
            )

    def entered(self, user_id: str, room: str) -> None:
        """Count one more room of the user."""
        self._rooms[user_id, _kind(room)] += 1

    def left(self, user_id: str, room: str) -> None:
        """Count one room less of the user."""
        self._rooms[user_id, _kind(room)] -= 1

    def made(self, user_id: str) -> None:
        """Count one more created room of the user."""
        self._made[user_id] += 1
        self._oldest.setdefault(user_id, self._clock())

    def invited(self, by: str, user_id: str) -> None:
        """Count one more open invitation."""
        self._open[user_id] += 1
        self._pairs[by, user_id] += 1

    def accepted(self, by: str, user_id: str) -> None:
        """Count one open invitation less."""
        self._open[user_id] -= 1
        self._pairs[by, user_id] -= 1

    # Inside

    async def _load_rooms(self, wanted: set[tuple[str, str]]) -> None:
        most = max(self._limits.rooms_per_user, self._limits.direct_rooms_per_user)
        rows = await self._connection.execute(
            _rooms_of(self._connection.dialect.name, most),
            bulk.pair_values(self._connection, sorted(wanted)),
        )
        for user, which, count in rows:
            self._rooms[user, which] = count

    async def _load_made(self, users: set[str]) -> None:
        since, limit = self._clock() - DAY_MS, self._limits.rooms_made_per_day
        asked = bulk.pair_values(self._connection, [(user, "") for user in sorted(users)])
        made_by = _made_by(self._connection.dialect.name, limit)
        for user, made, at in await self._connection.execute(made_by, {**asked, "since": since}):
            self._made[user] = made
            if at is not None:
                self._oldest[user] = at

    async def _load_invitations(self, wanted: set[tuple[str, str]]) -> None:
        limits = self._limits
        rows = await self._connection.execute(
            _invited(self._connection.dialect.name, limits.invitations_per_user, limits.invitations_per_pair),
            bulk.pair_values(self._connection, sorted(wanted)),
        )
        for by, user, opened, of_pair in rows:
            self._open[user] = opened
            self._pairs[by, user] = of_pair


@lru_cache(maxsize=16)
def _rooms_of(dialect: str, most: int) -> sa.Select[Any]:
    asked = bulk.pairs(dialect).subquery()
    kind = sa.case((is_of_two(MEMBERS.c.room), _DIRECT), else_=_ORDINARY)
    theirs = sa.select(sa.literal(1).label("one")).where(MEMBERS.c.user_id == asked.c[0], kind == asked.c[1])
    return sa.select(asked.c[0], asked.c[1], _count(theirs.limit(most), asked))


@lru_cache(maxsize=16)
def _made_by(dialect: str, limit: int) -> sa.Select[Any]:
    asked = bulk.pairs(dialect).subquery()
    since = sa.bindparam("since", type_=sa.BigInteger)

    def made_in(rooms: sa.Table) -> sa.Select[Any]:
        theirs = sa.select(rooms.c.created_at).where(
            rooms.c.created_by == asked.c[0], rooms.c.created_at > since
        )
        newest = theirs.order_by(rooms.c.created_at.desc()).limit(limit).correlate(asked)
        return sa.select(newest.subquery())

    # A deleted room still counts (protocol.md, "Deleted rooms").
    both = sa.union_all(made_in(ROOMS), made_in(GONE)).subquery()
    newest = sa.select(both).order_by(both.c.created_at.desc()).limit(limit).subquery()
    oldest = sa.select(sa.func.min(newest.c.created_at)).correlate(asked).scalar_subquery()
    count = sa.select(sa.func.count()).select_from(newest).correlate(asked).scalar_subquery()
    return sa.select(asked.c[0], count, oldest)


@lru_cache(maxsize=16)
def _invited(dialect: str, per_user: int, per_pair: int) -> sa.Select[Any]:
    asked = bulk.pairs(dialect).subquery()
    theirs = sa.select(sa.literal(1).label("one")).where(INVITATIONS.c.user_id == asked.c[1], ~is_withdrawn())
    from_one = theirs.where(INVITATIONS.c.invited_by == asked.c[0])
    return sa.select(
        asked.c[0],
        asked.c[1],
        _count(theirs.limit(per_user), asked),
        _count(from_one.limit(per_pair), asked),
    )


def is_of_two(room: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether a name is one of those kept for two-person rooms."""
    return sa.func.substr(room, 1, len(DIRECT_PREFIX)) == DIRECT_PREFIX


def _kind(room: str) -> str:
    return _DIRECT if is_direct(room) else _ORDINARY


def _count(rows: sa.Select[Any], asked: sa.Subquery) -> sa.ScalarSelect[int]:
    found = rows.correlate(asked).subquery()
    return sa.select(sa.func.count()).select_from(found).correlate(asked).scalar_subquery()
