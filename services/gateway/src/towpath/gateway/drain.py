"""Drain: a replica that stops sends its people elsewhere, in paced and jittered steps, with advice when to return.

All at once would be a storm on the other replicas: the steps spread who goes, the advice spreads who comes back.
"""

import asyncio
import contextlib
import random
from typing import Final

import structlog

from towpath.gateway.groups import Members
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.close_codes import CloseCode

log = structlog.get_logger(__name__)

_STEP_SECONDS: Final = (0.1, 0.3)


async def drain(members: Members, settings: GatewaySettings) -> None:
    """Close every connection with 1012; returns when they are gone, or the close timeout is over."""
    sessions = members.all()
    log.info("draining_connections", connections=len(sessions))
    for start in range(0, len(sessions), settings.drain_step):
        if start:
            await asyncio.sleep(random.uniform(*_STEP_SECONDS))  # noqa: S311  # jitter
        for session in sessions[start : start + settings.drain_step]:
            advice = settings.retry_after + random.uniform(0, settings.retry_spread)  # noqa: S311  # jitter
            session.close(CloseCode.SERVICE_RESTART, "this replica restarts", retry_after=advice)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.close_timeout):
            await members.empty.wait()
