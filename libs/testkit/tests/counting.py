"""A service that counts, and handlers that each break a guarantee."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.envelope import make, now_ms
from towpath.protocol.errors import Conflict
from towpath.protocol.messages import Session
from towpath.servicekit import Handler, KitTables, Outcome, Request, Service, Storage, bulk, to_user

METADATA: Final = sa.MetaData()
KIT: Final = KitTables.define(METADATA, "count")
COUNTS: Final = sa.Table(
    "count_counts",
    METADATA,
    sa.Column("word", sa.String(64), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
)
#: Something that no transaction holds: a variable here, a file or another database elsewhere.
OUTSIDE: Final[Counter[str]] = Counter()


class Counts:
    """The unit of work: all counts."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._stored: dict[str, int] = {}
        self.numbers: dict[str, int] = {}

    async def load(self, requests: Sequence[Request]) -> None:
        rows = await self._connection.execute(sa.select(COUNTS).order_by(COUNTS.c.word))
        self._stored = {row.word: row.number for row in rows}
        self.numbers = dict(self._stored)

    async def save(self) -> None:
        changed = [key for key, number in self.numbers.items() if number != self._stored.get(key)]
        rows = [{"word": key, "number": self.numbers[key], "changed_at": now_ms()} for key in changed]
        await bulk.insert(self._connection, COUNTS, [row for row in rows if row["word"] not in self._stored])
        old = [row for row in rows if row["word"] in self._stored]
        await bulk.update(self._connection, COUNTS, old, key=["word"])


class Add(BaseModel):
    word: str = Field(min_length=1, max_length=64)
    amount: int = Field(ge=1, le=100)


class Look(BaseModel):
    word: str = Field(min_length=1, max_length=64)


class Number(BaseModel):
    word: str
    number: int


class Lax(BaseModel):
    word: Any
    amount: Any


def add(request: Add, session: Session, counts: Counts) -> Outcome:
    number = _count(request, counts)
    return Outcome(
        answer=number,
        pushes=[to_user(session.user_id, make("count.changed", number.model_dump()))],
        events=[make("count.added", number.model_dump())],
    )


def look(request: Look, _: Session, counts: Counts) -> Outcome:
    if request.word not in counts.numbers:
        raise Conflict(f"{request.word!r} was never counted.")
    return Outcome(answer=Number(word=request.word, number=counts.numbers[request.word]))


def on_paid(event: Add, counts: Counts) -> Outcome:
    number = _count(event, counts)
    return Outcome(events=[make("count.added", number.model_dump())])


def _count(request: Add, counts: Counts) -> Number:
    counts.numbers[request.word] = counts.numbers.get(request.word, 0) + request.amount
    return Number(word=request.word, number=counts.numbers[request.word])


SERVICE: Final = Service(
    name="count",
    domain="count",
    commands={
        "count.add": Handler(Add, add, answer=Number),
        "count.look": Handler(Look, look, answer=Number, changes=False),
    },
    events={"shop.paid": Handler(Add, on_paid)},
    storage=Storage(KIT.inbox, KIT.streams, Counts, Path(__file__).parent / "migrations"),
    pushes={"count.changed": Number},
    events_out={"count.added": Number},
)


# Handlers with a fault


def add_outside(request: Add, session: Session, counts: Counts) -> Outcome:
    """Changes something that is not part of the transaction."""
    OUTSIDE[request.word] += 1
    return add(request, session, counts)


def look_outside(request: Look, session: Session, counts: Counts) -> Outcome:
    """A read that changes something."""
    OUTSIDE[request.word] += 1
    return look(request, session, counts)


def add_with_late_answer(request: Add, _: Session, counts: Counts) -> Outcome:
    """Its answer is made from a replay, which is for reads: the inbox cannot keep it."""
    number = _count(request, counts)
    return Outcome(answer=lambda _: number.model_dump(), replay={f"count:{request.word}": 0})


def add_lax(request: Lax, _: Session, counts: Counts) -> Outcome:
    """Its model lets everything pass."""
    counts.numbers[request.word] = counts.numbers.get(request.word, 0) + request.amount
    return Outcome(answer=Number(word=request.word, number=counts.numbers[request.word]))


def paid_lax(event: Lax, counts: Counts) -> Outcome:
    """The same for an event."""
    counts.numbers[event.word] = counts.numbers.get(event.word, 0) + event.amount
    return Outcome()


def add_never(_: Add, __: Session, ___: Counts) -> Outcome:
    """Raises."""
    raise RuntimeError("the price list is empty")


def paid_never(_: Add, __: Counts) -> Outcome:
    """Raises."""
    raise RuntimeError("the price list is empty")


def rank(event: Add, counts: Counts) -> Outcome:
    """The outcome of one key depends on the others."""
    counts.numbers.setdefault(event.word, len(counts.numbers) + 1)
    return Outcome()


def touch(request: Add, _: Session, counts: Counts) -> Outcome:
    """Notes when it was called last, as idempotent writes may."""
    counts.numbers[request.word] = counts.numbers.get(request.word, 0) + now_ms()
    return Outcome(answer=Number(word=request.word, number=0))


def with_command(handler: Handler, action: str = "count.add") -> Service[Counts]:
    """The service with another handler."""
    return replace(SERVICE, commands={**SERVICE.commands, action: handler})


def with_event(handler: Handler) -> Service[Counts]:
    """The service with another handler of ``shop.paid``."""
    return replace(SERVICE, events={"shop.paid": handler})
