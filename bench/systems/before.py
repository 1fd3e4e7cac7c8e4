"""Towpath of another checkout, beside this one: ``BENCH_BEFORE`` in the environment names the folder of its programs.

```sh
git worktree add /tmp/before HEAD~1 && make -C /tmp/before install
BENCH_BEFORE=/tmp/before/.venv/bin make bench ARGS="--systems towpath,before --works request,room --rounds 5"
```
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from bench.systems import towpath
from bench.systems.interface import Running, Setup


class NotNamed(Exception):
    """``BENCH_BEFORE`` is not set."""


@asynccontextmanager
async def start(setup: Setup) -> AsyncIterator[Running]:
    """The programs of the other checkout, with the settings of this one's.

    Raises:
        NotNamed
    """
    if not (programs := os.environ.get("BENCH_BEFORE", "")):
        raise NotNamed("BENCH_BEFORE must name the folder .venv/bin of another checkout")
    async with towpath.start(setup, programs=programs) as running:
        yield running


SYSTEM: Final = replace(
    towpath.SYSTEM,
    name="before",
    title="Towpath, before",
    start=start,
    differences=["the programs of another checkout", *towpath.SYSTEM.differences],
)
