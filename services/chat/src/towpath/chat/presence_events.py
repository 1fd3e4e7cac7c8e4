"""Presence events: starts and ends of connections and announcements of gateways, stored as they come.

Guarantees: a connection's start and end may arrive in any order and any number of times; the user concerned is marked
for the next presence round (:mod:`towpath.chat.presence`) in the same transaction. The number of statements does not
depend on the number of events.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.tables import CONNECTIONS, GATEWAYS, PEOPLE
from towpath.protocol.sessions import GatewayAlive, SessionEnded, SessionStarted

#: Unix milliseconds.
Clock = Callable[[], int]


class PresenceEvents:
    """The presence events of one unit of work: collect, save."""

    def __init__(self, connection: AsyncConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self._gateways: set[tuple[str, str]] = set()
        self._present: dict[str, str] = {}  # Gateway → its latest incarnation.
        self._started: dict[str, SessionStarted] = {}
        self._ended: dict[str, SessionEnded] = {}

    def started(self, event: SessionStarted) -> None:
        """Record the start of a connection, which also shows that its gateway is alive."""
        self._started[event.connection_id] = event
        self._add_gateway(event.gateway_id, event.incarnation)

    def ended(self, event: SessionEnded) -> None:
        """Record the end of a connection."""
        self._ended[event.connection_id] = event

    def alive(self, event: GatewayAlive) -> None:
        """Record an announcement of a gateway."""
        self._add_gateway(event.gateway_id, event.incarnation)

    async def save(self) -> None:
        """Write the events: five statements at most, and none without events."""
        if not self._gateways and not self._ended:
            return
        now = self._clock()
        await self._save_gateways(now)
        starting, ending = _save_sessions(self._connection.dialect.name)
        # In the order of names, so that two units of work lock the same rows in one order.
        await self._execute(starting, [_row(self._started[name], None) for name in sorted(self._started)])
        await self._execute(ending, [_row(self._ended[name], now) for name in sorted(self._ended)])
        events = [*self._started.values(), *self._ended.values()]
        await mark(self._connection, {event.user_id for event in events}, now)

    # Inside

    def _add_gateway(self, gateway_id: str, incarnation: str) -> None:
        self._gateways.add((gateway_id, incarnation))
        self._present[gateway_id] = incarnation

    async def _save_gateways(self, now: int) -> None:
        await self._execute(
            _hear(self._connection.dialect.name),
            [
                {"gateway_id": gateway, "incarnation": incarnation, "heard_at": now}
                for gateway, incarnation in sorted(self._gateways)
            ],
        )
        await self._execute(
            _REPLACED,
            [{"which": name, "present": self._present[name], "at": now} for name in sorted(self._present)],
        )

    async def _execute(self, statement: sa.Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            await self._connection.execute(statement, rows)


async def mark(connection: AsyncConnection, users: Iterable[str], at: int) -> None:
    """Mark ``users`` for a presence round, not before ``at``."""
    rows = [{"user_id": user, "is_online": False, "look_at": at} for user in sorted(users)]
    if rows:
        await connection.execute(_mark(connection.dialect.name), rows)


_REPLACED: Final = (
    GATEWAYS.update()
    .where(
        GATEWAYS.c.gateway_id == sa.bindparam("which"),
        GATEWAYS.c.incarnation != sa.bindparam("present"),
        GATEWAYS.c.over_at.is_(None),
    )
    .values(over_at=sa.bindparam("at"), looked_up_to="")
)


@cache
def _save_sessions(dialect: str) -> tuple[sa.Insert, sa.Insert]:
    """The statements for starts and for ends of connections."""
    # The end may have arrived first, and its row must stay.
    starting = _insert(dialect, CONNECTIONS).on_conflict_do_nothing()
    ending = _insert(dialect, CONNECTIONS)
    # The first end counts: a repetition would begin the grace of a user who has gone once more.
    first = sa.func.coalesce(CONNECTIONS.c.ended_at, ending.excluded.ended_at)
    return starting, ending.on_conflict_do_update(index_elements=["connection_id"], set_={"ended_at": first})


@cache
def _hear(dialect: str) -> sa.Insert:
    hearing = _insert(dialect, GATEWAYS)
    was_over = GATEWAYS.c.over_at.is_not(None)
    return hearing.on_conflict_do_update(
        index_elements=["gateway_id", "incarnation"],
        set_={
            "heard_at": hearing.excluded.heard_at,
            "over_at": sa.null(),
            "looked_up_to": sa.case((was_over, ""), else_=GATEWAYS.c.looked_up_to),
        },
    )


@cache
def _mark(dialect: str) -> sa.Insert:
    marking = _insert(dialect, PEOPLE)
    return marking.on_conflict_do_update(
        index_elements=["user_id"], set_={"look_at": marking.excluded.look_at}
    )


def _insert(dialect: str, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def _row(event: SessionStarted | SessionEnded, ended_at: int | None) -> dict[str, Any]:
    return {
        "connection_id": event.connection_id,
        "user_id": event.user_id,
        "gateway_id": event.gateway_id,
        "incarnation": event.incarnation,
        "ended_at": ended_at,
    }
