"""A service that stores and appends to no stream."""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.messages import Session
from towpath.servicekit import (
    Connect,
    Handler,
    KitTables,
    Outcome,
    Request,
    Service,
    ServiceSettings,
    Storage,
    serve_domain,
)
from towpath.testkit.dispatching import ServiceUnderTest, a_command, answer_of_program

METADATA: Final = sa.MetaData()
KIT: Final = KitTables.define(METADATA, "mill")


class Sacks:
    """Counts in memory what it was asked for."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.saved = 0

    async def load(self, requests: Sequence[Request]) -> None: ...

    async def save(self) -> None:
        self.saved += 1


class Grind(BaseModel):
    sacks: int


def grind(request: Grind, session: Session, sacks: Sacks) -> Outcome:
    return Outcome(answer={"ground": request.sacks})


MILL: Final = Service(
    name="mill",
    domain="mill",
    commands={"mill.grind": Handler(Grind, grind)},
    storage=Storage(KIT.inbox, None, Sacks),
)


async def serve(settings: ServiceSettings, stop: Any, connect: Connect) -> None:
    await serve_domain(MILL, settings, stop, connect)


async def test_the_program_answers_and_stops(database_url: str) -> None:
    settings = ServiceSettings(amqp_url="memory://", database_url=database_url, admin_port=0)
    answer = await answer_of_program(serve, MILL, settings, a_command("mill.grind", sacks=2, msg_id="m-1"))
    assert (answer.action, answer.data) == ("mill.grind.ok", {"ground": 2})


async def test_a_redelivered_command_has_the_same_answer(database_url: str) -> None:
    async with ServiceUnderTest.running(MILL, database_url) as mill:
        await mill.dispatch(a_command("mill.grind", sacks=2, msg_id="m-1"))
        await mill.dispatch(a_command("mill.grind", sacks=2, msg_id="m-1"), redelivered=True)
        assert [answer.data for answer in mill.answers("m-1")] == [{"ground": 2}] * 2
