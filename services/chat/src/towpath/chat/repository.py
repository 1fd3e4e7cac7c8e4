"""The repository of rooms: the unit of work of the handlers.

Guarantees: the number of statements does not depend on the number of requests. A change of a room holds the lock on
the head of its stream, taken before anything else of the room is read.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.blocks import Blocks
from towpath.chat.crowds import mark
from towpath.chat.domain import Room
from towpath.chat.errors import NotInRoom, TooManyMembers
from towpath.chat.fanout import FanOut
from towpath.chat.limits import MOST_LISTED, Limits, Quotas
from towpath.chat.lists import Lists
from towpath.chat.loading import load_first_members, load_guests, load_members, load_rooms
from towpath.chat.membership import Guest
from towpath.chat.messages import Messages
from towpath.chat.presence import read_online
from towpath.chat.presence_events import Clock, PresenceEvents
from towpath.chat.reading import HistoryPage, read_listed
from towpath.chat.request_names import (
    BLOCKING,
    LEAVING,
    OF_GUEST,
    OF_ROOM,
    PUSHED,
    blocks_of,
    locks,
    opens,
    room_of,
    users_of,
)
from towpath.chat.tables import STREAMS
from towpath.chat.writing import save_guests, save_members, save_rooms
from towpath.protocol.chat import (
    DeleteMessage,
    DropRoom,
    EditMessage,
    Invite,
    JoinRoom,
    ListMembers,
    MemberChange,
    ReadHistory,
    TransferRoom,
    stream_of,
)
from towpath.protocol.envelope import Envelope, now_ms
from towpath.protocol.fields import Payload
from towpath.servicekit import Leave, Request, Streams

DEFAULT_LIMITS: Final = Limits()


class Rooms:
    """Unit of work of the chat service; see :class:`towpath.servicekit.UnitOfWork`.

    Attributes:
        messages: The messages of the rooms.
        presence_events: The presence events from gateways.
        quotas: The current counts of the users of the requests.
        blocks: The blocks between the users of the requests.
        lists: The lists that the requests only read.
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
        self.blocks = Blocks(connection, limits.blocks_per_user, clock)
        self.lists = Lists(connection)
        self._rooms: dict[str, Room] = {}
        self._online: set[str] = set()
        self._crowds: set[str] = set()

    async def load(self, requests: Sequence[Request]) -> None:
        await self.lists.load_positions(request.payload for request in requests)
        named = [(room, request) for request in requests if (room := room_of(request)) is not None]
        await self._load_rooms(requests, named)
        await self._load_quotas(named)
        pushed_to = (room for room, r in named if type(r.payload) in PUSHED)
        # Counted for the whole batch here; the handlers only pay.
        await self._fanout.count(self._connection, self._fanout.uncounted(pushed_to))
        await self.messages.load(
            {(room, r.payload.seq) for room, r in named if isinstance(r.payload, EditMessage | DeleteMessage)}
        )
        asked: list[tuple[Payload, str]] = [(request.payload, users_of(request)[0]) for request in requests]
        await self._load_many_members(named, asked)
        # After the changes of the batch were locked, and before they are made: reads show the state before it.
        await self.lists.load(
            asked,
            [
                HistoryPage.of(p, user)
                for p, user in asked
                if isinstance(p, ReadHistory) and self._has(p.room, user)
            ],
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
        """A room that is created if it does not exist; only for requests that may create one."""
        return self._rooms[name]

    def seq(self, room: Room) -> int:
        """The head of a room's stream; only for rooms of requests that change something."""
        return self._streams.head(stream_of(room.name))

    def invitation(self, name: str, user_id: str) -> Guest | None:
        """The open invitation of a user, unless the user blocks its inviter."""
        guest = self._rooms[name].guest(user_id) if name in self._rooms else None
        return None if guest is None or self.blocks.has(user_id, guest.inviter) else guest

    def hidden_from(self, room: Room, user_id: str) -> str | None:
        """The reader of a room of two who blocks ``user_id``, and so gets nothing of what that user does."""
        other = room.other(user_id)
        return other if other is not None and self.blocks.has(other, user_id) else None

    def appended(self, action: str, room: Room, data: Callable[[int], Payload]) -> Envelope:
        """A durable push of a room; ``data`` builds its payload from its ``seq``."""
        return self._streams.append(
            stream_of(room.name), action, lambda seq: data(seq).model_dump(exclude_none=True)
        )

    def changed(self, action: str, room: Room, user_id: str, *, by: str | None = None) -> Envelope:
        """The durable push for a join (``chat.joined``) or a leave (``chat.left``)."""
        return self.appended(
            action, room, lambda seq: MemberChange(room=room.name, seq=seq, user=user_id, by=by)
        )

    def dismiss(self, room: Room, user_id: str) -> None:
        """Remove a member from the room, and from its group before any later push.

        Raises:
            NotInRoom
        """
        room.dismiss(user_id)
        # Stored beside the head until the `unsubscribe` is confirmed (docs/adr/0021): no later push reaches the user.
        self._streams.remove_member(stream_of(room.name), stream_of(room.name), user_id)
        self.quotas.left(user_id, room.name)

    def add_member(self, room: Room, user_id: str) -> None:
        """Add a joining user to the room's group."""
        self._streams.add_member(stream_of(room.name), user_id)

    def check_dropping(self, room: Room) -> None:
        """Check that all members of the room may be removed at once.

        Raises:
            TooManyMembers
        """
        if (count := len(self.all_members(room))) > MOST_LISTED:
            raise TooManyMembers(room.name, max(count, room.count), MOST_LISTED)

    def all_members(self, room: Room) -> list[str]:
        """The members of a room that a request drops, sorted; more than may be removed at once, if there are more."""
        return sorted(user for user, member in room.members.items() if not member.is_gone)

    def leaves(self, room: Room) -> Sequence[Leave]:
        """Leaves of a room that the gateways may not know yet."""
        return self._streams.leaves(stream_of(room.name))

    def vacate(self, room: Room, user_id: str) -> Envelope:
        """Mark a room without members as gone, by ``user_id``; returns the push for the last leave."""
        stream = stream_of(room.name)
        left = self._streams.append(
            stream,
            "chat.left",
            lambda seq: MemberChange(room=room.name, seq=seq, user=user_id).model_dump(exclude_none=True),
            stored=False,
        )
        room.vacate(self._streams.head(stream))
        return left

    def is_online(self, user_id: str) -> bool:
        """Whether a user has an open connection; only for members of requested rooms."""
        return user_id in self._online

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
        await save_members(self._connection, rooms, now)
        await save_guests(self._connection, rooms, now)
        await self.blocks.save()
        await mark(self._connection, self._crowds, now)
        await self.messages.save()
        await self._streams.save()
        await self.presence_events.save()

    # Inside

    def _has(self, name: str, user_id: str) -> bool:
        room = self._rooms.get(name)
        return room is not None and room.has(user_id)

    async def _load_rooms(self, requests: Sequence[Request], named: Sequence[tuple[str, Request]]) -> None:
        opened = {room for room, request in named if opens(request)}
        changed = {room for room, request in named if request.handler.changes}
        locked = {room for request in requests if (room := locks(request)) is not None}
        # First, because it locks the heads: all that is read below cannot change before the commit. Only a request
        # that may create a room may create a stream; a lock of one that does not exist leaves no row.
        await self._streams.load(map(stream_of, opened | locked), if_there=map(stream_of, changed))
        further = {room for room, r in named if type(r.payload) in OF_ROOM}
        await load_rooms(self._connection, self._rooms, opened, further)
        members = {(room, user) for room, r in named for user in users_of(r)}
        await load_members(self._connection, self._rooms, members)
        guests = {(room, users_of(r)[-1]) for room, r in named if type(r.payload) in OF_GUEST}
        await load_guests(self._connection, self._rooms, guests)
        # After the guests: whether they see their invitations depends on the inviters.
        pairs = {
            (guest.user_id, guest.inviter) for room in self._rooms.values() for guest in room.guests.values()
        }
        blocking = {users_of(r)[0] for r in requests if type(r.payload) in BLOCKING}
        await self.blocks.load(pairs.union(*map(blocks_of, requests)), blocking)

    async def _load_many_members(
        self, named: Sequence[tuple[str, Request]], asked: Sequence[tuple[Payload, str]]
    ) -> None:
        # Only for members: the handler refuses all others.
        listed = [p.room for p, user in asked if isinstance(p, ListMembers) and self._has(p.room, user)]
        joined = {p.room for p, _ in asked if isinstance(p, JoinRoom)}
        leaving = Counter(room for room, r in named if type(r.payload) in LEAVING)
        await self._load_listed(joined | set(listed) | self._may_be_abandoned(leaving), leaving.total())
        if listed:
            shown = {user for room in listed for user in self.listed(self._rooms[room])}
            self._online = await read_online(self._connection, shown)
        # One more than the leaves: the longest member that is left is among them, and succeeds an owner who leaves.
        first = {room: leaving[room] + 1 for room in leaving if self._is_owned(room)}
        # A member, or a user whom this batch makes the owner: the handler refuses all others.
        handed = {p.room for p, _ in asked if isinstance(p, TransferRoom)}
        for p, user in asked:
            if isinstance(p, DropRoom) and (self._has(p.room, user) or p.room in handed):
                first[p.room] = MOST_LISTED + leaving.total()
        await load_first_members(self._connection, self._rooms, first)

    async def _load_quotas(self, named: Sequence[tuple[str, Request]]) -> None:
        leaving = {users_of(r)[-1] for _, r in named if type(r.payload) in LEAVING}
        opening = [(room, users_of(r)) for room, r in named if opens(r)]
        left = {room for room, r in named if type(r.payload) in LEAVING}
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

    def _is_owned(self, name: str) -> bool:
        return name in self._rooms and self._rooms[name].owner is not None

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
