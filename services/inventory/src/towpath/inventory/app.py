"""The inventory service: owns the domain ``inventory``, reserves stock for orders and answers with order events."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from towpath.inventory.handlers import COMMANDS, EVENTS
from towpath.inventory.repository import Inventory
from towpath.inventory.retention import EndedReservations
from towpath.inventory.settings import InventorySettings
from towpath.inventory.tables import KIT
from towpath.inventory.watches import may_receive
from towpath.protocol.inventory import DOMAIN, EVENTS_OUT, PUSHES
from towpath.servicekit import Connect, Groups, Service, Storage, Timer, connect, serve_domain

_FORGET_SECONDS: Final = 60.0

STORAGE: Final = Storage(
    KIT.inbox,
    KIT.streams,
    Inventory,
    Path(__file__).parent / "migrations",
    groups=Groups(KIT.group_numbers, may_receive),
)
INVENTORY: Final = Service(
    name="inventory",
    domain=DOMAIN,
    commands=COMMANDS,
    events=EVENTS,
    storage=STORAGE,
    pushes=PUSHES,
    events_out=EVENTS_OUT,
)


async def serve(settings: InventorySettings, stop: asyncio.Event, connect: Connect = connect) -> None:
    """Run the inventory until ``stop`` is set, then finish the deliveries in hand."""
    await serve_domain(configured(settings), settings, stop, connect)


def configured(settings: InventorySettings) -> Service[Inventory]:
    """The inventory with the rules and timers of ``settings``."""
    storage = replace(STORAGE, unit=partial(Inventory, rules=settings.rules()))
    return replace(INVENTORY, storage=storage, timers=timers(settings))


def timers(settings: InventorySettings) -> Sequence[Timer]:
    """The timer of the inventory: delete reservations that ended long ago."""
    ended = EndedReservations(settings.reservation_retention)
    return [Timer("reservations: forget", _FORGET_SECONDS, ended.forget)]
