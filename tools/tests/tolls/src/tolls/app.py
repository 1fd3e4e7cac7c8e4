"""Tolls: counts how often each boat has paid. One table, one action, one push that a stream stores."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.messages import Session
from towpath.servicekit import (
    Connect,
    Handler,
    KitTables,
    Outcome,
    Request,
    Service,
    Storage,
    Streams,
    bulk,
    connect,
    serve_domain,
    to_user,
)

from .settings import TollsSettings

METADATA: Final = sa.MetaData()
KIT: Final = KitTables.define(METADATA, "tolls")
PAID: Final = sa.Table(
    "tolls_paid",
    METADATA,
    sa.Column("boat", sa.String(64), primary_key=True),
    sa.Column("times", sa.BigInteger, nullable=False),
)


class Pay(BaseModel):
    boat: str = Field(min_length=1, max_length=64)


class Ledger:
    """The unit of work: what the boats of a batch have paid."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.streams = Streams(connection, KIT.streams)
        self._stored: dict[str, int] = {}
        self._times: dict[str, int] = {}

    async def load(self, requests: Sequence[Request]) -> None:
        # The stream's head is locked first, and serialises those who count the same boat.
        await self.streams.load(stream_of(request.payload.boat) for request in requests)
        boats = sorted({request.payload.boat for request in requests})
        rows = await self._connection.execute(sa.select(PAID).where(PAID.c.boat.in_(boats)))
        self._stored = {row.boat: row.times for row in rows}

    def count(self, boat: str) -> int:
        self._times[boat] = self._times.get(boat, self._stored.get(boat, 0)) + 1
        return self._times[boat]

    async def save(self) -> None:
        rows = [{"boat": boat, "times": times} for boat, times in self._times.items()]
        await bulk.insert(self._connection, PAID, [row for row in rows if row["boat"] not in self._stored])
        await bulk.update(
            self._connection, PAID, [row for row in rows if row["boat"] in self._stored], key=["boat"]
        )
        await self.streams.save()


def stream_of(boat: str) -> str:
    return f"toll:{boat}"


def pay(request: Pay, session: Session, ledger: Ledger) -> Outcome:
    times = ledger.count(request.boat)
    paid = ledger.streams.append(
        stream_of(request.boat), "toll.paid", lambda seq: {"boat": request.boat, "times": times, "seq": seq}
    )
    return Outcome(answer={"times": times}, pushes=[to_user(session.user_id, paid)])


TOLLS: Final = Service(
    name="tolls",
    domain="toll",
    commands={"toll.pay": Handler(Pay, pay)},
    storage=Storage(KIT.inbox, KIT.streams, Ledger, Path(__file__).parent / "migrations"),
)


async def serve(settings: TollsSettings, stop: asyncio.Event, connect: Connect = connect) -> None:
    await serve_domain(TOLLS, settings, stop, connect)
