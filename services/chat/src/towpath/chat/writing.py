"""Bulk writes of a unit of work's changes in rooms, members and invitations.

Guarantee: the number of statements does not depend on the number of rooms. Rooms are sorted, so that rows are locked
in one order.
"""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.domain import Room
from towpath.chat.membership import Member
from towpath.chat.tables import GONE, INVITATIONS, MEMBERS, ROOMS
from towpath.servicekit import bulk


def _delete_one(table: sa.Table) -> sa.Delete:
    return table.delete().where(
        table.c.room == sa.bindparam("which"), table.c.user_id == sa.bindparam("whose")
    )


_DISMISS: Final = _delete_one(MEMBERS)
_WITHDRAW: Final = _delete_one(INVITATIONS)


async def save_rooms(connection: AsyncConnection, rooms: Sequence[Room], now: int) -> None:
    """Write new rooms, gone rooms, owners, and the numbers of members."""
    if gone := [room for room in rooms if room.gone]:
        # Deleted first: a new room of the same name may be inserted below.
        stored = [room.name for room in gone if room.is_stored]
        await connection.execute(ROOMS.delete().where(ROOMS.c.room.in_(stored)))
        await bulk.insert(
            connection,
            GONE,
            [
                {
                    "room": room.name,
                    "seq": one.seq,
                    "created_by": one.created_by,
                    "created_at": now if one.created_at is None else one.created_at,
                    "uncleared_since": now,
                }
                for room in gone
                for one in room.gone
            ],
        )
    await bulk.insert(
        connection,
        ROOMS,
        [
            {
                "room": room.name,
                "created_at": now,
                "title": room.title,
                "private": room.private,
                "created_by": room.created_by,
                "members": room.count,
                "owner": room.owner,
            }
            for room in rooms
            # A room that is gone and made again in one batch has no row any more.
            if room.exists and (room.gone or not room.is_stored)
        ],
    )
    counts = [
        {"room": room.name, "members": room.count}
        for room in rooms
        if room.is_stored and room.is_count_changed and not room.gone
    ]
    await bulk.update(connection, ROOMS, counts, key=["room"])
    owners = [
        {"room": room.name, "owner": room.owner}
        for room in rooms
        if room.is_stored and room.is_owner_changed and not room.gone
    ]
    await bulk.update(connection, ROOMS, owners, key=["room"])


async def save_members(connection: AsyncConnection, rooms: Sequence[Room], now: int) -> None:
    """Write joins, leaves and read positions."""
    members = [
        (member, {"room": room.name, "user_id": member.user_id, "read_seq": member.read_seq})
        for room in rooms
        for member in room.members.values()
    ]
    stored = [(member, row) for member, row in members if member.is_stored]
    await bulk.insert(
        connection,
        MEMBERS,
        [
            {**row, **_membership(member, now)}
            for member, row in members
            if not member.is_stored and not member.is_gone
        ],
    )
    changed = [row for member, row in stored if member.is_changed and not member.is_gone]
    await bulk.update(connection, MEMBERS, changed, key=["room", "user_id"])
    # Apart, because nearly every change is one of a read position, of which an update writes the fewest columns.
    moved = [
        {"room": row["room"], "user_id": row["user_id"], **_membership(member, now)}
        for member, row in stored
        if member.is_moved and not member.is_gone
    ]
    await bulk.update(connection, MEMBERS, moved, key=["room", "user_id"])
    if gone := [row for member, row in stored if member.is_gone]:
        await connection.execute(_DISMISS, [{"which": row["room"], "whose": row["user_id"]} for row in gone])


async def save_guests(connection: AsyncConnection, rooms: Sequence[Room], now: int) -> None:
    """Write new and used invitations."""
    changed = [
        (guest, {"room": room.name, "user_id": guest.user_id})
        for room in rooms
        for guest in room.guests.values()
        if guest.is_changed
    ]
    # Used up, or replaced by the row that is inserted below.
    if stored := [row for guest, row in changed if guest.is_stored]:
        await connection.execute(
            _WITHDRAW, [{"which": row["room"], "whose": row["user_id"]} for row in stored]
        )
    await bulk.insert(
        connection,
        INVITATIONS,
        [
            {
                **row,
                "invited_by": guest.by,
                "created_at": now,
                "seq": guest.seq,
                "shown_by": guest.shown_by,
            }
            for guest, row in changed
            if not guest.has_come
        ],
    )


def _membership(member: Member, now: int) -> dict[str, Any]:
    joined_at = now if member.joined_at is None else member.joined_at
    return {"joined_at": joined_at, "hidden": member.is_hidden}
