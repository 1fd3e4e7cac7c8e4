"""Heartbeat: silent connections are pinged, then closed with 4002.

One task for all connections: a timer per connection would cost more than the pings. Guarantee: a connection without
bytes from its client is pinged after ``heartbeat`` seconds, give or take a tenth, and closed ``heartbeat_timeout``
seconds later. Any bytes count as a sign that the client is alive, not only the pong.
"""

import asyncio
from typing import Final

from towpath.gateway.sessions.members import Members
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.close_codes import CloseCode
from towpath.servicekit.runtime.time_slices import Turn

#: Checks of each connection per heartbeat.
_CHECKS: Final = 10
#: Connections between two looks at the clock.
_STEP: Final = 64


async def run(members: Members, settings: GatewaySettings) -> None:
    """Check every connection ten times per heartbeat, until cancelled."""
    loop = asyncio.get_running_loop()
    pause = settings.heartbeat / _CHECKS
    while True:
        await asyncio.sleep(pause)
        time_slice = Turn()
        now = loop.time()
        for number, session in enumerate(members.all(), 1):
            silent = now - session.last_seen
            if silent >= settings.heartbeat + settings.heartbeat_timeout:
                session.close(CloseCode.HEARTBEAT_LOST, "no sign of life")
            # At the check before, since at the next it would be late.
            elif silent >= settings.heartbeat - pause:
                session.ping()
            if number % _STEP == 0 and time_slice.is_over():
                await time_slice.next()
