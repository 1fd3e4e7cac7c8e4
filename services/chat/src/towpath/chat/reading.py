"""Reads: histories, lists of rooms, members and invitations.

Guarantees: the number of statements does not depend on the number of requests (except one statement per 200);
every answer is bounded.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.blocks import is_unwelcome
from towpath.chat.domain import title
from towpath.chat.limits import MOST_ROOMS
from towpath.chat.tables import GONE, INVITATIONS, MEMBERS, MESSAGES, ROOMS, STREAMS
from towpath.protocol.chat import (
    DIRECT_PREFIX,
    STREAM_PREFIX,
    Invitation,
    Message,
    ReadHistory,
    RoomSummary,
    is_direct,
    stream_of,
)
from towpath.servicekit import batched, bulk

#: Maximum bytes of a history page, so that it is within the size limit of every hop.
HISTORY_BYTES: Final = 256 * 1024
#: Maximum number of rooms and invitations in ``chat.rooms``, and of messages counted as unread in each.
ROOMS_LISTED: Final = 1000
UNREAD_COUNTED: Final = 1000
#: SQLite allows 500 at most: https://www.sqlite.org/limits.html#max_compound_select
_SELECTS_A_STATEMENT: Final = 200

# As text, because SQLAlchemy takes 2 ms to build and compile one of these selects, and a batch may have hundreds.
# One row more than requested, within the byte limit; each row has the number of rows found.
_HISTORY: Final = """
    SELECT * FROM (
        SELECT {number} AS number, page.*, COUNT(*) OVER () AS found,
               SUM(page.size) OVER (ORDER BY page.seq {order}) - page.size AS bytes_before
        FROM (
            SELECT room, seq, user_id, text, client_ref, sent_at, edited_at, deleted_at, hidden_from, size
            FROM chat_messages
            WHERE room = :room_{number} AND seq {side} AND seq > (
                SELECT COALESCE(MAX(seq), 0) FROM chat_gone_rooms WHERE room = :room_{number}
            ) ORDER BY seq {order} LIMIT {limit} + 1
        ) AS page
    ) AS counted WHERE bytes_before < {bytes}
"""
_LISTED: Final = """
    SELECT * FROM (
        SELECT room, user_id FROM chat_members WHERE room = :room_{number} ORDER BY user_id LIMIT {limit}
    ) AS listed
"""
_FIRST_MEMBERS: Final = """
    SELECT * FROM (
        SELECT room, user_id, read_seq, joined_at, hidden FROM chat_members
        WHERE room = :room_{number} ORDER BY joined_at, user_id LIMIT {limit}
    ) AS first_members
"""
# A two-person room has no group: its members are pushed to as users. Before limits existed a user could be in any
# number of rooms: a LIMIT stops the index scan, a window function would read all of them.
_GROUPED: Final = """
    SELECT * FROM (
        SELECT user_id, room FROM chat_members
        WHERE user_id = :user_{number} AND SUBSTR(room, 1, {length}) <> '{prefix}' ORDER BY room LIMIT {limit}
    ) AS grouped
"""


class HistoryPage(NamedTuple):
    """One page of a history, as its reader gets it.

    Attributes:
        reader: The asking user, in a room of two; empty in other rooms, where all members get the same page.
    """

    request: ReadHistory
    reader: str

    @classmethod
    def of(cls, request: ReadHistory, user_id: str) -> "HistoryPage":
        """The page that ``user_id`` asks for."""
        return cls(request, user_id if is_direct(request.room) else "")


class Messages(NamedTuple):
    """The messages of one page, oldest first, and whether there are more in the direction asked for."""

    messages: list[Message]
    has_more: bool


async def read_histories(
    connection: AsyncConnection, wanted: Iterable[HistoryPage]
) -> dict[HistoryPage, Messages]:
    """The history pages ``wanted``."""
    asked = list(dict.fromkeys(wanted))
    found: list[list[sa.Row[Any]]] = [[] for _ in asked]
    for row in await _union(
        connection, [(_history(number, page.request), page.request.room) for number, page in enumerate(asked)]
    ):
        found[row.number].append(row)
    return {page: _page(page, rows) for page, rows in zip(asked, found, strict=True)}


async def read_summaries(connection: AsyncConnection, users: Iterable[str]) -> dict[str, list[RoomSummary]]:
    """The rooms of each user, by name; the first :data:`ROOMS_LISTED`."""
    summaries: dict[str, list[RoomSummary]] = {user: [] for user in sorted(users)}
    if summaries:
        for row in await connection.execute(
            _summaries(connection.dialect.name), of_users(connection, list(summaries))
        ):
            summaries[row.user_id].append(
                RoomSummary(
                    room=row.room,
                    title=title(row.room, row.title, row.user_id),
                    seq=row.head,
                    read_seq=row.read_seq,
                    unread=row.unread,
                    private=True if row.private else None,
                    owner=row.owner if row.private else None,
                )
            )
    return {user: sorted(found, key=lambda summary: summary.room) for user, found in summaries.items()}


async def read_invitations(connection: AsyncConnection, users: Iterable[str]) -> dict[str, list[Invitation]]:
    """The invitations of each user, by room; the first :data:`ROOMS_LISTED`."""
    invitations: dict[str, list[Invitation]] = {user: [] for user in sorted(users)}
    if invitations:
        for row in await connection.execute(
            _invitations(connection.dialect.name), of_users(connection, list(invitations))
        ):
            invitation = Invitation(
                room=row.room, title=title(row.room, row.title, row.user_id), by=row.inviter
            )
            invitations[row.user_id].append(invitation)
    return {user: sorted(found, key=lambda one: one.room) for user, found in invitations.items()}


async def read_groups(connection: AsyncConnection, users: Iterable[str]) -> dict[str, list[str]]:
    """The groups of each user's connections; those of the first :data:`MOST_ROOMS` rooms."""
    groups: dict[str, list[str]] = {user: [] for user in sorted(users)}
    selects = [
        (
            _GROUPED.format(number=number, length=len(DIRECT_PREFIX), prefix=DIRECT_PREFIX, limit=MOST_ROOMS),
            user,
        )
        for number, user in enumerate(groups)
    ]
    for row in await _union(connection, selects, "user"):
        groups[row.user_id].append(stream_of(row.room))
    return {user: sorted(found) for user, found in groups.items()}


async def may_receive(
    connection: AsyncConnection, wanted: Collection[tuple[str, str]]
) -> set[tuple[str, str]]:
    """The pairs of a user and a room's stream whose user is in the room."""
    rooms = {(stream.removeprefix(STREAM_PREFIX), user) for user, stream in wanted}
    rows = await bulk.find(connection, MEMBERS, ("room", "user_id"), rooms)
    return {(row.user_id, stream_of(row.room)) for row in rows}


async def read_listed(connection: AsyncConnection, rooms: Iterable[str], limit: int) -> dict[str, list[str]]:
    """The members of each room, sorted; the first ``limit``."""
    listed: dict[str, list[str]] = {room: [] for room in sorted(rooms)}
    for row in await _union(
        connection,
        [(_LISTED.format(number=number, limit=limit), room) for number, room in enumerate(listed)],
    ):
        listed[row.room].append(row.user_id)
    return {room: sorted(found) for room, found in listed.items()}


async def read_first_members(connection: AsyncConnection, limits: Mapping[str, int]) -> Sequence[sa.Row[Any]]:
    """The rows of the members who are longest in each room, of each so many as ``limits`` says."""
    return await _union(
        connection,
        [
            (_FIRST_MEMBERS.format(number=number, limit=limit), room)
            for number, (room, limit) in enumerate(sorted(limits.items()))
        ],
    )


async def _union(
    connection: AsyncConnection, selects: Sequence[tuple[str, str]], parameter: str = "room"
) -> list[sa.Row[Any]]:
    """The rows of all ``selects``; the n-th has a parameter such as ``room_n``, given with it."""
    found: list[sa.Row[Any]] = []
    for part in batched(list(enumerate(selects)), _SELECTS_A_STATEMENT):
        statement = sa.text(" UNION ALL ".join(select for _, (select, _) in part))
        found += (
            await connection.execute(
                statement, {f"{parameter}_{number}": value for number, (_, value) in part}
            )
        ).all()
    return found


def _page(page: HistoryPage, rows: list[sa.Row[Any]]) -> Messages:
    request = page.request
    newest_first = request.after_seq is None
    rows.sort(key=lambda row: int(row.seq), reverse=newest_first)
    taken = rows[: request.limit]
    return Messages(
        [_message(row, page.reader) for row in (reversed(taken) if newest_first else taken)],
        bool(taken) and taken[0].found > len(taken),
    )


def _history(number: int, request: ReadHistory) -> str:
    # Only checked integers are put into the text.
    order, side = "DESC", "> 0"
    if request.before_seq is not None:
        side = f"< {request.before_seq}"
    if request.after_seq is not None:
        order, side = "ASC", f"> {request.after_seq}"
    return _HISTORY.format(number=number, order=order, side=side, limit=request.limit, bytes=HISTORY_BYTES)


@cache
def _summaries(dialect: str) -> sa.Select[Any]:
    member = first_rooms(dialect, MEMBERS)
    unread = (
        sa.select(sa.literal(1))
        .where(
            MESSAGES.c.room == member.c.room,
            MESSAGES.c.seq > member.c.read_seq,
            MESSAGES.c.user_id != member.c.user_id,
            MESSAGES.c.deleted_at.is_(None),
            sa.func.coalesce(MESSAGES.c.hidden_from, "") != member.c.user_id,
        )
        .limit(UNREAD_COUNTED)
        .correlate(member)
        .subquery()
    )
    counted = sa.select(sa.func.count()).select_from(unread).correlate(member).scalar_subquery()
    stream = sa.literal(STREAM_PREFIX).concat(member.c.room)
    return (
        sa.select(
            member,
            ROOMS.c.title,
            ROOMS.c.private,
            # A version that knows no owners may have made it (docs/adr/0028).
            sa.func.coalesce(ROOMS.c.owner, ROOMS.c.created_by).label("owner"),
            STREAMS.heads.c.head,
            counted.label("unread"),
        )
        .join(ROOMS, ROOMS.c.room == member.c.room)
        .join(STREAMS.heads, STREAMS.heads.c.stream == stream)
        .where(~member.c.hidden)
    )


@cache
def _invitations(dialect: str) -> sa.Select[Any]:
    guest = first_rooms(dialect, INVITATIONS)
    withdrawn = sa.exists().where(GONE.c.room == guest.c.room, GONE.c.seq > guest.c.seq)
    inviter = sa.func.coalesce(guest.c.shown_by, guest.c.invited_by)
    return (
        sa.select(guest, inviter.label("inviter"), ROOMS.c.title)
        .join(ROOMS, ROOMS.c.room == guest.c.room)
        .where(~withdrawn, ~is_unwelcome(guest.c.user_id, inviter))
    )


def of_users(connection: AsyncConnection, users: Sequence[str]) -> dict[str, Any]:
    """The parameters of a statement with :func:`first_rooms`."""
    return bulk.pair_values(connection, [(user, "") for user in users])


def first_rooms(dialect: str, table: sa.Table) -> sa.Subquery:
    """The rows in ``table`` of each user in the parameters (:func:`of_users`), by room; the first
    :data:`ROOMS_LISTED`.

    The index is read up to the last of them and no further, for any number of rooms of a user.
    """
    asked = bulk.pairs(dialect).subquery()
    user = asked.c[0]
    theirs = sa.select(table.c.room).where(table.c.user_id == user).correlate(asked)
    last = theirs.order_by(table.c.room).offset(ROOMS_LISTED - 1).limit(1).scalar_subquery()
    # With fewer rooms than that, `last` is NULL.
    very_last = theirs.with_only_columns(sa.func.max(table.c.room)).scalar_subquery()
    bounds = sa.select(user.label("user_id"), sa.func.coalesce(last, very_last).label("last")).subquery()
    within = sa.and_(table.c.user_id == bounds.c.user_id, table.c.room <= bounds.c.last)
    return sa.select(table).join_from(bounds, table, within).subquery()


def _message(row: Any, reader: str) -> Message:
    if row.hidden_from == reader:
        return Message(
            room=row.room,
            seq=row.seq,
            user=row.user_id,
            text="",
            sent_at=row.sent_at,
            deleted_at=row.deleted_at or row.sent_at,
            hidden=True,
        )
    return Message(
        room=row.room,
        seq=row.seq,
        user=row.user_id,
        text=row.text,
        sent_at=row.sent_at,
        client_ref=row.client_ref,
        edited_at=row.edited_at,
        deleted_at=row.deleted_at,
    )
