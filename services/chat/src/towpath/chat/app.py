"""The chat service: owns the domain ``chat``, and keeps every connection in the groups of its user's rooms."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from towpath.chat.crowds import Crowds
from towpath.chat.fanout import FanOut
from towpath.chat.gone import GoneRoomSweeper
from towpath.chat.handlers import COMMANDS, EVENTS
from towpath.chat.presence import Presence
from towpath.chat.reading import may_receive
from towpath.chat.repository import Rooms
from towpath.chat.settings import ChatSettings
from towpath.chat.tables import KIT, STREAMS
from towpath.chat.texts import texts_by_now
from towpath.protocol.chat import DOMAIN, EVENTS_OUT, PUSHES
from towpath.servicekit import Connect, Groups, Service, Storage, Timer, connect, serve_domain

#: Seconds between two presence rounds: the maximum delay of a presence change.
_LOOK_SECONDS: Final = 0.25
_FORGET_SECONDS: Final = 60.0
_CLEAR_SECONDS: Final = 1.0

_STREAMS: Final = replace(STREAMS, fill=texts_by_now)
STORAGE: Final = Storage(
    KIT.inbox,
    _STREAMS,
    Rooms,
    Path(__file__).parent / "migrations",
    groups=Groups(KIT.group_numbers, may_receive),
    outbox=replace(KIT.outbox, streams=_STREAMS),
)
CHAT: Final = Service(
    name="chat",
    domain=DOMAIN,
    commands=COMMANDS,
    events=EVENTS,
    storage=STORAGE,
    pushes=PUSHES,
    events_out=EVENTS_OUT,
)


async def serve(settings: ChatSettings, stop: asyncio.Event, connect: Connect = connect) -> None:
    """Run chat until ``stop`` is set, then finish the deliveries in hand."""
    await serve_domain(configured(settings), settings, stop, connect)


def configured(settings: ChatSettings) -> Service[Rooms]:
    """Chat with the limits and timers of ``settings``."""
    limits = settings.limits()
    storage = replace(STORAGE, unit=partial(Rooms, limits=limits, fanout=FanOut(limits.deliveries)))
    return replace(CHAT, storage=storage, timers=timers(settings))


def timers(settings: ChatSettings) -> Sequence[Timer]:
    """The timers of chat: push presence and the numbers of crowds, and delete the rows of gone rooms."""
    presence, crowds, clearing = Presence(settings), Crowds(), GoneRoomSweeper()
    return [
        Timer("presence", _LOOK_SECONDS, presence.round),
        Timer("presence: forget", _FORGET_SECONDS, presence.forget),
        Timer("crowds", _LOOK_SECONDS, crowds.round),
        Timer("crowds: forget", _FORGET_SECONDS, crowds.forget),
        Timer("rooms that are gone", _CLEAR_SECONDS, clearing.round),
        Timer("rooms that are gone: forget", _FORGET_SECONDS, clearing.forget),
    ]
