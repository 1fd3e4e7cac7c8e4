"""The contents of the services' databases."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from towpath.chat.tables import CONNECTIONS, GATEWAYS, MESSAGES
from towpath.chat.tables import STREAMS as CHAT_STREAMS
from towpath.orders.tables import ORDERS
from towpath.orders.tables import STREAMS as ORDER_STREAMS
from towpath.servicekit.storage.streams import StreamTables
from towpath.testkit.processes import Process

from .evidence import Entry, Message


@dataclass(frozen=True, slots=True)
class Stored:
    """All of it at one time."""

    entries: list[Entry]
    messages: list[Message]
    orders: Mapping[tuple[str, str], str]


class Databases:
    """The databases of chat and orders, read from the outside."""

    def __init__(self, chat: Process, orders: Process) -> None:
        self._chat = url_of(chat)
        self._orders = url_of(orders)

    async def open_connections(self) -> set[str]:
        """The ids of the connections that chat takes for open."""
        of_gateway = sa.and_(
            CONNECTIONS.c.gateway_id == GATEWAYS.c.gateway_id,
            CONNECTIONS.c.incarnation == GATEWAYS.c.incarnation,
        )
        found = (
            sa.select(CONNECTIONS.c.connection_id)
            .join_from(CONNECTIONS, GATEWAYS, of_gateway)
            .where(CONNECTIONS.c.ended_at.is_(None), GATEWAYS.c.over_at.is_(None))
        )
        async with reading(self._chat) as chat:
            return set((await chat.execute(found)).scalars())

    async def heads(self) -> dict[str, int]:
        """The last position of each stream."""
        heads: dict[str, int] = {}
        async with reading(self._chat) as chat, reading(self._orders) as orders:
            for connection, tables in ((chat, CHAT_STREAMS), (orders, ORDER_STREAMS)):
                for row in await connection.execute(sa.select(tables.heads)):
                    heads[row.stream] = row.head
        return heads

    async def read(self) -> Stored:
        """Everything there is."""
        async with reading(self._chat) as chat, reading(self._orders) as orders:
            return Stored(
                entries=await _entries(chat, CHAT_STREAMS) + await _entries(orders, ORDER_STREAMS),
                messages=[
                    Message(row.room, row.seq, row.user_id, row.text)
                    for row in await chat.execute(sa.select(MESSAGES))
                ],
                orders={
                    (row.user_id, row.order_id): row.status for row in await orders.execute(sa.select(ORDERS))
                },
            )


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[AsyncConnection]:
    """A connection to a service's database."""
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


async def _entries(connection: AsyncConnection, tables: StreamTables) -> list[Entry]:
    entries = []
    for row in await connection.execute(sa.select(tables.entries)):
        envelope = json.loads(row.envelope)
        entries.append(Entry(row.stream, row.seq, envelope["action"], envelope["data"]))
    return entries


def url_of(service: Process) -> str:
    """The SQLAlchemy URL of a service's database."""
    url = service.settings["TOWPATH_DATABASE_URL"]
    return url.replace("sqlite://", "sqlite+aiosqlite://", 1).replace(
        "postgresql://", "postgresql+asyncpg://", 1
    )
