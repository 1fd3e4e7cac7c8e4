"""Drain: a stopping replica closes its connections in paced, jittered steps, with advice when to reconnect.

Closing all at once would be a storm on the other replicas: the steps spread the closes, the advice the reconnects.

Guarantee: the last step begins early enough that closing and flushing fit into ``drain_timeout`` as well, for any
number of connections.
"""

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import Final

import structlog

from towpath.gateway.sessions.members import Members
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.close_codes import CloseCode

log = structlog.get_logger(__name__)

#: Seconds between two steps, on average, where there is time.
_PAUSE: Final = 0.2
#: How much earlier or later a step may begin, as a share of the pause.
_JITTER: Final = 0.5
#: The share of drain_timeout reserved for flushing the lanes (publish_timeout at most), and the minimum share of the
#: steps if close_timeout leaves less.
_FLUSH_SHARE: Final = 1 / 6
_LEAST_SHARE: Final = 1 / 3


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of a drain.

    Attributes:
        steps: Number of steps.
        step: Connections that are closed together.
        pause: Seconds between two steps, on average.
    """

    steps: int
    step: int
    pause: float

    @property
    def longest(self) -> float:
        """Maximum seconds from the first step to the last."""
        return max(0.0, self.steps - 1 + _JITTER) * self.pause if self.steps > 1 else 0.0


def time_for_steps(settings: GatewaySettings) -> float:
    """The seconds of ``drain_timeout`` that the steps may take; the rest is for closing and flushing."""
    flush = min(settings.publish_timeout, settings.drain_timeout * _FLUSH_SHARE)
    left = settings.drain_timeout - settings.close_timeout - flush
    return max(left, settings.drain_timeout * _LEAST_SHARE)


def pace(connections: int, settings: GatewaySettings) -> Pace:
    """Steps of ``drain_step``, as far apart as time allows. With less time, steps come faster and not larger: a large
    step would delay the connections still served."""
    steps = -(-connections // settings.drain_step)
    if steps <= 1:
        return Pace(steps, settings.drain_step, 0.0)
    return Pace(steps, settings.drain_step, min(_PAUSE, time_for_steps(settings) / (steps - 1 + _JITTER)))


async def drain(members: Members, settings: GatewaySettings) -> None:
    """Close every connection with 1012; returns when all have ended, or at the close timeout."""
    sessions = members.all()
    plan = pace(len(sessions), settings)
    log.info("draining_connections", connections=len(sessions), steps=plan.steps, limit_s=plan.longest)
    now = asyncio.get_running_loop().time
    started = now()
    for number in range(plan.steps):
        if number:
            # By the clock, so that steps that took long do not add up.
            due = started + (number + random.uniform(-_JITTER, _JITTER)) * plan.pause  # noqa: S311  # jitter
            await asyncio.sleep(max(0.0, due - now()))
        for session in sessions[number * plan.step : (number + 1) * plan.step]:
            advice = settings.retry_after + random.uniform(0, settings.retry_spread)  # noqa: S311  # jitter
            session.close(CloseCode.SERVICE_RESTART, "this replica restarts", retry_after=advice)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.close_timeout):
            await members.empty.wait()
