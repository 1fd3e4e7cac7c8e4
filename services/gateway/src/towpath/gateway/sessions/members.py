"""Members: the connections of this replica by id, by user and by group.

Keyed by routing keys, so that a push finds its receivers with one look-up. These tables are the only source of local
membership; their entries live as long as the connections.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from towpath.gateway.sessions.group_versions import GroupVersions
from towpath.protocol.routes import control_key, user_key

if TYPE_CHECKING:
    from towpath.gateway.sessions.session import Session


#: Number of services whose numbered changes are ordered per connection; changes of further services apply in their
#: order of arrival.
_SERVICES_MAX: Final = 16
#: The service name of groups whose changes have no number.
_UNNUMBERED: Final = ""


class Members:
    """The connections of this replica.

    Attributes:
        groups_max: Groups that a session may be in.
        inbox: How often the inbox was recreated. All earlier groups are dropped.
    """

    def __init__(self, groups_max: int) -> None:
        self.groups_max = groups_max
        self._by_id: dict[str, Session] = {}
        self._by_user: dict[str, dict[Session, None]] = {}
        self._by_group: dict[str, dict[Session, None]] = {}
        self.inbox = 0
        self.empty = asyncio.Event()  #: Set while there are no connections.
        self.empty.set()

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def users(self) -> int:
        """The number of users who are connected."""
        return len(self._by_user) // 2  # Each has two keys, see `add`.

    @property
    def groups(self) -> int:
        """The number of groups that have a member here."""
        return len(self._by_group)

    def all(self) -> list["Session"]:
        """All sessions, oldest first; a copy."""
        return list(self._by_id.values())

    def new_inbox(self) -> None:
        """The inbox was recreated, and changes may have been lost with the old one: drop all groups."""
        self.inbox += 1
        self._by_group = {}  # Sessions drop theirs when they are next used, see _versions_of: not all at once.

    def add(self, session: "Session") -> None:
        """Add a session, with its user's keys."""
        session.use_inbox(self.inbox)
        self._by_id[session.connection_id] = session
        self.empty.clear()
        for key in (user_key(session.user_id), control_key(session.user_id)):
            self._by_user.setdefault(key, {})[session] = None

    def remove(self, session: "Session") -> None:
        """Forget a session and all its groups."""
        self._by_id.pop(session.connection_id, None)
        for key in (user_key(session.user_id), control_key(session.user_id)):
            _drop(self._by_user, key, session)
        for versions in self._versions_of(session).values():
            for group in versions.groups:
                _drop(self._by_group, group, session)
        session.groups.clear()
        if not self._by_id:
            self.empty.set()

    def subscribe(
        self,
        session: "Session",
        groups: Sequence[str],
        *,
        service: str = "",
        as_of: int = 0,
        is_current: bool = True,
    ) -> int:
        """Subscribe a session to groups, named by their routing keys; idempotent.

        Args:
            service: The service that numbers its changes with ``as_of``; one with 0 applies in its order of arrival.
            is_current: See :mod:`towpath.gateway.sessions.group_versions`.

        Returns:
            The number of groups refused because of ``groups_max``.
        """
        # It has ended meanwhile: an entry made now would never be removed.
        if session.connection_id not in self._by_id:
            return 0
        versions = self._versions_from(session, service, as_of)
        free = self.groups_max - self._count(session)
        # Changes without a number count in their order of arrival (protocol.md, "RabbitMQ").
        entered, over = versions.subscribe(groups, as_of, is_current=is_current or not as_of, free=free)
        self._enter(session, entered)
        return over

    def unsubscribe(
        self, session: "Session", groups: Sequence[str], *, service: str = "", as_of: int = 0
    ) -> None:
        """Unsubscribe a session from groups, named by their routing keys; idempotent."""
        by_service = self._versions_of(session)
        if as_of:
            # As many left groups are remembered as a session may be in.
            versions = self._versions_from(session, service, as_of)
            self._leave(session, versions.unsubscribe(groups, as_of, most=self.groups_max))
        else:
            for versions in by_service.values():
                self._leave(
                    session, [group for group in groups if versions.groups.pop(group, None) is not None]
                )

    def complete(self, session: "Session", *, service: str, as_of: int) -> int:
        """Record that a service has named all groups of a session; returns the same as :meth:`subscribe`."""
        if session.connection_id not in self._by_id:
            return 0
        versions = self._versions_from(session, service, as_of)
        out, entered, over = versions.complete(as_of, free=self.groups_max - self._count(session))
        self._leave(session, out)
        self._enter(session, entered)
        return over

    def connection(self, connection_id: str | None) -> "Session | None":
        """The session of a connection, if it is on this replica."""
        return self._by_id.get(connection_id) if connection_id else None

    def receivers_of(self, routing_key: str) -> "Collection[Session]":
        """The sessions of a ``user.*``, ``group.*`` or ``control.*`` key, oldest first; not a copy."""
        return self._by_group.get(routing_key) or self._by_user.get(routing_key, {})

    def oldest_over(self, user_id: str, limit: int) -> "Session | None":
        """The oldest connection of a user with more than ``limit`` connections."""
        sessions = self._by_user.get(user_key(user_id), {})
        return next(iter(sessions)) if len(sessions) > limit else None

    # Groups

    def _versions_of(self, session: "Session") -> dict[str, GroupVersions]:
        if session.groups_of_inbox != self.inbox:
            session.groups = {}
            session.groups_of_inbox = self.inbox
        return session.groups

    def _versions_from(self, session: "Session", service: str, as_of: int) -> GroupVersions:
        by_service = self._versions_of(session)
        name = service if as_of else _UNNUMBERED
        if name not in by_service and len(by_service) >= _SERVICES_MAX:
            # The name comes from the message, so its number must be bounded.
            name = _UNNUMBERED
        return by_service.setdefault(name, GroupVersions())

    def _count(self, session: "Session") -> int:
        return sum(len(versions.groups) for versions in session.groups.values())

    def _enter(self, session: "Session", groups: Iterable[str]) -> None:
        for group in groups:
            self._by_group.setdefault(group, {})[session] = None

    def _leave(self, session: "Session", groups: Iterable[str]) -> None:
        for group in groups:
            # Two services may have subscribed it to the same group.
            if not any(group in versions.groups for versions in session.groups.values()):
                _drop(self._by_group, group, session)


def _drop(members: "dict[str, dict[Session, None]]", key: str, session: "Session") -> None:
    sessions = members.get(key)
    if sessions is not None:
        sessions.pop(session, None)
        if not sessions:
            del members[key]
