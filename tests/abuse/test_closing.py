"""Once a close has begun, nothing is read any more: of 40 writes of a client that ignores it, none gets through."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, Final

import aio_pika
import pytest

from tests.faults.conftest import StartSystem
from towpath.protocol.routes import PUSH, user_key
from towpath.testkit.eventually import eventually
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System
from towpath.testkit.tokens import a_token

from .stored import said
from .table import Line
from .trial import Trial
from .wire import BINARY, CLOSE, TEXT, Wire, frame, text

_WRITES: Final = 40
_ROOM: Final = "ignored"
#: Seconds until what got through would be stored.
_SETTLE_SECONDS: Final = 2.0

Begin = Callable[[System, Wire], Coroutine[Any, Any, None]]


async def _kick(system: System, _: Wire) -> None:
    async with await aio_pika.connect(system.rabbitmq.url) as connection:
        channel = await connection.channel()
        push = await channel.get_exchange(PUSH, ensure=False)
        item = {"disconnect": {"code": 4502, "reason": "revoked"}}
        await push.publish(aio_pika.Message(json.dumps(item).encode()), f"control.{user_key('eve')[5:]}")


async def _expire(_: System, __: Wire) -> None:
    """The token does it by itself."""


async def _violate(_: System, wire: Wire) -> None:
    await wire.send(frame(TEXT, b"x") * 150)


async def _flood(_: System, wire: Wire) -> None:
    # Just over the limit: a gateway cuts off a client that has sent much more when the close begins.
    await wire.send(text("ping", msg_id="p") * 2_000)
    async with asyncio.timeout(20):
        while True:
            await wire.send(text("ping", msg_id="p") * 25)
            await asyncio.sleep(0.05)


async def _send_binary(_: System, wire: Wire) -> None:
    await wire.send(frame(BINARY, b"x"))


async def _send_too_much(_: System, wire: Wire) -> None:
    await wire.send(frame(TEXT, b"x" * 70_000))


async def _come_again(system: System, _: Wire) -> None:
    """Connect once more than a user may."""
    again = await Wire.open(_port(system), a_token("eve"))
    await again.until("session.welcome")
    again.abort()


async def _drain(system: System, _: Wire) -> None:
    await system.gateways[0].terminate(timeout=40)


@pytest.mark.parametrize(
    ("reason", "begin", "code"),
    [
        pytest.param("kicked", _kick, 4502, marks=pytest.mark.abuse_short),
        ("token expired", _expire, 4003),
        ("unreadable frames", _violate, 4500),
        ("a flood of pings", _flood, 4005),
        ("a binary frame", _send_binary, 1003),
        ("a frame too large", _send_too_much, 1009),
        ("too many connections of one user", _come_again, 4503),
        ("the gateway drains", _drain, 1012),
    ],
)
async def test_nothing_is_accepted_once_a_close_has_begun(
    rabbitmq: Rabbit, start_system: StartSystem, trial: Trial, reason: str, begin: Begin, code: int
) -> None:
    system = await start_system(rabbitmq, gateways=1, max_connections_per_user=1, close_timeout=3)
    async with trial.counted(f"ignores the close ({reason})") as line:
        wire = await Wire.open(_port(system), a_token("eve", expires_in=4 if code == 4003 else 3600))
        answer = await wire.request("chat.join", {"room": _ROOM}, key=_ROOM)
        assert answer["action"] == "chat.join.ok", answer
        beginning = asyncio.create_task(begin(system, wire))
        try:
            found = await _closed(wire)
        finally:
            beginning.cancel()
            await asyncio.gather(beginning, return_exceptions=True)
        if found != code:
            line.failures.append(f"closed with {found}, not {code}")
        await _go_on(wire, line)
        await asyncio.sleep(_SETTLE_SECONDS)
        through = said(system, "eve", "after")
        line.got_in += f"{through} got through; closed with {found}"
        if through:
            line.failures.append(f"{through} of {_WRITES} commands got through after the close had begun")
        wire.abort()
        if code == 1012:
            await eventually(lambda: system.gateways[0].status is not None, timeout=40)


async def _closed(wire: Wire) -> int:
    """The code of the close that has begun, whichever way it says so."""
    async with asyncio.timeout(25):
        while True:
            opcode, payload = await wire.receive()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")
            if opcode == TEXT and (told := json.loads(payload))["action"] == "session.closing":
                code: int = told["data"]["code"]
                return code


async def _go_on(wire: Wire, line: Line) -> None:
    written = 0
    for number in range(_WRITES):
        try:
            await wire.send(
                text("chat.send", {"room": _ROOM, "text": f"after {number}"}, key=_ROOM, msg_id=f"a{number}")
            )
        except OSError:
            break
        written += 1
        await asyncio.sleep(0.005)
    line.expect(written, "not one command could be written after the close had begun")
    line.got_in = f"{written} commands written, "


def _port(system: System) -> int:
    return int(system.gateways[0].settings["TOWPATH_PORT"])
