"""What people read: histories and lists of rooms.

Guarantees: the number of statements does not depend on the number of questions (but for one statement each 200);
every answer is bounded.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.domain import LISTED, title
from towpath.chat.tables import MEMBERS, MESSAGES, STREAMS
from towpath.protocol.chat import STREAM_PREFIX, History, Message, ReadHistory, RoomSummary
from towpath.servicekit.streams import batched

#: Bytes that a history holds before it leaves the rest to the next request, so that it passes every hop.
HISTORY_BYTES: Final = 256 * 1024
#: Rooms that ``chat.rooms`` tells of, and messages it counts as unread in each.
ROOMS_TOLD: Final = 1000
UNREAD_COUNTED: Final = 1000
#: SQLite takes 500 at most: https://www.sqlite.org/limits.html#max_compound_select
_SELECTS_A_STATEMENT: Final = 200


async def read_histories(
    connection: AsyncConnection, wanted: Iterable[ReadHistory]
) -> dict[ReadHistory, History]:
    """What each of ``wanted`` asks for, whoever asks."""
    asked = list(dict.fromkeys(wanted))
    found: list[list[sa.Row[Any]]] = [[] for _ in asked]
    for row in await _union(connection, [_history(number, request) for number, request in enumerate(asked)]):
        found[row.number].append(row)
    return {request: _page(request, rows) for request, rows in zip(asked, found, strict=True)}


async def read_summaries(connection: AsyncConnection, users: Iterable[str]) -> dict[str, list[RoomSummary]]:
    """The rooms of each user, by name; the first :data:`ROOMS_TOLD`."""
    summaries: dict[str, list[RoomSummary]] = {user: [] for user in sorted(users)}
    for row in await _union(connection, [_summaries(user) for user in summaries]):
        summaries[row.user_id].append(
            RoomSummary(
                room=row.room,
                title=title(row.room, row.user_id),
                seq=row.head,
                read_seq=row.read_seq,
                unread=row.unread,
            )
        )
    return {user: sorted(found, key=lambda summary: summary.room) for user, found in summaries.items()}


async def read_names(connection: AsyncConnection, users: Iterable[str]) -> dict[str, list[str]]:
    """The names of all rooms of each user, sorted."""
    names: dict[str, list[str]] = {user: [] for user in sorted(users)}
    if names:
        rows = await connection.execute(
            sa.select(MEMBERS.c.user_id, MEMBERS.c.room).where(MEMBERS.c.user_id.in_(list(names)))
        )
        for row in rows:
            names[row.user_id].append(row.room)
    return {user: sorted(found) for user, found in names.items()}


async def read_listed(connection: AsyncConnection, rooms: Iterable[str]) -> dict[str, list[str]]:
    """The members of each room, sorted; the first :data:`~towpath.chat.domain.LISTED`."""
    listed: dict[str, list[str]] = {room: [] for room in sorted(rooms)}
    for row in await _union(connection, [_listed(room) for room in listed]):
        listed[row.room].append(row.user_id)
    return {room: sorted(found) for room, found in listed.items()}


async def _union(connection: AsyncConnection, selects: Sequence[sa.Select[Any]]) -> list[sa.Row[Any]]:
    found: list[sa.Row[Any]] = []
    for part in batched(selects, _SELECTS_A_STATEMENT):
        rows = await connection.execute(sa.union_all(*(sa.select(select.subquery()) for select in part)))
        found += rows.all()
    return found


def _page(request: ReadHistory, rows: list[sa.Row[Any]]) -> History:
    newest_first = request.after_seq is None
    rows.sort(key=lambda row: int(row.seq), reverse=newest_first)
    taken = rows[: request.limit]
    return History(
        room=request.room,
        messages=[_message(row) for row in (reversed(taken) if newest_first else taken)],
        has_more=bool(taken) and taken[0].found > len(taken),
    )


def _history(number: int, request: ReadHistory) -> sa.Select[Any]:
    """At most one row more than asked for, as far as :data:`HISTORY_BYTES` reach; each tells how many there were."""
    said = sa.select(MESSAGES).where(MESSAGES.c.room == request.room)
    order = MESSAGES.c.seq.desc()
    if request.before_seq is not None:
        said = said.where(MESSAGES.c.seq < request.before_seq)
    if request.after_seq is not None:
        said = said.where(MESSAGES.c.seq > request.after_seq)
        order = MESSAGES.c.seq.asc()
    page = said.order_by(order).limit(request.limit + 1).subquery()
    sequence = page.c.seq.asc() if request.after_seq is not None else page.c.seq.desc()
    counted = sa.select(
        sa.literal(number).label("number"),
        page,
        (sa.func.sum(page.c.size).over(order_by=sequence) - page.c.size).label("bytes_before"),
        sa.func.count().over().label("found"),
    ).subquery()
    return sa.select(counted).where(counted.c.bytes_before < HISTORY_BYTES)


def _summaries(user_id: str) -> sa.Select[Any]:
    unread = (
        sa.select(sa.literal(1))
        .where(
            MESSAGES.c.room == MEMBERS.c.room,
            MESSAGES.c.seq > MEMBERS.c.read_seq,
            MESSAGES.c.user_id != MEMBERS.c.user_id,
        )
        .limit(UNREAD_COUNTED)
        .correlate(MEMBERS)
        .subquery()
    )
    counted = sa.select(sa.func.count()).select_from(unread).correlate(MEMBERS).scalar_subquery()
    return (
        sa.select(MEMBERS, STREAMS.heads.c.head, counted.label("unread"))
        .join(STREAMS.heads, STREAMS.heads.c.stream == sa.literal(STREAM_PREFIX).concat(MEMBERS.c.room))
        .where(MEMBERS.c.user_id == user_id)
        .order_by(MEMBERS.c.room)
        .limit(ROOMS_TOLD)
    )


def _listed(room: str) -> sa.Select[Any]:
    return (
        sa.select(MEMBERS.c.room, MEMBERS.c.user_id)
        .where(MEMBERS.c.room == room)
        .order_by(MEMBERS.c.user_id)
        .limit(LISTED)
    )


def _message(row: Any) -> Message:
    return Message(
        room=row.room,
        seq=row.seq,
        user=row.user_id,
        text=row.text,
        sent_at=row.sent_at,
        client_ref=row.client_ref,
    )
