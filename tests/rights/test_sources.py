"""A service takes commands from gateways only: what another account sends is refused, counted and not parked."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import aiormq
import pytest

from towpath.protocol.envelope import make
from towpath.protocol.messages import Session, encode, wrap_command
from towpath.protocol.routes import COMMANDS, again_exchange, command_key, command_queue
from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.rights import Rights
from towpath.tools.rabbitmq_node import RabbitControl

KEY = command_key("chat", "ana")
QUEUE = command_queue("chat", int(KEY.rpartition(".")[2]))
ANA = Session(user_id="ana", connection_id="c-1", gateway_id="gw-1")


class Chat:
    """A real chat service that believes the account ``gateway``, and accounts that send it commands."""

    def __init__(self, rights: Rights, url: str, process: Process) -> None:
        self._rights = rights
        self._url = url
        self.process = process

    async def send(
        self,
        account: str,
        exchange: str,
        key: str,
        headers: dict[str, Any] | None = None,
        *,
        body: bytes = b"",
    ) -> None:
        """By default a command that joins a room; published by ``account`` in its own name."""
        body = body or wrap_command(encode(ANA), make("chat.join", {"room": "lobby"}).to_json())
        properties = aiormq.spec.Basic.Properties(user_id=account, headers=headers)
        connection = await aiormq.connect(self._rights.url(self._url, account))
        try:
            channel = await connection.channel(publisher_confirms=True)
            await channel.basic_publish(body, exchange=exchange, routing_key=key, properties=properties)
        finally:
            await connection.close()

    async def figure(self, name: str) -> float:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.process.admin_url}/metrics") as response,
        ):
            lines = (await response.text()).splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    async def reaches(self, name: str, least: float) -> None:
        async def is_there() -> bool:
            return await self.figure(name) >= least

        await eventually(is_there, timeout=30)


@pytest.fixture
async def chat(rabbitmq_node: RabbitControl, tmp_path: Path) -> AsyncIterator[Chat]:
    rights = Rights()
    async with Rabbit.on(rabbitmq_node, rights) as rabbitmq:
        with Processes(rights) as processes:
            database = f"sqlite:///{tmp_path}/chat.db"
            process = await processes.start("towpath-chat", amqp_url=rabbitmq.url, database_url=database)
            yield Chat(rights, rabbitmq.url, process)


async def test_a_command_of_a_gateway_is_handled(chat: Chat) -> None:
    await chat.send("gateway", COMMANDS, KEY)
    await chat.reaches("messages_received_total", 1)
    assert await chat.figure("commands_refused_total") == 0


async def test_a_forged_command_is_refused_counted_and_not_parked(chat: Chat) -> None:
    """Besides gateways only chat's own account may publish commands of chat, and chat sends itself none."""
    for _ in range(3):
        await chat.send("chat", COMMANDS, KEY)
    await chat.reaches("commands_refused_total", 3)
    # The forged ones are settled: a command of a gateway comes after them.
    await chat.send("gateway", COMMANDS, KEY)
    await chat.reaches("messages_received_total", 1)
    assert await chat.figure("messages_received_total") == 1
    assert await chat.figure("messages_parked_total") == 0
    assert chat.process.output.count("commands_refused") == 1
    assert '"account": "chat"' in chat.process.output


async def test_a_command_that_an_operator_replays_is_handled(chat: Chat) -> None:
    await chat.send("ops", again_exchange("chat"), QUEUE, {"x-replayed": 1})
    await chat.reaches("messages_received_total", 1)
    assert await chat.figure("commands_refused_total") == 0


async def test_a_command_from_a_retry_queue_is_handled(chat: Chat) -> None:
    await chat.send("chat", "chat.retry.5s", QUEUE, {"x-attempt": 1})
    async with asyncio.timeout(30):
        await chat.reaches("messages_received_total", 1)
    assert await chat.figure("commands_refused_total") == 0


async def test_checks_of_bindings_are_not_refused(chat: Chat) -> None:
    """The service publishes empty batches to its own keys, every few seconds."""
    await chat.send("chat", COMMANDS, KEY, body=b"[]")
    await chat.send("gateway", COMMANDS, KEY)
    await chat.reaches("messages_received_total", 1)
    assert await chat.figure("commands_refused_total") == 0


async def test_a_service_that_checks_accounts_and_has_none_of_its_own_does_not_start(
    rabbitmq: Rabbit, tmp_path: Path
) -> None:
    with Processes() as processes:  # not the fixture's, which give it an account with `--rights`
        chat = processes.launch(
            "towpath-chat",
            amqp_url=rabbitmq.url,
            database_url=f"sqlite:///{tmp_path}/chat.db",
            gateway_users="gateway",
        )
        assert await chat.ended() == ExitStatus.BAD_SETTING
        assert "TOWPATH_GATEWAY_USERS='gateway'" in chat.output
