"""Survey: asks, listens and looks for a moment, and draws the picture.

No management plug-in is needed, and no program is disturbed: gateways answer a question, replicas announce themselves
every 2 s, and RabbitMQ reports the queues that are asked for by their names.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final

from towpath.servicekit.broker.interface import (
    Broker,
    BrokerBlocked,
    BrokerState,
    Found,
    PublishUnconfirmed,
    Queue,
    Topology,
    Unroutable,
)
from towpath.servicekit.installed import installed_services
from towpath.tools.ops import picture
from towpath.tools.ops.listening import Listening
from towpath.tools.ops.picture import Picture

#: Longer than the pauses between two announcements: 2 s for the queues of a replica, 5 s for its domain. It takes so
#: long only if a queue is consumed that no replica claims.
SECONDS: Final = 6.0
#: Gateways answer one after the other, each within some milliseconds.
_ANSWERS_SECONDS: Final = 0.5


async def take(
    broker: Broker, listening: Listening, version: str, services: Sequence[str], *, seconds: float = SECONDS
) -> Picture:
    """The picture, as soon as each consumed queue is claimed and gateways had time to answer; else after ``seconds``.

    Args:
        version: Product and version of the broker.
        services: Those to look at beside the ones that announce themselves.

    Raises:
        BrokerError: The account may not ask, or the broker does not answer.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    listening.programs.reports.clear()  # The answers to this question alone.
    is_blocked = await _ask(broker, listening)
    wait = 0.0 if is_blocked else seconds
    while True:
        found = await look(broker, services, listening)
        elapsed = loop.time() - began
        if elapsed >= wait or (elapsed >= min(_ANSWERS_SECONDS, seconds) and _is_complete(listening, found)):
            listening.programs.forget_silent(time.monotonic())
            return picture.draw(version, listening.programs, found, services, is_blocked=is_blocked)
        await asyncio.sleep(0.1)


async def look(broker: Broker, services: Iterable[str], listening: Listening) -> Found:
    """The queues of services."""
    announced = {name for name, _ in listening.programs.services} | {
        name for name, _ in listening.programs.replicas
    }
    names = sorted({*services, *announced})
    return await broker.look(
        Topology(queues=[Queue(name=name) for one in names for name in picture.queue_names(one)])
    )


def installed() -> list[str]:
    """The names of the services that are installed here."""
    return [one.name for one in installed_services()]


async def _ask(broker: Broker, listening: Listening) -> bool:
    """Ask all gateways; whether RabbitMQ accepts no messages."""
    try:
        await listening.ask()
    except Unroutable:
        return False  # There is no gateway at all.
    except BrokerBlocked:
        return True
    except PublishUnconfirmed:
        # RabbitMQ says that it is blocked only once it has received a message; the link looks every 0.2 s.
        await asyncio.sleep(_ANSWERS_SECONDS)
        if broker.state is BrokerState.BLOCKED:
            return True
        raise
    return False


def _is_complete(listening: Listening, found: Found) -> bool:
    consumed = {name for name, counts in found.queues.items() if counts.consumers}
    return bool(listening.programs.reports) and consumed <= listening.programs.claimed()
