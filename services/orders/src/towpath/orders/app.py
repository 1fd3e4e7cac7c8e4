"""The orders service: owns the domain ``order``, follows the order events of other backends."""

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from towpath.orders.handlers import COMMANDS, EVENTS
from towpath.orders.repeats import Repeats
from towpath.orders.repository import OrderBook
from towpath.orders.settings import OrdersSettings
from towpath.orders.tables import KIT
from towpath.protocol.orders import DOMAIN, EVENTS_OUT, PUSHES
from towpath.servicekit import Connect, Service, Storage, Timer, connect, serve_domain

_REPEAT_SECONDS: Final = 1.0

STORAGE: Final = Storage(
    KIT.inbox, KIT.streams, OrderBook, Path(__file__).parent / "migrations", outbox=KIT.outbox
)
ORDERS: Final = Service(
    name="orders",
    domain=DOMAIN,
    commands=COMMANDS,
    events=EVENTS,
    storage=STORAGE,
    pushes=PUSHES,
    events_out=EVENTS_OUT,
)


async def serve(settings: OrdersSettings, stop: asyncio.Event, connect: Connect = connect) -> None:
    """Run orders until ``stop`` is set, then finish the deliveries in hand."""
    await serve_domain(configured(settings), settings, stop, connect)


def configured(settings: OrdersSettings) -> Service[OrderBook]:
    """Orders with the timer and the waits of ``settings``."""
    storage = replace(STORAGE, unit=partial(OrderBook, repeat_ms=int(settings.order_repeat * 1000)))
    return replace(
        ORDERS, storage=storage, timers=[Timer("orders: repeat", _REPEAT_SECONDS, Repeats().round)]
    )
