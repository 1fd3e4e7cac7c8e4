"""RabbitMQ's Web-STOMP plugin: the broker is the gateway, and a worker answers.

Guarantees: the plugin listens on 127.0.0.1 only, runs only as long as the measurement, and lets its one user into
nothing but the measurement's virtual host.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from bench.dialects.stomp import LOGIN
from bench.systems.interface import Running, Setup, System, launch_module, serving
from towpath.testkit.processes import free_port
from towpath.tools.rabbitmq_node import RabbitNode

_PLUGIN: Final = "rabbitmq_web_stomp"


@contextlib.asynccontextmanager
async def start(setup: Setup) -> AsyncIterator[Running]:
    """The worker, and the plugin on a port of its own."""
    worker = launch_module(setup, "bench.peers.webstomp_worker", "web-stomp worker", amqp_url=setup.amqp_url)
    await serving(worker)
    async with web_stomp(setup.broker, setup.vhost) as port:
        yield Running(urls=[f"ws://127.0.0.1:{port}/ws"], pids={"gateway": [], "service": [worker.pid]})


@contextlib.asynccontextmanager
async def web_stomp(broker: RabbitNode, vhost: str) -> AsyncIterator[int]:
    """The plugin in a node that runs; gives its port."""
    port = free_port()
    on, login, everything = f'<<"{vhost}">>', f'<<"{LOGIN}">>', '<<".*">>'
    us = f'<<"{broker.user}">>'
    await _evaluate(
        broker,
        f"[application:load(Application) || Application <- [rabbitmq_stomp, {_PLUGIN}]]",
        f"rabbit_auth_backend_internal:add_user({login}, {login}, {us})",
        "rabbit_auth_backend_internal:set_permissions("
        f"{login}, {on}, {everything}, {everything}, {everything}, {us})",
        "application:set_env(rabbitmq_stomp, tcp_listeners, [])",
        f"application:set_env(rabbitmq_stomp, default_vhost, {on})",
        f'application:set_env({_PLUGIN}, tcp_config, [{{ip, "127.0.0.1"}}, {{port, {port}}}, {{backlog, 4096}}])',
    )
    try:
        await _enable(broker, _PLUGIN)
        yield port
    finally:
        await _enable(broker)
        await _evaluate(
            broker,
            # RabbitMQ keeps a record of the listener, and from the second time on stops the first one again.
            f"[ranch:stop_listener(Ours) || {{acceptor, _, {port}}} = Ours <- maps:keys(ranch:info())]",
            f"rabbit_auth_backend_internal:delete_user({login}, {us})",
        )


async def _enable(broker: RabbitNode, *plugins: str) -> None:
    # As `rabbitmq-plugins set` does to a running node.
    enabled = broker.folder / "enabled_plugins"
    enabled.write_text(f"[{', '.join(plugins)}].\n")
    await _evaluate(broker, f'{{ok, _, _}} = rabbit_plugins:ensure("{enabled}")')


async def _evaluate(broker: RabbitNode, *expressions: str) -> None:
    for expression in expressions:
        await asyncio.to_thread(broker.evaluate, expression)


SYSTEM: Final = System(
    name="webstomp",
    title="RabbitMQ Web-STOMP",
    dialect="stomp",
    works=frozenset({"request", "room", "push", "idle", "connect", "churn", "stalled"}),
    start=start,
    differences=[
        "the gateway is a part of the broker: its CPU and memory are the broker's",
        "there is no gateway program: no checks, no identity, and every client may use any queue",
        "RabbitMQ's confirm of a request does not reach the client",
        "every connection has a queue for its answers, one for pushes, and one for each room",
        "two gateways are one: the broker",
        "a client joins a room at the broker, without the worker",
        "frames carry STOMP's headers around the envelope",
    ],
)
