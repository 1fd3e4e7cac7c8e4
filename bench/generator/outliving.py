"""The death of a gateway: its effect on the publishers.

A backend publishes, one after the other and each confirmed, to users of a gateway that lives; the other gateway, full
of people, dies.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from bench.dialects import dialect
from bench.generator.backend import Backend
from bench.generator.clients import clock, names, open_many
from bench.generator.control import Control
from bench.generator.pushing import Receiver

_BYSTANDERS: Final = 100
_LAST_SECONDS: Final = 2.0


async def run(
    control: Control,
    *,
    urls: Sequence[str],
    language: str,
    amqp_url: str,
    clients: int,
    seconds: float,
) -> dict[str, Any]:
    """Publish for ``seconds``, then let the first gateway die (mark ``death``), and go on for ``seconds``.

    Returns the longest wait for a confirm before and after, in milliseconds.

    Args:
        control: The runner, which kills the gateway at the mark.
        urls: Of two gateways.
        language: The dialect.
        amqp_url: Where the backend publishes.
        clients: Users of the first gateway.
        seconds: Before, and after.
    """
    speaking = dialect(language)
    dying, living = urls
    await open_many(names("u", clients), [dying], speaking, progress=control.progress)
    bystanders = await open_many(names("b", _BYSTANDERS), [living], speaking)
    receivers = [
        Receiver(place, client, speaking, lambda number: None) for place, client in enumerate(bystanders)
    ]
    waits: list[tuple[int, int]] = []  # when it left, and how long it took
    stop = asyncio.Event()

    async def publish(backend: Backend) -> None:
        place = 0
        while not stop.is_set():
            since = clock()
            await backend.publish(receivers[place % len(receivers)].push())
            waits.append((since, clock() - since))
            place += 1

    async with Backend.open(amqp_url) as backend:
        publishing = asyncio.create_task(publish(backend))
        await asyncio.sleep(seconds)
        await control.mark("death")
        died = clock()
        await asyncio.sleep(seconds)
        stop.set()
        await publishing
    await asyncio.sleep(_LAST_SECONDS)
    return {
        "before_ms": max(wait for since, wait in waits if since + wait < died) / 1e6,
        "after_ms": max(wait for since, wait in waits if since + wait >= died) / 1e6,
        "lost": sum(receiver.ledger.lost(receiver.next) for receiver in receivers),
        "duplicates": sum(receiver.ledger.duplicates for receiver in receivers),
        "disorder": sum(receiver.ledger.disorder for receiver in receivers),
    }
