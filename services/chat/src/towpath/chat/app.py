"""The chat service: owns the domain ``chat``, and keeps every connection in the groups of its user's rooms."""

import asyncio
from pathlib import Path
from typing import Final

from towpath.chat.handlers import COMMANDS, EVENTS
from towpath.chat.repository import Rooms
from towpath.chat.settings import ChatSettings
from towpath.chat.tables import INBOX, STREAMS
from towpath.protocol.chat import DOMAIN
from towpath.servicekit.broker import Connect, connect
from towpath.servicekit.service import Service, Storage, serve_domain

CHAT: Final = Service(
    name="chat",
    domain=DOMAIN,
    commands=COMMANDS,
    events=EVENTS,
    storage=Storage(INBOX, STREAMS, Rooms, Path(__file__).parent / "migrations"),
)


async def serve(settings: ChatSettings, stop: asyncio.Event, connect: Connect = connect) -> None:
    """Run chat until ``stop`` is set, then let deliveries in hand finish."""
    await serve_domain(CHAT, settings, stop, connect)
