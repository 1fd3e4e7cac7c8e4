"""A hostile process: ``python -m tests.abuse.attacker '{…}'``; the plan is a :class:`Flood` as JSON.

It is niced, so that on two cores the system is measured and not the attacker, and ends by itself. It begins when it
reads a line, and prints what it got in.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from towpath.testkit.tokens import a_token

from .messages import KINDS, ROOM, block
from .wire import Refused, Wire, text

_NICE: Final = 10
_BLOCK: Final = 64 * 1024
#: Seconds that a connection may take none of its bytes until the attacker gives it up and connects again.
_STUCK: Final = 5.0


@dataclass(frozen=True, slots=True)
class Flood:
    """Connections that send one kind of message.

    Attributes:
        kind: Of :data:`tests.abuse.messages.KINDS`.
        seconds: How long; whoever is closed connects again at once.
        users, connections: How many users, with how many connections each.
        addresses: From how many addresses of 127.0.0.0/8 they come.
        reads: Whether it reads; one that does not has a small receive buffer, and its answers wait in the gateway.
        count: Messages a connection sends and then waits; 0 for no end.
        pause: Seconds between two messages, 0 for as fast as the gateway takes them.
        joins: The room they join first.
        size: Bytes of a block that is written at once.
    """

    kind: str
    seconds: float = 10.0
    users: int = 1
    connections: int = 1
    addresses: int = 1
    reads: bool = True
    count: int = 0
    pause: float = 0.0
    joins: str = ROOM
    size: int = _BLOCK


@dataclass(slots=True)
class Loot:
    """What an attacker got in.

    Attributes:
        closes: By close code, or HTTP status of a refusal, how often; 0 where there was neither.
        processor: Share of one core that it used.
    """

    messages: int = 0
    bytes: int = 0
    connections: int = 0
    closes: Counter[str] = field(default_factory=Counter)
    processor: float = 0.0
    seconds: float = 0.0


class _Attacker:
    def __init__(self, flood: Flood, port: int, seed: str) -> None:
        self._flood = flood
        self._port = port
        self._chance = random.Random(seed)
        self._until = 0.0
        self._one = KINDS[flood.kind](1)
        if flood.count:
            self._block, self._in_block = KINDS[flood.kind](flood.count), flood.count
        else:
            self._block, self._in_block = block(flood.kind, flood.size)
        self.loot = Loot()

    async def run(self) -> None:
        flood = self._flood
        self._until = time.monotonic() + flood.seconds
        tokens = [a_token(f"eve{number}") for number in range(flood.users)]
        async with asyncio.TaskGroup() as tasks:
            for number in range(flood.users * flood.connections):
                source = f"127.0.1.{number % flood.addresses + 1}"
                tasks.create_task(self._again_and_again(tokens[number % flood.users], source))

    async def _again_and_again(self, token: str, source: str) -> None:
        while (left := self._until - time.monotonic()) > 0:
            try:
                wire = await Wire.open(
                    self._port,
                    token,
                    source=source,
                    receive_buffer=None if self._flood.reads else 4096,
                    timeout=min(left, 10.0),
                )
            except Refused as refused:
                self.loot.closes[str(refused.status)] += 1
                await asyncio.sleep(0.01)
                continue
            except (OSError, TimeoutError, EOFError):
                self.loot.closes["no handshake"] += 1
                await asyncio.sleep(0.01)
                continue
            self.loot.connections += 1
            await self._abuse(wire)

    async def _abuse(self, wire: Wire) -> None:
        reading = asyncio.create_task(wire.discard()) if self._flood.reads else None
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                await self._join(wire)
                await self._write(wire)
                if reading is not None:
                    await reading
                await asyncio.sleep(self._flood.seconds)
        except (OSError, TimeoutError):
            pass
        finally:
            if reading is not None:
                reading.cancel()
                code = (await asyncio.gather(reading, return_exceptions=True))[0]
                if isinstance(code, int):
                    self.loot.closes[str(code)] += 1
                elif code is None:
                    self.loot.closes["no code"] += 1
            wire.abort()

    async def _join(self, wire: Wire) -> None:
        if self._flood.joins:
            await wire.send(text("chat.join", {"room": self._flood.joins}, key=self._flood.joins, msg_id="j"))

    async def _write(self, wire: Wire) -> None:
        """Write until it is over: no word of the gateway, nor a close, is heeded."""
        flood, sent = self._flood, 0
        while not flood.count or sent < flood.count:
            data, messages = (self._one, 1) if flood.pause else (self._block, self._in_block)
            if b"@@@@" in data:
                data = data.replace(b"@@@@", b"%04x" % self._chance.getrandbits(16))
            await wire.send(data)
            sent += messages
            self.loot.messages += messages
            self.loot.bytes += len(data)
            if flood.pause:
                await asyncio.sleep(flood.pause)
            else:
                await asyncio.sleep(0)  # sock_sendall does not yield while the kernel takes all at once


async def _main(flood: Flood, port: int, seed: str) -> None:
    attacker = _Attacker(flood, port, seed)
    print("ready", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.readline)
    began = time.monotonic()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(flood.seconds + 5):
            await attacker.run()
    loot = attacker.loot
    loot.seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    loot.processor = (used.ru_utime + used.ru_stime) / loot.seconds
    print(json.dumps(dataclasses.asdict(loot)), flush=True)  # noqa: T201


def main(plan: dict[str, Any]) -> None:
    """Attack as ``plan`` says."""
    os.nice(_NICE)
    asyncio.run(_main(Flood(**plan["flood"]), plan["port"], plan["seed"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
