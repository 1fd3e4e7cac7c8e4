"""Strangers and ill-behaved clients: nothing of what others do is lost. How long others wait: tests/abuse."""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from towpath.testkit.eventually import eventually
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System
from towpath.testkit.tokens import a_token

from .conftest import StartSystem
from .evidence import Asked, Outcome
from .oracle import longest_wait
from .resources import open_sockets, resident_mib
from .trial import Trial

_UPGRADE = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


async def close_code(url: str, *frames: Frame) -> int | None:
    """How a gateway closes a connection on which these frames were sent."""
    async with connect(
        url,
        additional_headers={"Authorization": f"Bearer {a_token('eve')}"},
        subprotocols=[Subprotocol("towpath.v1")],
        compression=None,
        ping_interval=None,
        proxy=None,
    ) as socket:
        for frame in frames:
            socket.transport.write(frame.serialize(mask=True))
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(20):
                while True:
                    await socket.recv()
        return socket.close_code


@contextlib.asynccontextmanager
async def strangers(url: str, count: int) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """Raw TCP connections to a gateway."""
    where = urlsplit(url)
    opened = await asyncio.gather(
        *(asyncio.open_connection(where.hostname, where.port) for _ in range(count))
    )
    try:
        yield [writer for _, writer in opened]
    finally:
        for _, writer in opened:
            writer.transport.abort()


@pytest.mark.parametrize("manner", ["never finished", "at 1 byte a second"])
async def test_unfinished_handshakes_are_cut_off_and_do_not_delay_others(
    rabbitmq: Rabbit, start_system: StartSystem, trial: Trial, manner: str
) -> None:
    system = await start_system(rabbitmq, open_timeout=2)
    gateway = system.gateways[0]
    async with trial.of(f"500 handshakes, {manner}", system, within=5) as load:
        before = resident_mib(gateway)
        async with strangers(system.urls[0], 500) as writers:
            trial.strike()

            async def drip() -> None:
                for byte in _UPGRADE.encode():
                    for writer in writers:
                        if not writer.is_closing():
                            writer.write(bytes([byte]))
                    await asyncio.sleep(1)

            for writer in writers:
                writer.write(_UPGRADE.encode() if manner == "never finished" else b"G")
            dripping = asyncio.create_task(drip() if manner != "never finished" else asyncio.sleep(0))
            await load.flows(50)
            await eventually(lambda: open_sockets(gateway) < 100, timeout=10)
            dripping.cancel()
        assert resident_mib(gateway) < before + 64


async def test_invalid_frames_end_their_connection_and_do_not_delay_others(
    system: System, trial: Trial
) -> None:
    nested = '{"data":' * 30_000 + "1" + "}" * 30_000
    envelope = {"msg_id": "m", "timestamp": 1, "action": "chat.rooms", "data": {}, "version": "1.0"}
    huge = json.dumps(envelope | {"data": {"text": "x" * 70_000}})
    gateway = system.gateways[0]
    async with trial.of("frames too large, not UTF-8, nested 30,000 deep, without an end", system) as load:
        before = resident_mib(gateway)
        for _ in range(5):
            assert await close_code(system.urls[0], Frame(Opcode.TEXT, huge.encode())) == 1009
            assert await close_code(system.urls[0], Frame(Opcode.TEXT, b"\xff\xfe{")) == 1007
            assert await close_code(system.urls[0], Frame(Opcode.BINARY, b"{}")) == 1003
            assert await close_code(system.urls[0], Frame(Opcode.TEXT, nested.encode()[:1_000_000])) == 1009
            endless = [Frame(Opcode.TEXT, b"{" * 1000, fin=False)]
            endless += [Frame(Opcode.CONT, b"{" * 1000, fin=False) for _ in range(80)]
            assert await close_code(system.urls[0], *endless) == 1009
            assert (
                await close_code(system.urls[0], *[Frame(Opcode.TEXT, nested.encode()[:60_000])] * 101)
                == 4500
            )
            assert await close_code(system.urls[0], *[Frame(Opcode.TEXT, b"[]")] * 101) == 4500
        await load.flows(50)
        assert resident_mib(gateway) < before + 64


@contextlib.asynccontextmanager
async def deaf_people(url: str, room: str, count: int) -> AsyncIterator[None]:
    """People who join a room, and then never read."""
    async with contextlib.AsyncExitStack() as stack:
        for number in range(count):
            deaf = await stack.enter_async_context(
                connect(
                    url,
                    additional_headers={"Authorization": f"Bearer {a_token(f'deaf{number}')}"},
                    subprotocols=[Subprotocol("towpath.v1")],
                    compression=None,
                    max_queue=1,
                    ping_interval=None,
                    close_timeout=1,
                    proxy=None,
                )
            )
            stack.callback(deaf.transport.abort)
            deaf.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            join = {"msg_id": "j", "timestamp": 1, "action": "chat.join", "data": {"room": room}}
            await deaf.send(json.dumps(join | {"version": "1.0", "key": room}))
        yield


async def test_a_client_that_does_not_read_is_cut_off_and_does_not_delay_others(
    rabbitmq: Rabbit, start_system: StartSystem, trial: Trial
) -> None:
    system = await start_system(rabbitmq, send_buffer_bytes=262_144, close_timeout=1)
    gateway = system.gateways[0]
    async with (
        trial.of("20 users who never read", system) as load,
        deaf_people(system.urls[0], "noise", 20),
        system.connect("loud", 1) as loud,
    ):
        before, opened = resident_mib(gateway), open_sockets(gateway)
        joined = await loud.request("chat.join", {"room": "noise"}, key="noise")
        assert joined["action"] == "chat.join.ok"
        said = itertools.count()

        async def are_cut_off() -> bool:
            text = f"{next(said):4000}"
            answer = await loud.request("chat.send", {"room": "noise", "text": text}, key="noise")
            asked = Asked("loud", int(text), "chat.send", "loud", "noise", text, Outcome.DONE)
            load.journal.asked.append(asked)
            assert answer["action"] == "chat.send.ok", answer
            return open_sockets(gateway) <= opened - 20

        await eventually(are_cut_off, timeout=60, every=0)
        await load.flows(50)
        assert resident_mib(gateway) < before + 64
        waited = longest_wait(one for one in load.journal.asked if one.who != "loud")
        assert waited < 2, f"a user waited for {waited:.1f} s"
