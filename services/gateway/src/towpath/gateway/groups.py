"""Who is here: the connections of this replica by id, by user and by group.

Keyed by routing keys, so that a push finds its receivers with one look-up. These tables are the truth about local
membership; they live and die with the connections.
"""

import asyncio
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from towpath.protocol.routes import control_key, user_key

if TYPE_CHECKING:
    from towpath.gateway.sessions import Session


class Members:
    """The connections of this replica."""

    def __init__(self) -> None:
        self._by_id: dict[str, Session] = {}
        self._by_key: dict[str, dict[Session, None]] = {}
        self.empty = asyncio.Event()  #: set while nobody is here
        self.empty.set()

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list["Session"]:
        """Everybody, oldest first; a copy."""
        return list(self._by_id.values())

    def add(self, session: "Session") -> None:
        """Take in a session, with its user's keys."""
        self._by_id[session.connection_id] = session
        self.empty.clear()
        for key in (user_key(session.user_id), control_key(session.user_id)):
            self._by_key.setdefault(key, {})[session] = None

    def remove(self, session: "Session") -> None:
        """Forget a session and all its groups."""
        self._by_id.pop(session.connection_id, None)
        for key in (user_key(session.user_id), control_key(session.user_id), *session.groups):
            self._drop(key, session)
        session.groups.clear()
        if not self._by_id:
            self.empty.set()

    def subscribe(self, session: "Session", keys: Iterable[str], *, most: int) -> int:
        """Put a session into groups, named by their routing keys; idempotent.

        Args:
            most: Groups that a session may be in.

        Returns:
            How many it was not put into because of ``most``.
        """
        if session.connection_id not in self._by_id:
            return 0
        over = 0
        for key in keys:
            if key not in session.groups and len(session.groups) >= most:
                over += 1
                continue
            session.groups.add(key)
            self._by_key.setdefault(key, {})[session] = None
        return over

    def unsubscribe(self, session: "Session", keys: Iterable[str]) -> None:
        """Take a session out of groups, named by their routing keys; idempotent."""
        for key in keys:
            session.groups.discard(key)
            self._drop(key, session)

    def forget_groups(self, session: "Session") -> None:
        """Take a session out of all its groups."""
        for key in session.groups:
            self._drop(key, session)
        session.groups.clear()

    def connection(self, connection_id: str | None) -> "Session | None":
        """The session of a connection, if it is here."""
        return self._by_id.get(connection_id) if connection_id else None

    def behind(self, routing_key: str) -> "Collection[Session]":
        """The sessions that ``user.*``, ``group.*`` or ``control.*`` means, oldest first; not a copy."""
        return self._by_key.get(routing_key, ())

    def surplus(self, user_id: str, limit: int) -> "Session | None":
        """The oldest connection of a user who has more than ``limit``."""
        sessions = self._by_key.get(user_key(user_id), {})
        return next(iter(sessions)) if len(sessions) > limit else None

    def _drop(self, key: str, session: "Session") -> None:
        members = self._by_key.get(key)
        if members is not None:
            members.pop(session, None)
            if not members:
                del self._by_key[key]
