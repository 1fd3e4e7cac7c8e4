"""Replicas are added and taken away under load, behind the proxies of deploy/."""

from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import pytest

from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit

from .conftest import StartSystem
from .evidence import Asked
from .onlookers import Onlookers
from .proxies import PROXIES
from .trial import Trial

_REPLICAS: Final = 3
_ONLOOKERS: Final = 60
_OPERATIONS: Final = 300  # between two changes


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
        Onlookers.watch([url], _ONLOOKERS) as onlookers,
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
