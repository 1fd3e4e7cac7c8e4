"""A step of the saga that no queue took: the order is decided all the same, and the stock is right."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from towpath.client import connect
from towpath.protocol.routes import events_queue
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System
from towpath.testkit.tokens import a_token

from .broker import Broker
from .oracle import Verdict
from .trial import Trial


@pytest.mark.faults_short
async def test_an_order_is_decided_though_the_queue_of_a_step_was_missing(
    rabbitmq: Rabbit,
    processes: Processes,
    tmp_path: Path,
    rates: Mapping[str, Any],
    broker: Broker,
    trial: Trial,
) -> None:
    system = System(rabbitmq, processes, tmp_path, **rates)
    system.gateways = [system.launch_gateway()]
    # Short, but not before a queue can be there again: repeats after 2, 8 and 32 s.
    orders = system.launch_service("orders", order_repeat=2.0)
    inventory = system.launch_service("inventory")
    everyone = [*system.gateways, orders, inventory]
    for process in everyone:
        await process.ready(timeout=120)
    states: dict[str, list[str]] = {}

    def show(data: dict[str, Any]) -> None:
        states.setdefault(data["order_id"], []).append(data["status"])

    async def lose_queue(process: Process, name: str) -> None:
        """Delete the queue of events of a paused program, which cannot declare it again."""
        process.pause()
        await broker.delete_queue(events_queue(name))

    with trial.line("the queue of inventory, then of orders, deleted before an event of the saga") as line:
        token = a_token("ana", scope="order inventory inventory:write")
        async with connect(system.urls, token=token) as ana:
            ana.on("order.updated", show)
            ana.track("order:ana", 0)
            await ana.request("inventory.set", {"sku": "anvil", "on_hand": 5})

            async def submit(name: str) -> None:
                items = [{"sku": "anvil", "quantity": 1, "unit_price": "1.00"}]
                await ana.request("order.submit", {"order_id": name, "items": items})

            # The inventory never hears that the first order was created.
            await lose_queue(inventory, "inventory")
            await submit("O-created")
            inventory.resume()
            await eventually(lambda: states.get("O-created") == ["submitted", "confirmed"], timeout=60)

            # Nor that it was cancelled, until it hears it again.
            await lose_queue(inventory, "inventory")
            await ana.request("order.cancel", {"order_id": "O-created"})
            inventory.resume()

            async def available() -> int:
                return int((await ana.request("inventory.get", {"sku": "anvil"}))["available"])

            async def is_available(count: int) -> bool:
                return await available() == count

            await eventually(partial(is_available, 5), timeout=60, every=0.5)

            # Orders never hears that the second one was confirmed.
            inventory.pause()
            await submit("O-confirmed")
            await lose_queue(orders, "orders")
            inventory.resume()
            await eventually(partial(is_available, 4), timeout=60, every=0.2)
            orders.resume()
            await eventually(lambda: states.get("O-confirmed") == ["submitted", "confirmed"], timeout=60)
            assert await available() == 4, "it is reserved once"
        line.verdict = Verdict(operations=3)
