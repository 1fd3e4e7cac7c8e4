"""Where rooms are kept: the unit of work that handlers see.

Guarantees: the number of statements does not depend on the number of requests. Who changes a room holds the lock on
the head of its stream, taken before anything else of the room is read.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.domain import Member, NotInRoom, Room
from towpath.chat.reading import read_histories, read_listed, read_names, read_summaries
from towpath.chat.tables import MEMBERS, MESSAGES, ROOMS, STREAMS
from towpath.protocol.chat import (
    MAX_ROOM,
    History,
    JoinRoom,
    ListRooms,
    MemberChange,
    Message,
    ReadHistory,
    RoomSummary,
    SendDirect,
    direct_room,
    is_direct,
    stream_of,
)
from towpath.protocol.envelope import Envelope, now_ms
from towpath.protocol.sessions import SessionEvent
from towpath.protocol.streams import Resume
from towpath.servicekit.database import pairs
from towpath.servicekit.requests import Request
from towpath.servicekit.streams import Streams


class Rooms:
    """Unit of work of the chat service; see :class:`towpath.servicekit.dispatcher.UnitOfWork`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._streams = Streams(connection, STREAMS)
        self._rooms: dict[str, Room] = {}
        self._messages: list[dict[str, Any]] = []
        self._histories: dict[ReadHistory, History] = {}
        self._summaries: dict[str, list[RoomSummary]] = {}
        self._names: dict[str, list[str]] = {}

    async def load(self, requests: Sequence[Request]) -> None:
        named = [(room, request) for request in requests if (room := _room_of(request)) is not None]
        opened = {room for room, request in named if _opens(request)}
        changed = {room for room, request in named if request.handler.changes}
        await self._streams.load(map(stream_of, opened), if_there=map(stream_of, changed))
        await self._load_members({(room, user) for room, r in named for user in _users_of(r)})
        await self._load_opened(opened)
        await self._load_listed({room for room, r in named if isinstance(r.payload, JoinRoom)})
        asked = [(request.payload, _users_of(request)[0]) for request in requests]
        self._histories = await read_histories(
            self._connection,
            [p for p, user in asked if isinstance(p, ReadHistory) and self._has(p.room, user)],
        )
        self._summaries = await read_summaries(
            self._connection, {user for p, user in asked if isinstance(p, ListRooms)}
        )
        self._names = await read_names(
            self._connection, {user for p, user in asked if isinstance(p, Resume | SessionEvent)}
        )

    def of_member(self, user_id: str, name: str) -> Room:
        """A room that ``user_id`` is in.

        Raises:
            NotInRoom
        """
        if not self._has(name, user_id):
            raise NotInRoom(name)
        return self._rooms[name]

    def opened(self, name: str) -> Room:
        """A room that is made if it is not there; only for requests that may open one."""
        return self._rooms[name]

    def seq(self, room: Room) -> int:
        """Where the stream of a room stands; only for rooms of requests that change something."""
        return self._streams.head(stream_of(room.name))

    def changed(self, action: str, room: Room, user_id: str) -> Envelope:
        """The durable push that tells who came (``chat.joined``) or went (``chat.left``)."""
        return self._streams.append(
            stream_of(room.name),
            action,
            lambda seq: MemberChange(room=room.name, seq=seq, user=user_id).model_dump(),
        )

    def post(
        self, room: Room, user_id: str, text: str, client_ref: str | None = None
    ) -> tuple[Message, Envelope]:
        """Keep a message; returns it with the durable push that tells of it."""
        message = Message(
            room=room.name,
            seq=self.seq(room) + 1,
            user=user_id,
            text=text,
            sent_at=now_ms(),
            client_ref=client_ref,
        )
        push = self._streams.append(
            stream_of(room.name), "chat.message", lambda _: message.model_dump(exclude_none=True)
        )
        self._messages.append(
            {
                "room": room.name,
                "seq": message.seq,
                "user_id": user_id,
                "text": text,
                "client_ref": client_ref,
                "sent_at": message.sent_at,
                "size": len(push.to_json()),
            }
        )
        return message, push

    def history(self, request: ReadHistory) -> History:
        """What a member asked to read."""
        return self._histories[request]

    def summaries(self, user_id: str) -> list[RoomSummary]:
        """The rooms of a user, by name, with what is unread."""
        return self._summaries[user_id]

    def names(self, user_id: str) -> list[str]:
        """The names of all rooms of a user."""
        return self._names[user_id]

    async def save(self) -> None:
        await self._insert(
            ROOMS,
            [
                {"room": room.name, "created_at": now_ms()}
                for room in self._rooms.values()
                if room.is_new and room.members
            ],
        )
        await self._save_members()
        await self._insert(MESSAGES, self._messages)
        await self._streams.save()

    # Inside

    def _has(self, name: str, user_id: str) -> bool:
        room = self._rooms.get(name)
        return room is not None and room.has(user_id)

    def _room(self, name: str) -> Room:
        return self._rooms.setdefault(name, Room(name))

    async def _load_members(self, wanted: set[tuple[str, str]]) -> None:
        if not wanted:
            return
        key = sa.tuple_(MEMBERS.c.room, MEMBERS.c.user_id)
        found = sa.select(MEMBERS).where(key.in_(pairs(self._connection, wanted)))
        for row in await self._connection.execute(found):
            self._room(row.room).members[row.user_id] = Member(row.user_id, row.read_seq, is_stored=True)

    async def _load_opened(self, names: set[str]) -> None:
        if not names:
            return
        rows = await self._connection.execute(sa.select(ROOMS.c.room).where(ROOMS.c.room.in_(sorted(names))))
        there = {row.room for row in rows}
        for name in names:
            self._room(name).is_new = name not in there

    async def _load_listed(self, names: set[str]) -> None:
        for name, listed in (await read_listed(self._connection, names & self._rooms.keys())).items():
            self._rooms[name].listed = listed

    async def _save_members(self) -> None:
        members = [
            (member, {"room": room.name, "user_id": member.user_id, "read_seq": member.read_seq})
            for room in sorted(self._rooms.values(), key=lambda room: room.name)
            for member in room.members.values()
        ]
        stored = [(member, row) for member, row in members if member.is_stored]
        await self._insert(
            MEMBERS, [row for member, row in members if not member.is_stored and not member.is_gone]
        )
        here = sa.and_(MEMBERS.c.room == sa.bindparam("which"), MEMBERS.c.user_id == sa.bindparam("whose"))
        if changed := [row for member, row in stored if member.is_changed and not member.is_gone]:
            await self._connection.execute(
                MEMBERS.update().where(here).values(read_seq=sa.bindparam("new_read_seq")),
                [
                    {"which": row["room"], "whose": row["user_id"], "new_read_seq": row["read_seq"]}
                    for row in changed
                ],
            )
        if gone := [row for member, row in stored if member.is_gone]:
            await self._connection.execute(
                MEMBERS.delete().where(here),
                [{"which": row["room"], "whose": row["user_id"]} for row in gone],
            )

    async def _insert(self, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            await self._connection.execute(table.insert(), rows)


def _users_of(request: Request) -> list[str]:
    """Whose memberships a request is about; first who asks."""
    if request.session is None:
        assert isinstance(request.payload, SessionEvent)
        return [request.payload.user_id]
    user = request.session.user_id
    return [user, request.payload.to] if isinstance(request.payload, SendDirect) else [user]


def _room_of(request: Request) -> str | None:
    """The room a request names; none where the name would not do."""
    if isinstance(request.payload, SendDirect):
        name = direct_room(*_users_of(request))
        return name if len(name) <= MAX_ROOM else None
    return getattr(request.payload, "room", None)


def _opens(request: Request) -> bool:
    """Whether a request makes its room if it is not there."""
    payload = request.payload
    return isinstance(payload, SendDirect) or (isinstance(payload, JoinRoom) and not is_direct(payload.room))
