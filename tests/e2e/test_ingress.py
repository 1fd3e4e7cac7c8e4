"""The HTTP ingress as a process: events take effect once and in their order, whatever goes away in between."""

import asyncio
import random
from pathlib import Path
from typing import Any

from tests.e2e.http_backend import HttpBackend, RestartedIngress, applied
from towpath.ingress.keys import make
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit

ORDERS = 8
EVENTS = 50


async def test_events_by_http_take_effect_once_and_in_order_though_broker_and_ingress_go_away(
    rabbitmq: Rabbit, processes: Processes, tmp_path: Path
) -> None:
    keys, database = tmp_path / "keys.json", tmp_path / "orders.db"
    key = make(keys, "shop", ("order.*",), push=False)
    own: dict[str, Any] = {"amqp_url": rabbitmq.url, "reconnect_max": 1.0}
    ingress = RestartedIngress(processes, api_keys=keys, **own)
    await asyncio.gather(
        ingress.start(),
        processes.start("towpath-orders", timeout=120, database_url=f"sqlite:///{database}", **own),
    )
    names = [f"O{number}" for number in range(ORDERS)]
    async with HttpBackend.of(ingress.port, key, random.Random(14)) as backend:
        telling = asyncio.gather(*(backend.tell([name], EVENTS, at_once=5) for name in names))
        for accepted, go_away in ((80, rabbitmq.stop), (160, ingress.kill_and_start)):
            await eventually(lambda bound=accepted: backend.accepted >= bound, timeout=120)  # type: ignore[misc]  # a default of a lambda
            await go_away()
            if go_away == rabbitmq.stop:
                await asyncio.sleep(0.5)  # an outage that requests meet
                await rabbitmq.start()
        await telling
        assert backend.accepted == ORDERS * EVENTS
        assert backend.repeated > 0

    def all_is_told() -> bool:
        return applied(database) == {name: list(range(EVENTS)) for name in names}

    try:
        await eventually(all_is_told, timeout=120)
    except AssertionError:
        assert applied(database) == {name: list(range(EVENTS)) for name in names}
