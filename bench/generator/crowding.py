"""A crowd: ever more connections that do nothing, while the runner looks at the system, or lets others work on it."""

from collections.abc import Sequence
from typing import Any

from bench.dialects import dialect
from bench.generator.clients import Client, names, open_many
from bench.generator.control import Control


async def run(
    control: Control, *, urls: Sequence[str], language: str, sizes: Sequence[int]
) -> dict[str, Any]:
    """Let the crowd grow to each of ``sizes`` in turn; mark ``size``, with the fact ``size``, each time."""
    speaking = dialect(language)
    people = names("c", max(sizes))
    crowd: list[Client] = []
    for size in sizes:
        crowd += await open_many(people[len(crowd) : size], urls, speaking, progress=control.progress)
        await control.mark("size", size=size)
    return {"cut_off": sum(client.ended for client in crowd)}
