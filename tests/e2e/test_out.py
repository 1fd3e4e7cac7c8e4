"""Out: a kicked user, and revoked tokens, on every replica of a real system, and on those that start later."""

import asyncio
import json
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from towpath.protocol.revocations import Kind
from towpath.protocol.routes import PUSH
from towpath.servicekit.broker.interface import Message
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System, url_of
from towpath.testkit.tokens import a_token


class Doors:
    """Gateways of one broker, and the commands of an operator."""

    def __init__(self, rabbitmq: Rabbit, processes: Processes, folder: Path) -> None:
        self.rabbitmq = rabbitmq
        self.gateways: list[Process] = []
        self._processes = processes
        self._system = System(rabbitmq, processes, folder)
        self._folder = folder

    async def start(self, count: int) -> None:
        """So many more gateways, at once."""
        more = [self._system.launch_gateway() for _ in range(count)]
        await asyncio.gather(*(gateway.ready(timeout=60) for gateway in more))
        self.gateways += more

    async def stop_all(self) -> None:
        """Kill every gateway."""
        await asyncio.gather(*(gateway.kill() for gateway in self.gateways))
        self.gateways = []

    async def towpath(self, *arguments: str) -> str:
        """A command of the operator, and what it printed."""
        ran = self._processes.launch("towpath", *arguments, amqp_url=self.rabbitmq.url)
        status = await ran.ended(timeout=60)
        assert status == 0, ran.output
        return ran.output

    async def failing(self, *arguments: str) -> tuple[int, str]:
        """A command that fails: its status and its line."""
        ran = self._processes.launch("towpath", *arguments, amqp_url=self.rabbitmq.url)
        return await ran.ended(timeout=60), ran.output

    def token_file(self, token: str) -> str:
        path = self._folder / "token"
        path.write_text(f"{token}\n")
        return str(path)

    async def are_open_to(self, token: str) -> list[bool]:
        """Whether each gateway accepts a token."""
        return [await accepts(gateway, token) for gateway in self.gateways]


async def accepts(gateway: Process, token: str) -> bool:
    try:
        async with WireClient.connect(url_of(gateway), token=token) as client:
            await client.next("session.welcome")
            return True
    except InvalidStatus as error:
        refusal = error.response
    assert (refusal.status_code, refusal.body) == (401, b"the token is revoked\n")
    return False


@pytest.fixture
async def doors(rabbitmq: Rabbit, processes: Processes, tmp_path: Path) -> Doors:
    """Two gateways."""
    doors = Doors(rabbitmq, processes, tmp_path)
    await doors.start(2)
    return doors


async def test_a_kick_closes_the_connections_of_one_user_on_every_replica(doors: Doors) -> None:
    async with AsyncExitStack() as stack:

        async def come(user: str, gateway: Process) -> WireClient:
            client = await stack.enter_async_context(WireClient.connect(url_of(gateway), token=a_token(user)))
            await client.next("session.welcome")
            return client

        ana = [await come("ana", gateway) for gateway in doors.gateways * 2]
        ben = [await come("ben", gateway) for gateway in doors.gateways]
        printed = await doors.towpath("kick", "--user", "ana", "--reason", "go home")
        assert "'ana'" in printed
        for client in ana:
            assert (await client.next("session.closing"))["data"] == {"code": 4502, "reason": "go home"}
            assert await client.closed() == 4502
        for client in ben:
            assert (await client.request("ping"))["action"] == "pong"
    # The token is as good as before.
    assert await doors.are_open_to(a_token("ana")) == [True, True]


async def test_a_revoked_token_is_refused_by_all_replicas_whenever_they_start(doors: Doors) -> None:
    stolen, new = a_token("ana", jti="stolen"), a_token("ana", jti="new")
    async with AsyncExitStack() as stack:
        thieves = [
            await stack.enter_async_context(WireClient.connect(url_of(gateway), token=stolen))
            for gateway in doors.gateways
        ]
        honest = await stack.enter_async_context(WireClient.connect(url_of(doors.gateways[0]), token=new))
        for client in (*thieves, honest):
            await client.next("session.welcome")
        printed = await doors.towpath("revoke", "--token", doors.token_file(stolen), "--reason", "lost phone")
        assert "the token 'stolen'" in printed
        assert stolen not in printed
        for client in thieves:
            assert (await client.next("session.closing"))["data"]["code"] == 4502
            assert await client.closed() == 4502
        assert await doors.are_open_to(stolen) == [False, False]
        refused = await honest.request("session.refresh", {"token": stolen})
        assert refused["data"]["code"] == "unauthorized"
        assert (await honest.request("ping"))["action"] == "pong"
    await doors.start(2)  # at once: both read the same log
    assert await doors.are_open_to(stolen) == [False] * 4
    assert await doors.are_open_to(new) == [True] * 4


async def test_a_revocation_survives_the_restart_of_all_gateways_and_of_rabbitmq(doors: Doors) -> None:
    old, other = a_token("ana", iat=int(time.time()) - 10), a_token("ben", iat=int(time.time()) - 10)
    await doors.towpath("revoke", "--user", "ana")
    await eventually(lambda: _all(doors, old, [False, False]))
    await doors.stop_all()
    await doors.rabbitmq.stop()
    await doors.rabbitmq.start()
    await doors.start(2)
    assert await doors.are_open_to(old) == [False, False]
    assert await doors.are_open_to(other) == [True, True]
    # A token that was issued after the revocation is accepted.
    assert await doors.are_open_to(a_token("ana", iat=int(time.time()) + 1)) == [True, True]


async def test_all_tokens_issued_before_a_time_are_refused_and_later_ones_accepted(doors: Doors) -> None:
    old, new = a_token("ana", iat=int(time.time()) - 4000), a_token("ben", iat=int(time.time()) - 60)
    await doors.towpath("revoke", "--issued-before", "1h")
    await eventually(lambda: _all(doors, old, [False, False]))
    assert await doors.are_open_to(new) == [True, True]


async def test_another_backend_revokes_by_amqp_and_an_odd_entry_costs_itself(doors: Doors) -> None:
    async with RabbitBroker.connect(doors.rabbitmq.url, name="backend") as backend:
        await backend.until_ready()
        until = time.time() + 3600
        good = {"until": until, "token_id": "t-1"}
        odd: list[Any] = [b"rubbish", [good | {"user_id": "ana"}, 7, good, {}], {"until": until}]
        for body in odd:
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            await backend.publish(PUSH, Kind.TOKEN.key, Message(body=raw), mandatory=True)
    await eventually(lambda: _all(doors, a_token("ana", jti="t-1"), [False, False]))
    assert await doors.are_open_to(a_token("ana", jti="t-2")) == [True, True]


async def test_an_active_revocation_outlives_the_part_of_the_log_that_is_dropped(doors: Doors) -> None:
    await doors.towpath("revoke", "--jti", "first")

    async def fill(megabytes: int) -> None:
        """Push the log on: a message that is large, of a revocation that has ended."""
        over = json.dumps({"until": time.time() - 1, "token_id": "over"}).encode() + b" " * 1_000_000
        async with RabbitBroker.connect(doors.rabbitmq.url, name="backend") as backend:
            await backend.until_ready()
            for _ in range(megabytes):
                await backend.publish(PUSH, Kind.TOKEN.key, Message(body=over), mandatory=True)

    await fill(11)
    assert "1 active, 1 written again" in await doors.towpath("revoke", "--compact")
    assert "1 active, 0 written again" in await doors.towpath("revoke", "--compact")
    await fill(18)  # 29 MB, and the log keeps 20
    await doors.start(1)
    assert await doors.are_open_to(a_token("ana", jti="first")) == [False] * 3


async def test_an_operator_sees_what_is_revoked_and_impossible_commands_do_nothing(doors: Doors) -> None:
    await doors.towpath("revoke", "--jti", "t-1", "--for", "12h", "--reason", "lost")
    await doors.towpath("revoke", "--user", "ana")
    lines = (await doors.towpath("revoke", "--list", "--json")).splitlines()
    found = [json.loads(line) for line in lines]
    assert [(one["kind"], one.get("token_id") or one["user_id"]) for one in found] == [
        ("token", "t-1"),
        ("user", "ana"),
    ]
    assert found[0]["until"] == pytest.approx(time.time() + 12 * 3600, abs=60)
    assert "lost" in await doors.towpath("revoke", "--list")
    for arguments, word in (
        ([], "one of --user"),
        (["--user", "ana", "--jti", "x"], "one of --user"),
        (["--user", "a\nb"], "control characters"),
        (["--jti", ""], "1 to 256"),
        (["--jti", "x", "--for", "401d"], "400 days"),
        (["--jti", "x", "--for", "soon"], "--for"),
        (["--issued-before", "2099-01-01"], "not in the past"),
        (["--token", "/nowhere"], "no token can be read"),
        (["--token", doors.token_file(a_token("ana"))], "no id"),
    ):
        status, line = await doors.failing("revoke", *arguments)
        assert (status, line.count("\n")) == (2, 1), line
        assert word in line
    assert await doors.failing("kick", "--user", "") == (
        2,
        "towpath: user '' cannot be used: a user id must not be empty\n",
    )
    assert len((await doors.towpath("revoke", "--list")).splitlines()) == 2


async def _all(doors: Doors, token: str, expected: list[bool]) -> bool:
    return await doors.are_open_to(token) == expected
