"""Selective routing over four replicas and a real RabbitMQ: each hears what concerns it, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from towpath.protocol.envelope import make
from towpath.protocol.routes import PUSH, control_key, user_key
from towpath.servicekit.broker.interface import Broker, Message
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System, url_of
from towpath.testkit.tokens import a_token
from towpath.tools.rabbitmq_node import RabbitControl

USERS = ["ana", "ben", "cyd", "dan"]
CALM = 0.5


class Replicas:
    """Four gateways, a user on each, and a backend that pushes."""

    def __init__(self, gateways: list[Process], clients: list[WireClient], backend: Broker) -> None:
        self.gateways = gateways
        self.clients = clients
        self._backend = backend

    async def push(self, key: str, **data: Any) -> None:
        await self._backend.until_ready()
        await self._backend.publish(
            PUSH, key, Message(body=make("test.told", data).to_json(), persistent=False)
        )

    async def everybody_hears(self, word: str) -> None:
        """A push to each of them arrives; and with it, as one inbox keeps its order, all that was pushed before."""
        for user in USERS:
            await self.push(user_key(user), word=f"{word} {user}")
        for user, client in zip(USERS, self.clients, strict=True):
            await client.find(lambda frame, told=f"{word} {user}": frame["data"].get("word") == told)  # type: ignore[misc]

    async def converged(self) -> None:
        """Wait until only pushes to the one user who is there come to each replica."""

        async def has() -> bool:
            figures = [await metrics(gateway) for gateway in self.gateways]
            return all((f["routing_everything"], f["routing_user_bindings"]) == (0, 1) for f in figures)

        await eventually(has, timeout=60)

    async def heard(self) -> list[tuple[float, float]]:
        """How much each replica delivered, and how much came for users who are not there."""
        figures = [await metrics(gateway) for gateway in self.gateways]
        wasted = [f'pushes_for_others_total{{kind="{kind}"}}' for kind in ("user", "control")]
        return [(f["messages_delivered_total"], sum(f[name] for name in wasted)) for f in figures]


async def metrics(gateway: Process) -> dict[str, float]:
    """All figures by name, with their labels as Prometheus writes them."""
    async with aiohttp.ClientSession() as http, http.get(f"{gateway.admin_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


@pytest.fixture
async def replicas(rabbitmq: Rabbit, processes: Processes, tmp_path: Path) -> AsyncIterator[Replicas]:
    system = System(rabbitmq, processes, tmp_path, routing="selective", routing_calm=CALM, probe_interval=0.3)
    system.gateways = [system.launch_gateway() for _ in USERS]
    await asyncio.gather(*(gateway.ready() for gateway in system.gateways))
    async with (
        RabbitBroker.connect(rabbitmq.url, name="backend", reconnect_max=0.5) as backend,
        AsyncExitStack() as stack,
    ):
        clients = [
            await stack.enter_async_context(system.connect(user, number)) for number, user in enumerate(USERS)
        ]
        yield Replicas(system.gateways, clients, backend)


async def test_a_push_to_one_user_costs_the_other_replicas_nothing(replicas: Replicas) -> None:
    await replicas.converged()
    await replicas.everybody_hears("before")
    before = await replicas.heard()
    for number in range(200):
        await replicas.push(user_key("ana"), number=number)
        await replicas.push(control_key("ana"))  # does nothing, and reaches no client
    await replicas.everybody_hears("after")
    after = await replicas.heard()
    heard = [frame["data"]["number"] for frame in replicas.clients[0].frames if "number" in frame["data"]]
    assert heard == list(range(200))
    grown = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(before, after, strict=True)]
    assert grown == [(201, 0), (1, 0), (1, 0), (1, 0)]


async def test_after_a_restart_of_rabbitmq_gateways_receive_everything_and_later_only_their_own_pushes(
    rabbitmq: Rabbit, replicas: Replicas
) -> None:
    await replicas.converged()
    await rabbitmq.stop()
    await rabbitmq.start()
    for client in replicas.clients:
        await client.next("session.resync", timeout=60)
    await replicas.everybody_hears("restarted")
    await replicas.converged()
    await replicas.everybody_hears("converged again")


async def test_a_replica_with_a_new_inbox_receives_everything_and_later_only_its_own_pushes(
    rabbitmq: Rabbit, rabbitmq_node: RabbitControl, replicas: Replicas
) -> None:
    await replicas.converged()
    vhost = rabbitmq.url.rpartition("/")[2]
    name = f"gateway.{(await replicas.clients[0].next('session.welcome'))['data']['gateway_id']}."
    await asyncio.to_thread(
        rabbitmq_node.evaluate,
        f'[rabbit_amqqueue:delete(Q, false, false, <<"test">>) || Q <- rabbit_amqqueue:list(<<"{vhost}">>), '
        f'string:prefix(element(4, amqqueue:get_name(Q)), <<"{name}">>) =/= nomatch]',
    )
    await replicas.clients[0].next("session.resync", timeout=60)
    await replicas.everybody_hears("anew")
    await replicas.converged()
    await replicas.everybody_hears("converged again")


async def test_users_on_changing_replicas_receive_pushes_from_their_welcome_on(
    replicas: Replicas,
) -> None:
    await replicas.converged()

    async def comes(user: str, gateway: Process) -> None:
        async with WireClient.connect(url_of(gateway), token=a_token(user)) as client:
            await client.next("session.welcome")
            await replicas.push(user_key(user), word=f"hello {user}")
            await client.find(lambda frame: frame["data"].get("word") == f"hello {user}")

    for wave in range(5):
        await asyncio.gather(
            *(comes(f"u{wave}-{n}", replicas.gateways[n % len(replicas.gateways)]) for n in range(20))
        )
    await replicas.everybody_hears("at the end")
    figures = [await metrics(gateway) for gateway in replicas.gateways]
    assert [figure["probes_lost_total"] for figure in figures] == [0, 0, 0, 0]
