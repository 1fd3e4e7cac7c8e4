"""Events by HTTP while RabbitMQ and the ingress are killed: each takes effect once, in the order of its sender."""

import asyncio
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

import pytest

from tests.e2e.http_backend import HttpBackend, RestartedIngress, applied
from towpath.ingress.keys import make
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes
from towpath.tools.rabbitmq_node import RabbitNode

from .oracle import Verdict
from .resources import peak_mib
from .trial import Trial

_ORDERS: Final = 100
_EVENTS_EACH: Final = 100
_EVENTS: Final = _ORDERS * _EVENTS_EACH
#: Each sends the events of its own orders, ten in a request.
_SENDERS: Final = 20
_AT_ONCE: Final = 10
#: MiB that the ingress may need beyond what it has when it is idle.
_GROWTH: Final = 64


@pytest.mark.timeout(1200)
async def test_events_by_http_are_applied_once_and_in_order(
    own_node: RabbitNode, processes: Processes, tmp_path: Path, trial: Trial
) -> None:
    keys, database = tmp_path / "keys.json", tmp_path / "orders.db"
    key = make(keys, "shop", ("order.*",), push=False)
    own: dict[str, Any] = {"amqp_url": own_node.url(), "reconnect_max": 1.0}
    # As fast as it can, so that a fault finds requests in hand.
    ingress = RestartedIngress(processes, api_keys=keys, rate_per_key=0, **own)
    names = [f"O{number}" for number in range(_ORDERS)]
    chance = trial.chance

    async def kill_broker() -> None:
        own_node.kill()
        await asyncio.sleep(1)  # an outage that requests meet
        await asyncio.to_thread(own_node.boot)

    faults = [kill_broker, ingress.kill_and_start] * 2
    chance.shuffle(faults)
    with trial.line(f"{_EVENTS:,} events by HTTP; RabbitMQ killed twice, the ingress killed twice") as line:
        await asyncio.gather(
            ingress.start(),
            processes.start("towpath-orders", timeout=120, database_url=f"sqlite:///{database}", **own),
        )
        line.verdict = Verdict(operations=_EVENTS)
        assert ingress.process is not None
        idle, peaks, started = peak_mib(ingress.process), [0.0], monotonic()
        async with HttpBackend.of(ingress.port, key, chance) as backend:
            sending = asyncio.gather(
                *(
                    backend.tell(names[sender::_SENDERS], _EVENTS_EACH, at_once=_AT_ONCE)
                    for sender in range(_SENDERS)
                )
            )

            def reached(bound: float) -> bool:
                return backend.accepted >= bound or sending.done()

            for number, fault in enumerate(faults):
                # At a random moment of each quarter.
                bound = (number + chance.random()) * _EVENTS / len(faults)
                await eventually(partial(reached, bound), timeout=480)
                assert not sending.done(), f"all events were accepted before the fault {number + 1}"
                peaks.append(peak_mib(ingress.process))
                await fault()
            await sending
            assert backend.accepted == _EVENTS
            assert backend.repeated >= len(faults)
        accepted_after = monotonic() - started
        peaks.append(peak_mib(ingress.process))
        in_order = {name: list(range(_EVENTS_EACH)) for name in names}

        def count() -> int:
            return sum(map(len, applied(database).values()))

        await eventually(lambda: count() >= _EVENTS, timeout=480, every=0.5)
        await asyncio.sleep(1)  # what would be applied twice
        found = applied(database)
        assert {name: steps for name, steps in found.items() if steps != in_order.get(name)} == {}
        assert len(found) == _ORDERS
        trial.note(
            f"accepted after {accepted_after:.0f} s, {backend.repeated} requests repeated; "
            f"the ingress had {max(peaks):.0f} MiB at most, {idle:.0f} idle"
        )
        assert max(peaks) - idle < _GROWTH
