"""Towpath, each program under its own account on RabbitMQ, with the permissions of ``towpath broker setup``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

from bench.systems import towpath
from bench.systems.interface import Running, Setup
from towpath.testkit.processes import Processes
from towpath.testkit.rights import Rights
from towpath.tools.broker_setup import Wanted

#: The service of the work ``request`` is not an installed one.
_WANTED: Final = Wanted(services=["echo:echo"])


@asynccontextmanager
async def start(setup: Setup) -> AsyncIterator[Running]:
    """Towpath as it is otherwise measured."""
    rights = Rights(_WANTED)
    await rights.grant(setup.broker, setup.vhost)
    with Processes(rights) as processes:
        async with towpath.start(replace(setup, processes=processes)) as running:
            yield running


SYSTEM: Final = replace(
    towpath.SYSTEM,
    name="rights",
    title="Towpath, own accounts",
    start=start,
    differences=[
        "each program has its own account, and RabbitMQ checks each routing key",
        *towpath.SYSTEM.differences,
    ],
)
