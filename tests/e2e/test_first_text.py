"""A client, and a backend, written against the contract's first text still work.

They consist of the frames of ``libs/protocol/vectors/first_text/wire`` alone, and are compared with them.
Later changes of the contract are in ``changed.json``, with the reason. All vectors share RabbitMQ, two gateways,
chat and orders; each has people, rooms and orders of its own.
"""

import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aio_pika
import pytest

from towpath.testkit.client import Frame, WireClient
from towpath.testkit.system import System

pytestmark = pytest.mark.asyncio(loop_scope="module")

WIRE: Final = Path(__file__).parents[2] / "libs/protocol/vectors/first_text/wire"

_numbers = itertools.count(1)

Vector = dict[str, Any]


def the_vectors() -> Iterator[Any]:
    for path in sorted(WIRE.glob("*.json")):
        for vector in json.loads(path.read_text())["vectors"]:
            yield pytest.param(vector, id=f"{path.stem}: {vector['name']}")


@pytest.mark.parametrize("vector", list(the_vectors()))
async def test_the_first_text_still_holds(shared_system: System, vector: Vector) -> None:
    own = json.loads(json.dumps(vector["steps"]).replace("$", f"-{next(_numbers)}"))
    async with Cast.on(shared_system) as cast:
        for number, step in enumerate(own, 1):
            try:
                await cast.play(step)
            except AssertionError as error:
                raise AssertionError(f"step {number}: {error}") from error


class Cast:
    """The clients of one vector, and its backend."""

    def __init__(self, system: System, stack: AsyncExitStack) -> None:
        self._system = system
        self._stack = stack
        self._clients: dict[str, WireClient] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, system: System) -> AsyncIterator["Cast"]:
        """Without connections."""
        async with AsyncExitStack() as stack:
            yield cls(system, stack)

    async def play(self, step: dict[str, Any]) -> None:
        """Do one step, and check what it says."""
        if "exchange" in step:
            await self._publish(step)
            return
        if "again" in step:
            await self._clients.pop(step["again"]).close()
            return
        client = await self._client(step["by"], step.get("via", "header"))
        if "text" in step:
            await client.send_raw(step["text"])
        if "send" in step:
            answer = await self._ask(client, **step["send"])
            assert holds(answer, step["answer"]), f"{step['answer']} is not in {answer}"
        if "hears" in step:
            await client.find(lambda frame: holds(frame, step["hears"]), what=f"frame like {step['hears']}")
        if "closes" in step:
            assert await client.closed() == step["closes"]

    async def _client(self, user: str, via: Any) -> WireClient:
        if user not in self._clients:
            gateway = len(self._clients) % 2
            connecting = self._system.connect(user, gateway, via=via)
            self._clients[user] = client = await self._stack.enter_async_context(connecting)
            await client.next("session.welcome")
        return self._clients[user]

    async def _ask(self, client: WireClient, **envelope: Any) -> Frame:
        before = len(client.frames)  # the same msg_id may have been answered already
        msg_id = await client.send(**envelope)

        def answers(frame: Frame) -> bool:
            is_new = any(frame is one for one in client.frames[before:])
            return is_new and frame.get("correlation_id") == msg_id and frame["action"] != "accepted"

        return await client.find(answers, what=f"answer to {envelope['action']}")

    async def _publish(self, step: dict[str, Any]) -> None:
        """As any program does with an AMQP library, and none of ours."""
        envelope = {"msg_id": f"b-{next(_numbers)}", "timestamp": 1, "version": "1.0"}
        body = (envelope if step.get("plain", True) else {}) | step["body"]
        async with await aio_pika.connect(self._system.rabbitmq.url) as connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(step["exchange"], ensure=False)
            await exchange.publish(aio_pika.Message(json.dumps(body).encode()), step["key"])


def holds(found: Any, wanted: Any) -> bool:
    """Whether ``found`` has all that is ``wanted``: ``"*"`` is anything, ``null`` nothing; lists are as long."""
    if wanted == "*":
        return found is not None
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            holds(found.get(name), value) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(holds, found, wanted))
    return bool(found == wanted)
