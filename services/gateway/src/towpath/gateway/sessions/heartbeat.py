"""Heartbeat: one task for all connections. Silent connections are pinged, then closed with 4002."""

import asyncio
from typing import Final

from towpath.gateway.sessions.members import Members
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.close_codes import CloseCode
from towpath.servicekit.runtime.time_slices import Turn

_SWEEP_STEPS: Final = 10
_LOOKS: Final = 64


async def run(members: Members, settings: GatewaySettings) -> None:
    """Check every connection ten times per heartbeat, until cancelled."""
    loop = asyncio.get_running_loop()
    pause = settings.heartbeat / _SWEEP_STEPS
    while True:
        await asyncio.sleep(pause)
        turn = Turn()
        now = loop.time()
        for number, session in enumerate(members.all(), 1):
            silent = now - session.last_seen
            if silent >= settings.heartbeat + settings.heartbeat_timeout:
                session.close(CloseCode.HEARTBEAT_LOST, "no sign of life")
            elif silent >= settings.heartbeat - pause:
                session.ping()
            if number % _LOOKS == 0 and turn.is_over():
                await turn.next()
