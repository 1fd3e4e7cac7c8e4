"""Connections that do nothing: what each takes, and what all of them cost meanwhile."""

import asyncio
from collections.abc import Sequence
from typing import Any

from bench.dialects import dialect
from bench.generator.clients import names, open_many
from bench.generator.control import Control
from bench.generator.window import Window


async def run(
    control: Control,
    *,
    urls: Sequence[str],
    language: str,
    some: int,
    clients: int,
    settle: float,
    seconds: float,
) -> dict[str, Any]:
    """Open ``some`` connections, then all; then leave them alone for ``seconds``.

    Marks: ``some`` and ``all`` are open, and have been for ``settle`` seconds; ``begin`` and ``end`` of being left
    alone.
    """
    speaking = dialect(language)
    people = names("u", clients)
    connected = await open_many(people[:some], urls, speaking)
    await asyncio.sleep(settle)
    await control.mark("some")
    connected += await open_many(people[some:], urls, speaking, progress=control.progress)
    await asyncio.sleep(settle)
    await control.mark("all")
    idle = await Window().watch(control, seconds)
    return idle | {"cut_off": sum(client.ended for client in connected)}
