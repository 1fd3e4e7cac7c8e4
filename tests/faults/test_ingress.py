"""Events by HTTP while RabbitMQ and the ingress are killed: each takes effect once, in the order of its sender."""

import asyncio
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.e2e.http_backend import HttpBackend, RestartedIngress, told
from towpath.ingress.keys import make
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes
from towpath.tools.rabbitmq_node import RabbitNode

from .resources import resident_mib
from .trial import Trial

ORDERS = 100
EVENTS = 100
SENDERS = 20


async def reached(backend: HttpBackend, accepted: float, telling: "asyncio.Future[Any]") -> None:
    """Wait until so many events are accepted, or all of them."""
    await eventually(lambda: backend.accepted >= accepted or telling.done(), timeout=300)


@pytest.mark.timeout(600)
async def test_ten_thousand_events_by_http_take_effect_once_and_in_order_though_broker_and_ingress_are_killed(
    own_node: RabbitNode, processes: Processes, tmp_path: Path, trial: Trial
) -> None:
    keys, database = tmp_path / "keys.json", tmp_path / "orders.db"
    key = make(keys, "shop", ("order.*",), push=False)
    own: dict[str, Any] = {"amqp_url": own_node.url(), "reconnect_max": 2.0}
    ingress = RestartedIngress(processes, api_keys=keys, rate_per_key=0, **own)
    await asyncio.gather(
        ingress.start(),
        processes.start("towpath-orders", timeout=120, database_url=f"sqlite:///{database}", **own),
    )
    names = [f"O{number}" for number in range(ORDERS)]

    async def kill_broker() -> None:
        own_node.kill()
        await asyncio.to_thread(own_node.boot)

    faults = [kill_broker, ingress.kill_and_start] * 2
    trial.chance.shuffle(faults)
    with trial.line("10,000 events by HTTP; RabbitMQ killed twice (SIGKILL), the ingress killed twice"):
        started = monotonic()
        async with HttpBackend.of(ingress.port, key, trial.chance) as backend:
            telling = asyncio.gather(
                *(backend.tell(names[sender::SENDERS], EVENTS, at_once=10) for sender in range(SENDERS))
            )
            for number, fault in enumerate(faults):
                at = (number + trial.chance.random()) * ORDERS * EVENTS / len(faults)
                await reached(backend, at, telling)
                assert not telling.done(), "all events were accepted before the fault"
                await fault()
            await telling
            assert backend.accepted == ORDERS * EVENTS
            assert backend.repeated >= len(faults)
            trial.note(f"accepted after {monotonic() - started:.0f} s, {backend.repeated} requests repeated")
        assert ingress.process is not None
        trial.note(f"the ingress had {resident_mib(ingress.process):.0f} MiB")
        assert resident_mib(ingress.process) < 200

        def count() -> int:
            return sum(map(len, told(database).values()))

        await eventually(lambda: count() >= ORDERS * EVENTS, timeout=240, every=0.5)
        await asyncio.sleep(1)
        assert told(database) == {name: list(range(EVENTS)) for name in names}
