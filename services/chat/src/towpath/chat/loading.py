"""Bulk reads of the rooms, members and invitations that a batch names; the counterpart of `writing`.

Guarantee: the number of statements does not depend on the number of rooms. Each function fills the same rooms by
name; a room that is named and does not exist gets an object that says so (:attr:`Room.exists`).
"""

from collections.abc import Mapping, Set
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.domain import Room
from towpath.chat.gone import read_gone
from towpath.chat.membership import Guest, Member
from towpath.chat.reading import read_first_members
from towpath.chat.tables import INVITATIONS, MEMBERS, ROOMS
from towpath.servicekit import bulk


async def load_rooms(
    connection: AsyncConnection, rooms: dict[str, Room], opened: Set[str], further: Set[str]
) -> None:
    """Read rooms.

    Args:
        opened: Rooms that a request may create: they get an object in any case.
        further: Rooms that get one only if they exist.
    """
    for name in opened:
        _room(rooms, name)
    if not opened and not further:
        return
    names = bulk.name_values(connection, sorted(opened | further))
    for row in await connection.execute(_rooms(connection.dialect.name), names):
        room = _room(rooms, row.room)
        room.title, room.private, room.created_by = row.title, row.private, row.created_by
        room.created_at, room.count = row.created_at, row.members
        # A version that knows no owners may have made it (docs/adr/0028).
        room.owner = (row.owner or row.created_by) if row.private else None
        room.exists = room.is_stored = True


async def load_members(
    connection: AsyncConnection, rooms: dict[str, Room], wanted: Set[tuple[str, str]]
) -> None:
    """Read those of ``wanted``, pairs of room and user, that are members."""
    for row in await bulk.find(connection, MEMBERS, ("room", "user_id"), wanted):
        _add_member(rooms, row)


async def load_first_members(
    connection: AsyncConnection, rooms: dict[str, Room], limits: Mapping[str, int]
) -> None:
    """Read the members of rooms who are longest in them, of each room so many as ``limits`` says."""
    for row in await read_first_members(connection, limits):
        _add_member(rooms, row)


async def load_guests(
    connection: AsyncConnection, rooms: dict[str, Room], wanted: Set[tuple[str, str]]
) -> None:
    """Read those of ``wanted``, pairs of room and user, that are invited."""
    rows = await bulk.find(connection, INVITATIONS, ("room", "user_id"), wanted)
    gone = await read_gone(connection, {row.room for row in rows}) if rows else {}
    for row in rows:
        # An invitation to a gone room of this name is not one to the room that has the name now.
        has_come = row.seq < gone.get(row.room, 0)
        guest = Guest(row.user_id, row.invited_by, row.seq, row.shown_by, is_stored=True, has_come=has_come)
        _room(rooms, row.room).guests[row.user_id] = guest


@cache
def _rooms(dialect: str) -> sa.Select[Any]:
    return sa.select(ROOMS).where(bulk.one_of(dialect, ROOMS.c.room))


def _add_member(rooms: dict[str, Room], row: Any) -> None:
    member = Member(row.user_id, row.read_seq, row.joined_at, bool(row.hidden), is_stored=True)
    _room(rooms, row.room).members.setdefault(row.user_id, member)


def _room(rooms: dict[str, Room], name: str) -> Room:
    return rooms.setdefault(name, Room(name))
