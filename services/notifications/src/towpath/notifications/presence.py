"""The users who are online: the connections that session events report, as far as this service needs to know.

Guarantees: the start and the end of a connection may arrive in any order and any number of times. A user is online
while one of the connections is open at a gateway that was heard within ``gateway_silence``, in the run that the
connection belongs to. The number of statements does not depend on the number of events. Rows of connections that are
over are deleted.

Simpler than chat's presence, which publishes changes: here the question is asked once per mail, minutes after the
event, so an answer that is some seconds old is right.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.notifications.tables import CONNECTIONS, GATEWAYS
from towpath.protocol.envelope import now_ms
from towpath.protocol.sessions import GatewayAlive, SessionEnded, SessionStarted
from towpath.servicekit import TimerRun

#: Unix milliseconds.
Clock = Callable[[], int]

_STEP: Final = 500
#: How long an ended connection is kept: a late start event from a retry queue must find it.
_ENDED_KEPT_MS: Final = 3_600_000
#: How long a silent gateway may still return with its connections.
_SILENT_KEPT_MS: Final = 86_400_000
_OF_ITS_GATEWAY: Final = sa.and_(
    CONNECTIONS.c.gateway_id == GATEWAYS.c.gateway_id, CONNECTIONS.c.incarnation == GATEWAYS.c.incarnation
)


class SessionEvents:
    """The session events of one unit of work: collect, save."""

    def __init__(self, connection: AsyncConnection, clock: Clock = now_ms) -> None:
        self._connection = connection
        self._clock = clock
        self._started: dict[str, SessionStarted] = {}
        self._ended: dict[str, SessionEnded] = {}
        self._gateways: dict[str, str] = {}

    def started(self, event: SessionStarted) -> None:
        self._started[event.connection_id] = event
        self._gateways[event.gateway_id] = event.incarnation

    def ended(self, event: SessionEnded) -> None:
        self._ended[event.connection_id] = event

    def alive(self, event: GatewayAlive) -> None:
        self._gateways[event.gateway_id] = event.incarnation

    async def save(self) -> None:
        """Write the events: three statements at most, in the order of names, so that replicas lock in one order."""
        now = self._clock()
        hearing = _insert(self._connection, GATEWAYS)
        heard = {name: hearing.excluded[name] for name in ("incarnation", "heard_at")}
        await self._execute(
            hearing.on_conflict_do_update(index_elements=["gateway_id"], set_=heard),
            [
                {"gateway_id": gateway, "incarnation": run, "heard_at": now}
                for gateway, run in sorted(self._gateways.items())
            ],
        )
        # Its end may have arrived first, and must stay.
        await self._execute(
            _insert(self._connection, CONNECTIONS).on_conflict_do_nothing(),
            [_row(self._started[name], now, is_open=True) for name in sorted(self._started)],
        )
        await self._execute(
            _insert(self._connection, CONNECTIONS).on_conflict_do_update(
                index_elements=["connection_id"], set_={"is_open": False, "changed_at": now}
            ),
            [_row(self._ended[name], now, is_open=False) for name in sorted(self._ended)],
        )

    async def _execute(self, statement: sa.Executable, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            await self._connection.execute(statement, rows)


async def read_online(connection: AsyncConnection, users: Collection[str], *, heard_since: int) -> set[str]:
    """The ``users`` with an open connection at a gateway that was heard since then (Unix milliseconds)."""
    online = (
        sa.select(CONNECTIONS.c.user_id)
        .join(GATEWAYS, _OF_ITS_GATEWAY)
        .where(
            CONNECTIONS.c.user_id.in_(sorted(users)),
            CONNECTIONS.c.is_open,
            GATEWAYS.c.heard_at >= heard_since,
        )
    )
    return set((await connection.execute(online)).scalars())


async def forget(run: TimerRun, clock: Clock = now_ms) -> bool:
    """Delete rows of connections that are over: a timer."""
    now = clock()
    of_silent = sa.and_(
        CONNECTIONS.c.changed_at < now - _SILENT_KEPT_MS,
        ~sa.exists().where(_OF_ITS_GATEWAY, GATEWAYS.c.heard_at >= now - _SILENT_KEPT_MS),
    )
    is_over = sa.and_(~CONNECTIONS.c.is_open, CONNECTIONS.c.changed_at < now - _ENDED_KEPT_MS)
    over = sa.select(CONNECTIONS.c.connection_id).where(sa.or_(is_over, of_silent)).limit(_STEP)
    async with run.transaction() as connection:
        gone = await connection.execute(CONNECTIONS.delete().where(CONNECTIONS.c.connection_id.in_(over)))
        await connection.execute(GATEWAYS.delete().where(GATEWAYS.c.heard_at < now - _SILENT_KEPT_MS))
    return int(gone.rowcount) >= _STEP


def _insert(connection: AsyncConnection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def _row(event: SessionStarted | SessionEnded, now: int, *, is_open: bool) -> dict[str, Any]:
    return {
        "connection_id": event.connection_id,
        "user_id": event.user_id,
        "gateway_id": event.gateway_id,
        "incarnation": event.incarnation,
        "is_open": is_open,
        "changed_at": now,
    }
