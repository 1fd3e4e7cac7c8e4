"""The alerts on programs fire when the fault happens to real ones."""

import contextlib
import resource
import socket
from pathlib import Path
from typing import Final

import pytest

from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .causes import watched
from .conftest import READY, Watch

pytestmark = pytest.mark.timeout(900)

DEFECTIVE: Final = Path(__file__).with_name("orders_with_a_defect.py")


async def test_a_killed_program(watch: Watch, system: System) -> None:
    prometheus = await watched(watch, system)
    await system.chat.kill()
    await prometheus.fires("ProgramDown")


async def test_a_program_that_is_taken_away(watch: Watch, parts: System) -> None:
    orders = parts.launch_service("orders")
    await orders.ready(timeout=READY)
    prometheus = await watch(ages=360, orders=orders)  # an hour is 10 s
    await prometheus.evaluates(20)
    await orders.terminate()
    prometheus.watch("towpath-orders", [])
    await prometheus.fires("ProgramMissing")


async def test_a_lost_broker(watch: Watch, system: System, rabbitmq: Rabbit) -> None:
    prometheus = await watched(watch, system)
    await rabbitmq.stop()
    await prometheus.fires("ProgramNotReady", "BrokerDisconnected")
    await rabbitmq.start()
    await prometheus.ends("ProgramNotReady", "BrokerDisconnected")


async def test_a_loop_that_fails(
    watch: Watch, processes: Processes, rabbitmq: Rabbit, tmp_path: Path
) -> None:
    orders = processes.launch(
        "python",
        str(DEFECTIVE),
        name="towpath-orders",
        amqp_url=rabbitmq.url,
        database_url=f"sqlite:///{tmp_path}/orders.db",
        database_probe_interval=0.2,
    )
    await orders.ready(timeout=READY)
    prometheus = await watch(orders=orders)
    await prometheus.fires("LoopFails")


async def test_a_gateway_without_descriptors(watch: Watch, system: System) -> None:
    prometheus = await watched(watch, system)
    (gateway,) = system.gateways
    used = len(list(Path(f"/proc/{gateway.pid}/fd").iterdir()))  # noqa: ASYNC240  # a folder of the kernel
    resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (used, used))
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            address = ("127.0.0.1", int(gateway.settings["TOWPATH_PORT"]))
            stack.enter_context(socket.create_connection(address, timeout=10))
        await prometheus.fires("DescriptorsExhausted")
