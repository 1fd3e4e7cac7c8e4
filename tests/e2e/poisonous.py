"""The orders service, with poison in it: an order whose id begins with a word of :data:`POISON` breaks it.

``--fixed`` is the version after the fix. Waits before another try are over in a moment.
"""

import asyncio
import itertools
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa
from pydantic import model_validator

from towpath.orders import handlers, tables
from towpath.orders.app import ORDERS
from towpath.orders.repository import OrderBook
from towpath.orders.settings import OrdersSettings
from towpath.protocol.messages import Session
from towpath.protocol.orders import SubmitOrder
from towpath.protocol.routes import RETRY_DELAYS
from towpath.servicekit import Handler, Outcome, Service, run, serve_domain

FIXED: Final = "--fixed" in sys.argv
MOMENT_MS: Final = 100


def loop() -> None:
    while True:
        pass


def loop_and_hear_nothing() -> None:
    while True:
        try:
            loop()
        except BaseException:  # the worst that a handler can do
            continue


#: In a handler.
POISON: Final[dict[str, Callable[[], object]]] = {
    "exit": lambda: os._exit(3),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "leave": lambda: sys.exit(1),
    "loop": loop,
    "deaf": loop_and_hear_nothing,
    "sleep": lambda: time.sleep(3600),
    "regex": lambda: re.match(r"(a+)+$", "a" * 60 + "b"),
    "giant": lambda: sum(itertools.repeat(1)),
    "bug": lambda: 1 // 0,
}


def kind_of(order_id: str | None) -> str:
    return "" if FIXED or order_id is None else order_id.partition("-")[0]


def submit(request: SubmitOrder, session: Session, book: OrderBook) -> Outcome:
    POISON.get(kind_of(request.order_id), lambda: None)()
    return handlers.submit(request, session, book)


class Submit(SubmitOrder):
    """A model whose validator breaks."""

    @model_validator(mode="after")
    def _break(self) -> "Submit":
        kind = kind_of(self.order_id)
        if kind == "model":
            os._exit(3)
        if kind == "validator":
            raise KeyError("unforeseen")
        return self


class Book(OrderBook):
    """A unit of work that breaks when it is saved."""

    async def save(self) -> None:
        for (_, order_id), order in self._orders.items():
            kind = kind_of(order_id) if order.is_new else ""
            if kind == "constraint":
                row = {column.name: None for column in tables.ORDERS.columns}
                await self._connection.execute(sa.insert(tables.ORDERS), row)
            elif kind == "database":
                await asyncio.sleep(3600)
            elif kind == "save":
                os._exit(3)
        await super().save()


assert ORDERS.storage is not None
POISONOUS: Final[Service[Any]] = replace(
    ORDERS,
    commands={**ORDERS.commands, "order.submit": Handler(Submit, submit)},
    storage=replace(ORDERS.storage, unit=Book),
)


async def serve(settings: OrdersSettings, stop: asyncio.Event) -> None:
    await serve_domain(POISONOUS, settings, stop)


if __name__ == "__main__":
    RETRY_DELAYS.update(dict.fromkeys(RETRY_DELAYS, MOMENT_MS))
    run("orders", serve, OrdersSettings)
