"""Lists: answers that requests only read. The counterpart of :mod:`towpath.chat.repository`, which changes.

Guarantees: as in :mod:`towpath.chat.reading`. An answer is read for its own reader: two users of a room of two may
see different histories of it.
"""

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.blocks import read_blocked
from towpath.chat.finding import read_found
from towpath.chat.reading import (
    HistoryPage,
    Messages,
    may_receive,
    read_groups,
    read_histories,
    read_invitations,
    read_summaries,
)
from towpath.chat.tables import STREAMS
from towpath.protocol.chat import (
    BlockedUser,
    FindRooms,
    FoundRooms,
    History,
    Invitation,
    ListBlocked,
    ListMembers,
    ListRooms,
    ReadHistory,
    RoomSummary,
    stream_of,
)
from towpath.protocol.fields import Payload
from towpath.protocol.sessions import SessionStarted
from towpath.protocol.streams import Resume
from towpath.servicekit import read_heads


class Lists:
    """The lists that the requests of one unit of work read."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._positions: dict[str, int] = {}
        self._histories: dict[HistoryPage, Messages] = {}
        self._summaries: dict[str, list[RoomSummary]] = {}
        self._invitations: dict[str, list[Invitation]] = {}
        self._found: dict[FindRooms, FoundRooms] = {}
        self._blocked: dict[str, list[BlockedUser]] = {}
        self._groups: dict[str, list[str]] = {}
        self._receivable: set[tuple[str, str]] = set()

    async def load_positions(self, asked: Iterable[Payload]) -> None:
        """Read the positions of the rooms whose history or members are ``asked`` for.

        Before anything else is read: another transaction may commit between two reads, and a list may be newer than
        its position, but not older.
        https://www.postgresql.org/docs/current/transaction-iso.html#XACT-READ-COMMITTED
        """
        streams = {stream_of(p.room) for p in asked if isinstance(p, ReadHistory | ListMembers)}
        if streams:
            self._positions = await read_heads(self._connection, STREAMS, streams)

    async def load(self, asked: Sequence[tuple[Payload, str]], histories: Collection[HistoryPage]) -> None:
        """Read what the requests ``asked``, with their users, list.

        Args:
            histories: The permitted ones.
        """
        connection = self._connection
        self._histories = await read_histories(connection, histories)
        listing = {user for p, user in asked if isinstance(p, ListRooms)}
        self._summaries = await read_summaries(connection, listing)
        self._invitations = await read_invitations(connection, listing)
        self._found = await read_found(connection, [p for p, _ in asked if isinstance(p, FindRooms)])
        self._blocked = await read_blocked(
            connection, {user for p, user in asked if isinstance(p, ListBlocked)}
        )
        self._groups = await read_groups(
            connection, {user for p, user in asked if isinstance(p, Resume | SessionStarted)}
        )
        if wanted := {(user, name) for p, user in asked if isinstance(p, Resume) for name in p.positions}:
            self._receivable = await may_receive(connection, wanted)

    def position(self, room: str) -> int:
        """The position of a room's stream that its history and its members include."""
        return self._positions.get(stream_of(room), 0)

    def history(self, request: ReadHistory, user_id: str) -> History:
        """The history page of a request of ``user_id``."""
        messages, has_more = self._histories[HistoryPage.of(request, user_id)]
        seq = self.position(request.room)
        return History(room=request.room, messages=messages, has_more=has_more, seq=seq)

    def summaries(self, user_id: str) -> list[RoomSummary]:
        """The rooms of a user, by name, with unread counts."""
        return self._summaries[user_id]

    def invitations(self, user_id: str) -> list[Invitation]:
        """The invitations of a user, by the name of the room."""
        return self._invitations[user_id]

    def found(self, request: FindRooms) -> FoundRooms:
        """The public rooms that a request finds, by name."""
        return self._found[request]

    def blocked(self, user_id: str) -> list[BlockedUser]:
        """The users whom a user blocks, by name."""
        return self._blocked[user_id]

    def groups(self, user_id: str) -> list[str]:
        """The groups of a user's connections."""
        return self._groups[user_id]

    def may_receive(self, user_id: str, stream: str) -> bool:
        """Whether a user may receive a stream; only for streams that a resume names."""
        return (user_id, stream) in self._receivable
