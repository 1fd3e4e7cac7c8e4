"""The repository of rooms: the unit of work of the handlers.

Guarantees: the number of statements does not depend on the number of requests. A change of a room holds the lock on
the head of its stream, taken before anything else of the room is read.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.crowds import mark
from towpath.chat.domain import Room
from towpath.chat.errors import NotInRoom
from towpath.chat.fanout import FanOut
from towpath.chat.limits import Limits, Quotas
from towpath.chat.loading import load_guests, load_members, load_rooms
from towpath.chat.messages import Messages
from towpath.chat.presence import read_online
from towpath.chat.presence_events import Clock, PresenceEvents
from towpath.chat.reading import (
    may_receive,
    read_groups,
    read_histories,
    read_invitations,
    read_listed,
    read_summaries,
)
from towpath.chat.request_names import opens, room_of, users_of
from towpath.chat.tables import STREAMS
from towpath.chat.writing import save_guests, save_members, save_rooms
from towpath.protocol.chat import (
    DeleteMessage,
    EditMessage,
    History,
    Invitation,
    Invite,
    JoinRoom,
    LeaveRoom,
    ListMembers,
    ListRooms,
    MarkRead,
    MemberChange,
    ReadHistory,
    RoomSummary,
    SendDirect,
    SendMessage,
    Typing,
    stream_of,
)
from towpath.protocol.envelope import Envelope, now_ms
from towpath.protocol.sessions import SessionStarted
from towpath.protocol.streams import Resume
from towpath.servicekit import Leave, Request, Streams

DEFAULT_LIMITS: Final = Limits()
#: Requests that cause a push to a room.
_PUSHED: Final = (
    JoinRoom | LeaveRoom | SendMessage | SendDirect | EditMessage | DeleteMessage | MarkRead | Typing
)


class Rooms:
    """Unit of work of the chat service; see :class:`towpath.servicekit.UnitOfWork`.

    Attributes:
        messages: The messages of the rooms.
        presence_events: The presence events from gateways.
        quotas: The current counts of the users of the requests.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        clock: Clock = now_ms,
        limits: Limits = DEFAULT_LIMITS,
        fanout: FanOut | None = None,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._streams = Streams(connection, STREAMS)
        self.messages = Messages(connection, self._streams)
        self.presence_events = PresenceEvents(connection, clock)
        self._limits = limits
        self._fanout = fanout or FanOut(limits.deliveries)
        self.quotas = Quotas(connection, limits, clock)
        self._rooms: dict[str, Room] = {}
        self._histories: dict[ReadHistory, History] = {}
        self._summaries: dict[str, list[RoomSummary]] = {}
        self._invitations: dict[str, list[Invitation]] = {}
        self._online: set[str] = set()
        self._groups: dict[str, list[str]] = {}
        self._receivable: set[tuple[str, str]] = set()
        self._crowds: set[str] = set()

    async def load(self, requests: Sequence[Request]) -> None:
        named = [(room, request) for request in requests if (room := room_of(request)) is not None]
        opened = {room for room, request in named if opens(request)}
        changed = {room for room, request in named if request.handler.changes}
        # First, because it locks the heads: all that is read below cannot change before the commit. Only a request
        # that may create a room may create a stream.
        await self._streams.load(map(stream_of, opened), if_there=map(stream_of, changed))
        counted = LeaveRoom | MarkRead | Typing | ListMembers
        further = {room for room, r in named if isinstance(r.payload, Invite | counted)}
        await load_rooms(self._connection, self._rooms, opened, further)
        members = {(room, user) for room, r in named for user in users_of(r)}
        await load_members(self._connection, self._rooms, members)
        # The last element of an invitation is the invitee.
        guests = {(room, users_of(r)[-1]) for room, r in named if isinstance(r.payload, JoinRoom | Invite)}
        await load_guests(self._connection, self._rooms, guests)
        await self._load_quotas(named)
        pushed_to = (room for room, r in named if isinstance(r.payload, _PUSHED))
        # Counted for the whole batch here; the handlers only pay.
        await self._fanout.count(self._connection, self._fanout.uncounted(pushed_to))
        await self.messages.load(
            {(room, r.payload.seq) for room, r in named if isinstance(r.payload, EditMessage | DeleteMessage)}
        )
        asked = [(request.payload, users_of(request)[0]) for request in requests]
        # Only for members: the handler refuses all others.
        listed = [p.room for p, user in asked if isinstance(p, ListMembers) and self._has(p.room, user)]
        joined = {p.room for p, _ in asked if isinstance(p, JoinRoom)}
        leaving = Counter(p.room for p, _ in asked if isinstance(p, LeaveRoom))
        await self._load_listed(joined | set(listed) | self._may_be_abandoned(leaving), leaving.total())
        if listed:
            shown = {user for room in listed for user in self.listed(self._rooms[room])}
            self._online = await read_online(self._connection, shown)
        self._histories = await read_histories(
            self._connection,
            [p for p, user in asked if isinstance(p, ReadHistory) and self._has(p.room, user)],
        )
        # After the changes of the batch were locked, and before they are made: reads show the state before it.
        listing = {user for p, user in asked if isinstance(p, ListRooms)}
        self._summaries = await read_summaries(self._connection, listing)
        self._invitations = await read_invitations(self._connection, listing)
        self._groups = await read_groups(
            self._connection, {user for p, user in asked if isinstance(p, Resume | SessionStarted)}
        )
        if wanted := {(user, name) for p, user in asked if isinstance(p, Resume) for name in p.positions}:
            self._receivable = await may_receive(self._connection, wanted)

    def of_member(self, user_id: str, name: str) -> Room:
        """A room that ``user_id`` is in.

        Raises:
            NotInRoom
        """
        if not self._has(name, user_id):
            raise NotInRoom(name)
        return self._rooms[name]

    def opened(self, name: str) -> Room:
        """A room that is created if it does not exist; only for requests that may create one."""
        return self._rooms[name]

    def seq(self, room: Room) -> int:
        """The head of a room's stream; only for rooms of requests that change something."""
        return self._streams.head(stream_of(room.name))

    def changed(self, action: str, room: Room, user_id: str) -> Envelope:
        """The durable push for a join (``chat.joined``) or a leave (``chat.left``)."""
        return self._streams.append(
            stream_of(room.name),
            action,
            lambda seq: MemberChange(room=room.name, seq=seq, user=user_id).model_dump(),
        )

    def remove_member(self, room: Room, user_id: str) -> None:
        """Remove a leaving user from the room's group, before any later push."""
        self._streams.remove_member(stream_of(room.name), stream_of(room.name), user_id)

    def add_member(self, room: Room, user_id: str) -> None:
        """Add a joining user to the room's group."""
        self._streams.add_member(stream_of(room.name), user_id)

    def leaves(self, room: Room) -> Sequence[Leave]:
        """Leaves of a room that the gateways may not know yet."""
        return self._streams.leaves(stream_of(room.name))

    def vacate(self, room: Room, user_id: str) -> Envelope:
        """Mark a room as gone after its last member ``user_id`` left; returns the push for it."""
        stream = stream_of(room.name)
        left = self._streams.append(
            stream,
            "chat.left",
            lambda seq: MemberChange(room=room.name, seq=seq, user=user_id).model_dump(),
            stored=False,
        )
        room.vacate(self._streams.head(stream))
        return left

    def history(self, request: ReadHistory) -> History:
        """The history page of a request."""
        return self._histories[request]

    def summaries(self, user_id: str) -> list[RoomSummary]:
        """The rooms of a user, by name, with unread counts."""
        return self._summaries[user_id]

    def invitations(self, user_id: str) -> list[Invitation]:
        """The invitations of a user, by the name of the room."""
        return self._invitations[user_id]

    def is_online(self, user_id: str) -> bool:
        """Whether a user has an open connection; only for members of requested rooms."""
        return user_id in self._online

    def groups(self, user_id: str) -> list[str]:
        """The groups of a user's connections."""
        return self._groups[user_id]

    def may_receive(self, user_id: str, stream: str) -> bool:
        """Whether a user may receive a stream; only for streams that a resume names."""
        return (user_id, stream) in self._receivable

    def is_crowd(self, room: Room, *, more: int = 0) -> bool:
        """Whether a room is a crowd, or would be with ``more`` additional members."""
        return room.count + more > self._limits.crowd_members

    def crowd_count(self, room: Room) -> int | None:
        """The number of members of a crowd; ``None`` for other rooms."""
        return room.count if self.is_crowd(room) else None

    def pay(self, user_id: str, room: Room, text: str = "") -> None:
        """Charge a user for a push of ``text`` to every member of a room; a check, so call it before any change.

        Raises:
            FanOutLimitExceeded
        """
        self._fanout.pay(user_id, room.name, len(text))

    def pay_for_change(self, user_id: str, room: Room) -> None:
        """Charge a user for a join, a leave or a read position, which in a crowd is not pushed to every member.

        Raises:
            FanOutLimitExceeded
        """
        if not self.is_crowd(room):
            self._fanout.pay(user_id, room.name)

    def may_show_typing(self, user_id: str, room: Room) -> bool:
        """Whether a typing push is allowed now."""
        return self._fanout.may_show_typing(user_id, room.name)

    def listed(self, room: Room) -> list[str]:
        """The members of a room, sorted; of a crowd the first ones."""
        return room.listed[: self._limits.crowd_members]

    def mark_crowd(self, room: Room) -> None:
        """Mark a crowd, so that its count is pushed soon."""
        self._crowds.add(room.name)

    async def save(self) -> None:
        rooms = sorted(self._rooms.values(), key=lambda room: room.name)
        now = self._clock()
        await save_rooms(self._connection, rooms, now)
        await save_members(self._connection, rooms)
        await save_guests(self._connection, rooms, now)
        await mark(self._connection, self._crowds, now)
        await self.messages.save()
        await self._streams.save()
        await self.presence_events.save()

    # Inside

    def _has(self, name: str, user_id: str) -> bool:
        room = self._rooms.get(name)
        return room is not None and room.has(user_id)

    async def _load_quotas(self, named: Sequence[tuple[str, Request]]) -> None:
        leaving = {users_of(r)[0] for _, r in named if isinstance(r.payload, LeaveRoom)}
        opening = [(room, users_of(r)) for room, r in named if opens(r)]
        left = {room for room, r in named if isinstance(r.payload, LeaveRoom)}
        making = [(room, users) for room, users in opening if room in left or not self._rooms[room].exists]
        entering = {
            (user, room)
            for room, users in opening
            for user in users
            # Most users who join, or write to one person, are members already: their rooms need not be counted.
            if not self._has(room, user) or user in leaving
        }
        await self.quotas.load(
            entering=entering,
            making={users[0] for _, users in making},
            inviting={(users_of(r)[0], r.payload.user) for _, r in named if isinstance(r.payload, Invite)},
        )

    def _may_be_abandoned(self, leaving: Mapping[str, int]) -> set[str]:
        """Rooms whose members must be counted, because all of them may leave."""
        rooms = [self._rooms[room] for room in leaving if room in self._rooms]
        return {room.name for room in rooms if room.private and room.count <= leaving[room.name]}

    async def _load_listed(self, names: set[str], leaving: int) -> None:
        # Reads so many more members that the first ones are still known after the leaves.
        limit = self._limits.crowd_members + leaving
        for name, listed in (await read_listed(self._connection, names & self._rooms.keys(), limit)).items():
            room = self._rooms[name]
            room.listed = listed
            # Correct even if a version that does not count members has run beside this one.
            room.count = len(listed) if len(listed) < limit else max(room.count, limit)
