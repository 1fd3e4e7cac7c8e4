"""The notifications service: owns the domain ``notification``, follows the events of orders and chat."""

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from towpath.notifications import presence, retention
from towpath.notifications.digest import Digest
from towpath.notifications.handlers import COMMANDS, EVENTS
from towpath.notifications.mail import SEND_MAIL, Mailer
from towpath.notifications.repository import Desk, Limits
from towpath.notifications.settings import NotificationsSettings
from towpath.notifications.tables import KIT
from towpath.protocol.notifications import DOMAIN, EVENTS_OUT, PUSHES
from towpath.servicekit import Connect, Service, Storage, Timer, connect, serve_domain

_FORGET_SECONDS: Final = 60.0
_DIGEST_SECONDS: Final = 1.0

STORAGE: Final = Storage(
    KIT.inbox,
    KIT.streams,
    Desk,
    Path(__file__).parent / "migrations",
    outbox=KIT.outbox,
    effects=KIT.effects,
)
NOTIFICATIONS: Final = Service(
    name="notifications",
    domain=DOMAIN,
    commands=COMMANDS,
    events=EVENTS,
    storage=STORAGE,
    pushes=PUSHES,
    events_out=EVENTS_OUT,
)


async def serve(settings: NotificationsSettings, stop: asyncio.Event, connect: Connect = connect) -> None:
    """Run notifications until ``stop`` is set, then finish the deliveries in hand."""
    await serve_domain(configured(settings), settings, stop, connect)


def configured(settings: NotificationsSettings) -> Service[Desk]:
    """Notifications with the limits and timers of ``settings``, and with mails if they name a server.

    Raises:
        BadSetting: A file of certificate authorities cannot be used.
    """
    storage = replace(STORAGE, unit=partial(Desk, limits=Limits.of(settings)))
    forget = partial(retention.forget, seconds=settings.notifications_retention)
    timers = [
        Timer("notifications: forget", _FORGET_SECONDS, forget),
        Timer("connections: forget", _FORGET_SECONDS, presence.forget),
    ]
    if settings.smtp_host is None:
        return replace(NOTIFICATIONS, storage=storage, timers=timers)
    timers.append(Timer("mails", _DIGEST_SECONDS, Digest(settings).round))
    effects = {SEND_MAIL: Mailer(settings).effect()}
    return replace(NOTIFICATIONS, storage=storage, timers=timers, effects=effects)
