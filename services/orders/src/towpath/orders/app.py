"""The orders service: owns the domain ``order``, follows the order events of other backends."""

import asyncio
from pathlib import Path
from typing import Final

from towpath.orders.handlers import COMMANDS, EVENTS
from towpath.orders.repository import OrderBook
from towpath.orders.settings import OrdersSettings
from towpath.orders.tables import KIT
from towpath.protocol.orders import DOMAIN, EVENTS_OUT, PUSHES
from towpath.servicekit import Connect, Service, Storage, connect, serve_domain

ORDERS: Final = Service(
    name="orders",
    domain=DOMAIN,
    commands=COMMANDS,
    events=EVENTS,
    storage=Storage(KIT.inbox, KIT.streams, OrderBook, Path(__file__).parent / "migrations"),
    pushes=PUSHES,
    events_out=EVENTS_OUT,
)


async def serve(settings: OrdersSettings, stop: asyncio.Event, connect: Connect = connect) -> None:
    """Run orders until ``stop`` is set, then finish the deliveries in hand."""
    await serve_domain(ORDERS, settings, stop, connect)
