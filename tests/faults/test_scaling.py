"""Replicas are added and taken away under load, behind the proxies of deploy/."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import pytest
from websockets.exceptions import InvalidStatus

from towpath.testkit.client import ConnectionEnded, WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import a_token

from .conftest import StartSystem
from .evidence import Asked
from .proxies import PROXIES
from .trial import Trial

_REPLICAS: Final = 3
_ONLOOKERS: Final = 60
_OPERATIONS: Final = 300  # between two changes


@dataclass
class Onlookers:
    """People who only stay connected, and reconnect when they are closed.

    Attributes:
        endings: Of each connection that ended: its close code, and whether it had advice when to reconnect.
        at: The gateway of each who is connected.
    """

    url: str
    endings: list[tuple[int, bool]] = field(default_factory=list)
    at: dict[str, str] = field(default_factory=dict)

    @classmethod
    @contextlib.asynccontextmanager
    async def watch(cls, url: str, count: int) -> AsyncIterator["Onlookers"]:
        """All of them connected at entry."""
        onlookers = cls(url)
        async with asyncio.TaskGroup() as tasks:
            watching = [tasks.create_task(onlookers._stay(f"onlooker{number}")) for number in range(count)]
            await eventually(lambda: len(onlookers.at) == count)
            yield onlookers
            for task in watching:
                task.cancel()

    async def _stay(self, user: str) -> None:
        while True:
            pause = 0.2
            # The proxy may not know yet that a gateway has come, or gone: a client tries again.
            with contextlib.suppress(OSError, ConnectionEnded, InvalidStatus, TimeoutError):
                pause = await self._connect(user)
            await asyncio.sleep(pause)  # as advised, or a short while before the next attempt

    async def _connect(self, user: str) -> float:
        """Stay until the connection ends; returns the seconds after which to reconnect."""
        async with WireClient.connect(self.url, token=a_token(user)) as client:
            welcome = await client.next("session.welcome")
            self.at[user] = welcome["data"]["gateway_id"]
            code = await client.closed(timeout=600)
            del self.at[user]
        closing = [frame["data"] for frame in client.frames if frame["action"] == "session.closing"]
        advised = bool(closing) and "retry_after_ms" in closing[0]
        self.endings.append((code, advised))
        return closing[0]["retry_after_ms"] / 1000 if advised else 0.2


@pytest.mark.timeout(400)
@pytest.mark.parametrize("proxy", PROXIES)
async def test_gateways_come_and_go_behind_a_proxy_and_every_closed_connection_was_advised(
    proxy: str,
    rabbitmq: Rabbit,
    start_system: StartSystem,
    processes: Processes,
    tmp_path: Path,
    trial: Trial,
) -> None:
    system = await start_system(rabbitmq, gateways=0)
    ports = [(free_port(), free_port()) for _ in range(_REPLICAS)]

    async def launch(place: int) -> None:
        gateway = system.launch_gateway(port=ports[place][0], admin_port=ports[place][1])
        system.gateways.append(gateway)
        await gateway.ready()

    await launch(0)
    url = await PROXIES[proxy](processes, tmp_path, ports)
    many: dict[str, Any] = {"users": [f"user{number}" for number in range(12)], "pause": 0.1}
    async with (
        Onlookers.watch(url, _ONLOOKERS) as onlookers,
        trial.of(f"1 → {_REPLICAS} → 1 gateways behind {proxy}", system, urls=[url], **many) as load,
    ):
        for place in range(1, _REPLICAS):
            await launch(place)
            await load.flows(_OPERATIONS)
        # The first one, where everyone is, goes first: all of them must find the others.
        for _ in range(_REPLICAS - 1):
            await system.gateways.pop(0).terminate(timeout=60)
            await load.flows(_OPERATIONS)
        await eventually(lambda: len(onlookers.at) == _ONLOOKERS)
        trial.note(
            f"{len(onlookers.endings)} connections closed, all with advice, {waits(load.journal.asked)}"
        )
    assert len(onlookers.endings) >= _ONLOOKERS
    assert set(onlookers.endings) == {(1012, True)}
    assert len(set(onlookers.at.values())) == 1


@pytest.mark.timeout(400)
@pytest.mark.parametrize("service", ["chat", "orders"])
async def test_replicas_of_a_service_come_and_go_under_load(
    service: str, rabbitmq: Rabbit, start_system: StartSystem, postgres_url: str, trial: Trial
) -> None:
    system = await start_system(rabbitmq)
    url = postgres_url.replace("+asyncpg", "")
    await getattr(system, service).terminate()
    replicas = [system.launch_service(service, database_url=url)]
    await replicas[0].ready()
    setattr(system, service, replicas[0])
    many: dict[str, Any] = {"users": [f"user{number}" for number in range(12)], "pause": 0.1}
    async with trial.of(f"1 → 4 → 1 replicas of {service}", system, **many) as load:
        for _ in range(3):
            replicas.append(system.launch_service(service, database_url=url))
            await replicas[-1].ready()
            await load.flows(_OPERATIONS)
        while len(replicas) > 1:
            assert await replicas.pop(0).terminate(timeout=60) == 0
            await load.flows(_OPERATIONS)
        trial.note(waits(load.journal.asked))
    setattr(system, service, replicas[0])


def waits(asked: list[Asked]) -> str:
    """The times to the answers, in words."""
    took = [one.answered_at - one.asked_at for one in asked if one.action in ("chat.send", "order.submit")]
    cuts = quantiles(took, n=100)
    p50, p99, longest = (f"{seconds * 1000:.0f} ms" for seconds in (cuts[49], cuts[98], max(took)))
    return f"answers within {p50} (p50), {p99} (p99), {longest} at most"
