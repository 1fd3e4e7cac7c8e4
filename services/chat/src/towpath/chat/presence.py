"""Presence: a user is online from the first connection to the last, over all gateways; changes go to their rooms.

Session events only store presence events (:mod:`towpath.chat.presence_events`) and mark the users concerned.
Rounds, which every replica runs, examine marked users and publish changes.

Guarantees:

* A change is published at least once, and the changes of one user in order: the push is committed with the change
  (:mod:`towpath.servicekit.storage.outbox`), under the lock on the user's row. Replicas skip rows that another one
  has locked, so that a change is normally published once.
* A user who reconnects within ``presence_grace`` is never shown as offline.
* The connections of a gateway that is silent for ``gateway_silence`` count as lost, as of its last announcement; if
  it announces itself again they are restored. Silence counts only while another gateway announces itself and this
  service has been connected to its broker without a break: else there is no client to notify, or this service itself
  is cut off.
* Every step is bounded, in statements and in rows.

Times are taken from the replicas' clocks; the bounds vary by the differences of these clocks.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.crowds import mark as mark_crowds
from towpath.chat.limits import is_of_two
from towpath.chat.presence_events import Clock, mark
from towpath.chat.reading import first_rooms, of_users
from towpath.chat.settings import ChatSettings
from towpath.chat.tables import CONNECTIONS, GATEWAYS, MEMBERS, PEOPLE, ROOMS
from towpath.protocol.chat import PresencePush, direct_users, is_direct, stream_of
from towpath.protocol.envelope import make, now_ms
from towpath.servicekit import Database, Push, TimerRun, bulk, to_group, to_user

#: Maximum number of rows of one step.
STEP: Final = 500
#: How long an ended connection is kept: a late start event from a retry queue must find it.
_ENDED_KEPT_MS: Final = 3_600_000
#: How long a silent gateway may still return with its connections.
_SILENT_KEPT_MS: Final = 86_400_000
#: Rooms of all users of one step: each gets a push, which is a row and a message, and the step holds locks meanwhile.
_ROOMS_A_STEP: Final = 1000

_OF_GATEWAY: Final = sa.and_(
    CONNECTIONS.c.gateway_id == GATEWAYS.c.gateway_id, CONNECTIONS.c.incarnation == GATEWAYS.c.incarnation
)
_IS_OPEN: Final = sa.and_(CONNECTIONS.c.ended_at.is_(None), GATEWAYS.c.over_at.is_(None))


@dataclass(frozen=True, slots=True)
class PresenceState:
    """The state of one user's connections.

    Attributes:
        is_connected: At least one is open.
        left_at: When the last known connection was lost, in Unix milliseconds.
    """

    is_connected: bool = False
    left_at: int | None = None


def presence_at(state: PresenceState, *, was_online: bool, now: int, grace: int) -> tuple[bool, int | None]:
    """Whether a user is online at ``now``, and when to check again; times in milliseconds.

    An online user stays online for ``grace`` after the last connection. A user who connects and disconnects before
    the change was published is not published at all.
    """
    if state.is_connected:
        return True, None
    over_at = (state.left_at or 0) + grace
    return (True, over_at) if was_online and over_at > now else (False, None)


async def read_online(connection: AsyncConnection, users: Iterable[str]) -> set[str]:
    """The ``users`` who are online, as published or about to be published to their rooms."""
    names = bulk.name_values(connection, sorted(set(users)))
    return set((await connection.execute(_online(connection.dialect.name), names)).scalars())


class Presence:
    """The timer work on presence."""

    def __init__(self, settings: ChatSettings, clock: Clock = now_ms) -> None:
        self._grace_ms = int(settings.presence_grace * 1000)
        self._silence = settings.gateway_silence
        self._crowd_members = settings.crowd_members
        self._clock = clock

    async def round(self, run: TimerRun) -> bool:
        """One step: find silent gateways, mark the users of one gateway, publish changes of marked users.

        Returns whether there is more to do at once.
        """
        now = self._clock()
        # A service that was disconnected itself has missed announcements: it calls no gateway silent.
        listened = run.connected_for >= self._silence
        silent_since = now - int(self._silence * 1000) if listened else -1
        gateways, people = await _due_work(run.database, now, silent_since)
        if gateways:
            async with run.database.transaction() as connection:
                await _mark_silent_gateways(connection, silent_since)
                people = await _mark_next(connection, now) or people
        return people and (await self._publish_next(run, now) or gateways)

    async def forget(self, run: TimerRun) -> bool:
        """Delete one step of obsolete rows; returns whether there may be more."""
        now = self._clock()
        ended = CONNECTIONS.c.ended_at < now - _ENDED_KEPT_MS
        lost = GATEWAYS.c.over_at < now - _SILENT_KEPT_MS
        name = CONNECTIONS.c.connection_id
        more = False
        async with run.database.transaction() as connection:
            for old in (
                sa.select(name).where(ended),
                sa.select(name).join_from(GATEWAYS, CONNECTIONS, _OF_GATEWAY).where(lost),
            ):
                gone = await connection.execute(CONNECTIONS.delete().where(name.in_(old.limit(STEP))))
                more = more or gone.rowcount >= STEP
            # Last: its connections are found through its row.
            await connection.execute(GATEWAYS.delete().where(lost, ~sa.exists().where(_OF_GATEWAY)))
        return more

    async def _publish_next(self, run: TimerRun, now: int) -> bool:
        async with run.transaction() as connection:
            rows = await connection.execute(_DUE, {"now": now})
            was_online = {row.user_id: row.is_online for row in rows}
            if not was_online:
                return False
            states = await _read_states(connection, list(was_online))
            found = {
                user: presence_at(states[user], was_online=was, now=now, grace=self._grace_ms)
                for user, was in was_online.items()
            }
            changed = [user for user, (online, _) in found.items() if online != was_online[user]]
            notified = await _first_of(connection, changed)
            for user in changed[len(notified) :]:
                del found[user]  # Left to the next step: its row stays as it is.
            rooms, crowds = await _read_rooms(connection, notified, self._crowd_members)
            await run.publish(
                connection, [push for user in notified for push in _pushes(user, found[user][0], rooms[user])]
            )
            await _save(connection, found)
        if crowds:
            # Not in the transaction above: it locks rows of users, and units of work that hold crowds wait for those.
            async with run.database.transaction() as connection:
                await mark_crowds(connection, crowds, now)
        return len(was_online) == STEP or len(found) < len(was_online)


async def _due_work(database: Database, now: int, silent_since: int) -> tuple[bool, bool]:
    """Whether there is work on gateways, and on users."""
    # Without a lock: a round without work must not block writers.
    async with database.reading() as connection:
        found = await connection.execute(_ANY_DUE, {"silent_since": silent_since, "now": now})
        gateways, people = found.one()
    return bool(gateways), bool(people)


async def _mark_silent_gateways(connection: AsyncConnection, silent_since: int) -> None:
    """Mark gateways without an announcement since then as lost."""
    key = (GATEWAYS.c.gateway_id, GATEWAYS.c.incarnation)
    silent = await connection.execute(
        sa.select(*key)
        .where(_is_silent(sa.literal(silent_since, sa.BigInteger)))
        .order_by(*key)
        .limit(STEP)
        .with_for_update(skip_locked=True)
    )
    if names := [(row.gateway_id, row.incarnation) for row in silent]:
        await connection.execute(
            GATEWAYS.update()
            .where(sa.tuple_(*key).in_(names))
            # As of the last announcement: the grace of its users began then. "" is before every connection id.
            .values(over_at=GATEWAYS.c.heard_at, looked_up_to="")
        )


async def _mark_next(connection: AsyncConnection, now: int) -> bool:
    """Mark the next users of a gateway that was lost or has returned; returns whether there was one."""
    to_look_up = sa.select(GATEWAYS).where(GATEWAYS.c.looked_up_to.is_not(None)).limit(1)
    gateway = (await connection.execute(to_look_up.with_for_update(skip_locked=True))).first()
    if gateway is None:
        return False
    its = sa.and_(
        CONNECTIONS.c.gateway_id == gateway.gateway_id, CONNECTIONS.c.incarnation == gateway.incarnation
    )
    further = await connection.execute(
        sa.select(CONNECTIONS.c.connection_id, CONNECTIONS.c.user_id)
        .where(its, CONNECTIONS.c.connection_id > gateway.looked_up_to, CONNECTIONS.c.ended_at.is_(None))
        .order_by(CONNECTIONS.c.connection_id)
        .limit(STEP)
    )
    rows = further.all()
    await mark(connection, {row.user_id for row in rows}, now)
    await connection.execute(
        GATEWAYS.update()
        .where(GATEWAYS.c.gateway_id == gateway.gateway_id, GATEWAYS.c.incarnation == gateway.incarnation)
        # The place is committed with the marks, so a replica that dies repeats one step at most.
        .values(looked_up_to=rows[-1].connection_id if len(rows) == STEP else None)
    )
    return True


def _is_silent(since: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    other = GATEWAYS.alias()
    return sa.and_(
        GATEWAYS.c.over_at.is_(None),
        GATEWAYS.c.heard_at <= since,
        # Without any other, it is more likely that this service receives nothing (docs/adr/0008).
        sa.exists().where(other.c.heard_at > since),
    )


_ANY_DUE: Final = sa.select(
    sa.exists().where(
        sa.or_(
            GATEWAYS.c.looked_up_to.is_not(None),
            _is_silent(sa.bindparam("silent_since", type_=sa.BigInteger)),
        )
    ),
    sa.exists().where(PEOPLE.c.look_at <= sa.bindparam("now", type_=sa.BigInteger)),
)


_DUE: Final = (
    sa.select(PEOPLE.c.user_id, PEOPLE.c.is_online)
    .where(PEOPLE.c.look_at <= sa.bindparam("now", type_=sa.BigInteger))
    # The longest due first. Locked rows are another replica's work:
    # https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE
    .order_by(PEOPLE.c.look_at)
    .limit(STEP)
    .with_for_update(skip_locked=True)
)


@cache
def _online(dialect: str) -> sa.Select[str]:
    is_connected = sa.exists().where(CONNECTIONS.c.user_id == PEOPLE.c.user_id, _OF_GATEWAY, _IS_OPEN)
    return sa.select(PEOPLE.c.user_id).where(
        bulk.one_of(dialect, PEOPLE.c.user_id), sa.or_(PEOPLE.c.is_online, is_connected)
    )


@cache
def _states(dialect: str) -> sa.Select[Any]:
    is_open = sa.case((sa.and_(_IS_OPEN, GATEWAYS.c.gateway_id.is_not(None)), 1), else_=0)
    lost_at = sa.func.coalesce(CONNECTIONS.c.ended_at, GATEWAYS.c.over_at)
    return (
        sa.select(
            CONNECTIONS.c.user_id,
            sa.func.max(is_open).label("is_connected"),
            sa.func.max(lost_at).label("left_at"),
        )
        .outerjoin_from(CONNECTIONS, GATEWAYS, _OF_GATEWAY)
        .where(bulk.one_of(dialect, CONNECTIONS.c.user_id))
        .group_by(CONNECTIONS.c.user_id)
    )


async def _read_states(connection: AsyncConnection, users: Sequence[str]) -> dict[str, PresenceState]:
    names = bulk.name_values(connection, users)
    rows = await connection.execute(_states(connection.dialect.name), names)
    found = {row.user_id: PresenceState(bool(row.is_connected), row.left_at) for row in rows}
    return {user: found.get(user, PresenceState()) for user in users}


async def _first_of(connection: AsyncConnection, users: Sequence[str]) -> Sequence[str]:
    """The first ``users`` who are in :data:`_ROOMS_A_STEP` rooms together; at least one."""
    if not users:
        return users
    found = await connection.execute(_room_counts(connection.dialect.name), of_users(connection, users))
    rooms = {row.user_id: row.rooms for row in found}
    together = list(accumulate(rooms.get(user, 0) for user in users))
    return users[: max(1, bisect_right(together, _ROOMS_A_STEP))]


@cache
def _room_counts(dialect: str) -> sa.Select[Any]:
    theirs = first_rooms(dialect, MEMBERS)
    return sa.select(theirs.c.user_id, sa.func.count().label("rooms")).group_by(theirs.c.user_id)


@cache
def _rooms_told(dialect: str) -> sa.Select[Any]:
    one = first_rooms(dialect, MEMBERS)
    other = MEMBERS.alias()
    # The other user of a room of two has seen nothing of it. Two rows at most: other rooms are not searched.
    is_unseen = sa.case(
        (
            is_of_two(one.c.room),
            sa.exists().where(other.c.room == one.c.room, other.c.user_id != one.c.user_id, other.c.hidden),
        ),
        else_=sa.false(),
    )
    return (
        sa.select(one.c.user_id, one.c.room, ROOMS.c.members)
        .join(ROOMS, ROOMS.c.room == one.c.room)
        .where(~is_unseen)
    )


async def _read_rooms(
    connection: AsyncConnection, users: Sequence[str], crowd_members: int
) -> tuple[dict[str, list[str]], set[str]]:
    """The rooms that get pushes about each of ``users``, and the crowds in which users are only counted."""
    rooms: dict[str, list[str]] = {user: [] for user in users}
    crowds: set[str] = set()
    if users:
        rows = await connection.execute(_rooms_told(connection.dialect.name), of_users(connection, users))
        for row in rows:
            if row.members > crowd_members:
                crowds.add(row.room)
            else:
                rooms[row.user_id].append(row.room)
    return rooms, crowds


_SET_ONLINE: Final = (
    PEOPLE.update()
    .where(PEOPLE.c.user_id == sa.bindparam("who"))
    .values(is_online=True, look_at=sa.bindparam("when"))
)


async def _save(connection: AsyncConnection, found: dict[str, tuple[bool, int | None]]) -> None:
    here: list[dict[str, Any]] = [
        {"who": user, "when": look_at} for user, (online, look_at) in found.items() if online
    ]
    if here:
        await connection.execute(_SET_ONLINE, here)
    # Offline is the absence of a row: the table holds only users who are online or marked.
    if gone := [user for user, (online, _) in found.items() if not online]:
        await connection.execute(PEOPLE.delete().where(PEOPLE.c.user_id.in_(gone)))


def _pushes(user: str, online: bool, rooms: Iterable[str]) -> list[Push]:
    pushes: list[Push] = []
    for room in rooms:
        change = make("chat.presence", PresencePush(room=room, user=user, online=online).model_dump())
        if is_direct(room):
            pushes += [to_user(other, change) for other in direct_users(room) if other != user]
        else:
            pushes.append(to_group(stream_of(room), change))
    return pushes
