"""Towpath: real gateways, and the real service of the work."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.systems.interface import Running, Setup, System
from towpath.testkit.processes import Process, free_port
from towpath.testkit.system import url_of
from towpath.testkit.tokens import AUTH_SETTINGS

#: The service that a work needs; the others need chat.
_SERVICES: Final = {"request": "echo", "orders": "orders", "push": None}


#: A few connections on one address send hundreds of messages a second each, which no honest person does. The limits
#: stay on, and are checked for each message; they are only never reached.
_RATES: Final[dict[str, Any]] = {
    f"{what}_per_{whose}": 1_000_000
    for what in ("rate", "burst")
    for whose in ("connection", "user", "address")
}


@asynccontextmanager
async def start(setup: Setup, *, programs: str = "", **settings: Any) -> AsyncIterator[Running]:
    """Gateways, and the one service that the work is about.

    Args:
        programs: The folder of the programs, if they are not those of this environment.
        settings: Of all programs.
    """
    gateways = [
        setup.processes.launch(
            os.path.join(programs, "towpath-gateway"),  # noqa: PTH118  # without a folder the name alone
            amqp_url=setup.amqp_url,
            port=free_port(),
            **AUTH_SETTINGS,
            **_RATES,
            **settings,
        )
        for _ in range(setup.gateways)
    ]
    service = _launch_service(setup, _SERVICES.get(setup.workload, "chat"), programs, settings)
    for process in [*gateways, *service]:
        await process.ready(timeout=60)
    yield Running(
        urls=[url_of(gateway) for gateway in gateways],
        pids={
            "gateway": [gateway.pid for gateway in gateways],
            "service": [process.pid for process in service],
        },
    )


def _launch_service(setup: Setup, name: str | None, programs: str, more: dict[str, Any]) -> list[Process]:
    settings: dict[str, Any] = {
        "amqp_url": setup.amqp_url,
        "database_url": setup.database or f"sqlite:///{setup.folder}/{name}.db",
        **more,
    }
    if name is None:
        return []
    if name == "echo":
        # Its own checkout's, as the names in servicekit may differ. -P: no module of bench hides another one.
        checkout = Path(programs).parents[1] if programs else Path(__file__).parents[2]
        python = str(Path(programs) / "python") if programs else sys.executable
        script = str(checkout / "bench" / "echo.py")
        return [setup.processes.launch(python, "-P", script, name="echo", **settings)]
    if name == "chat":
        settings["deliveries_per_user"] = 0  # as with the rates: a few users fill the rooms of thousands
    program = os.path.join(programs, f"towpath-{name}")  # noqa: PTH118
    return [setup.processes.launch(program, **settings)]


SYSTEM: Final = System(
    name="towpath",
    title="Towpath",
    dialect="towpath",
    works=frozenset(
        {
            "request",
            "orders",
            "room",
            "push",
            "chat",
            "idle",
            "death",
            "resume",
            "connect",
            "churn",
            "stalled",
        }
    ),
    start=start,
    differences=[
        "tokens are checked; limits and metrics are on, as they come, and no collector of traces is set; only the "
        "rates at which a connection, a user and an address may send are raised to 1,000,000/s: the generator is one "
        "address, and its connections send more than people do",
    ],
)
