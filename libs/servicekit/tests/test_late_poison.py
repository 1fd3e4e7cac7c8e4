"""A handler that hangs is known as the culprit, also when its transaction has run out of time meanwhile."""

import time
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.protocol.messages import Session
from towpath.servicekit import Handler, KitTables, Outcome, Request, Service, Storage
from towpath.servicekit.handling.watchdog import Overdue
from towpath.testkit.dispatching import ServiceUnderTest, a_command

METADATA: Final = sa.MetaData()
KIT: Final = KitTables.define(METADATA, "press")
LIMIT: Final = 0.2


class Sheets:
    def __init__(self, connection: AsyncConnection) -> None: ...

    async def load(self, requests: Sequence[Request]) -> None: ...

    async def save(self) -> None: ...


class Print(BaseModel):
    jams: bool = False


def print_sheet(request: Print, session: Session, sheets: Sheets) -> Outcome:
    if request.jams:
        time.sleep(2 * LIMIT)
        raise Overdue("it did not come to an end")  # as the watchdog does, too late for the transaction
    return Outcome()


PRESS: Final = Service(
    name="press",
    domain="press",
    commands={"press.print": Handler(Print, print_sheet)},
    storage=Storage(KIT.inbox, None, Sheets),
)


async def test_a_handler_that_hangs_longer_than_a_transaction_may_take_is_parked_as_hung() -> None:
    async with ServiceUnderTest.running(PRESS, unit_time_limit=LIMIT) as press:
        await press.dispatch(
            a_command("press.print", msg_id="m-1"),
            a_command("press.print", msg_id="m-2", jams=True),
            a_command("press.print", msg_id="m-3"),
        )
        assert press.error("m-2") == "internal"
        assert press.parked() == ["Poison: it did not come to an end"]
        assert [press.answer(msg_id).action for msg_id in ("m-1", "m-3")] == ["press.print.ok"] * 2
