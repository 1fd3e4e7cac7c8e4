"""A hostile process: ``python -m tests.abuse.attacker '{…}'``, with one of :mod:`tests.abuse.plans` as JSON.

It ends by itself. It begins when it reads a line, and prints what it got in.
"""

import asyncio
import contextlib
import dataclasses
import json
import random
import resource
import secrets
import sys
import time
from typing import Any, Final, Protocol

from towpath.testkit.tokens import a_token

from .messages import KINDS, block
from .plans import Flood, HalfOpen, Loot, Storm
from .program import run_as_if_elsewhere
from .wire import Refused, Wire, client_hello, handshake, text

#: Seconds between two tries of a connection that the gateway refuses.
_AGAIN_SECONDS: Final = 0.01
_DRIP_SECONDS: Final = 0.2


class Attacker(Protocol):
    """One attack of one process."""

    loot: Loot

    async def run(self) -> None:
        """Attack until the plan's time is over."""
        ...


def _somebody() -> str:
    """A name that no earlier attack used: its limits are those of a stranger."""
    return f"eve-{secrets.token_hex(4)}"


class _Flooding:
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
        name = _somebody()
        tokens = [a_token(f"{name}-{number}") for number in range(flood.users)]
        async with asyncio.TaskGroup() as tasks:
            for number in range(flood.users * flood.connections):
                source = _address(number, flood.addresses)
                tasks.create_task(self._again_and_again(tokens[number % flood.users], source))

    async def _again_and_again(self, token: str, source: str) -> None:
        buffer = None if self._flood.reads else 4096
        while (left := self._until - time.monotonic()) > 0:
            wire = await _open(self._port, token, source, min(left, 10.0), self.loot, buffer)
            if wire is not None:
                await self._abuse(wire)

    async def _abuse(self, wire: Wire) -> None:
        reading = asyncio.create_task(wire.discard()) if self._flood.reads else None
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                if self._flood.joins:
                    room = self._flood.joins
                    await wire.send(text("chat.join", {"room": room}, key=room, msg_id="j"))
                await self._write(wire)
                if reading is not None:
                    await reading
                else:
                    await asyncio.sleep(self._flood.seconds)
        except (OSError, TimeoutError):
            pass
        finally:
            if reading is not None:
                reading.cancel()
                code = (await asyncio.gather(reading, return_exceptions=True))[0]
                if not isinstance(code, BaseException):
                    self.loot.closes[str(code or "no code")] += 1
            wire.abort()

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
            await asyncio.sleep(flood.pause)  # also for 0: the kernel may take all at once, for ever


class _HalfOpening:
    def __init__(self, plan: HalfOpen, port: int) -> None:
        self._plan = plan
        self._port = port
        self._until = 0.0
        self.loot = Loot()

    async def run(self) -> None:
        self._until = time.monotonic() + self._plan.seconds
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._plan.count):
                tasks.create_task(self._again_and_again(_address(number, self._plan.addresses)))

    async def _again_and_again(self, source: str) -> None:
        request = handshake(a_token("eve"))[:-2]
        while (left := self._until - time.monotonic()) > 0:
            try:
                wire = await Wire.dial(self._port, source=source, timeout=min(left, 10.0))
            except (OSError, TimeoutError):
                self.loot.closes["not connected"] += 1
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            self.loot.connections += 1
            ended = asyncio.create_task(wire.discard())
            try:
                async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                    if self._plan.manner == "headers":
                        await wire.send(request)
                    elif self._plan.manner == "hello":
                        await wire.send(client_hello())
                    elif self._plan.manner == "drip":
                        for byte in request:
                            await wire.send(bytes([byte]))
                            await asyncio.sleep(_DRIP_SECONDS)
                    await ended
                    self.loot.closes["ended"] += 1
            except (OSError, TimeoutError):
                pass
            finally:
                ended.cancel()
                await asyncio.gather(ended, return_exceptions=True)
                wire.abort()
            await asyncio.sleep(_AGAIN_SECONDS)


class _Storming:
    def __init__(self, plan: Storm, port: int) -> None:
        self._plan = plan
        self._port = port
        self._until = 0.0
        self.loot = Loot()

    async def run(self) -> None:
        plan = self._plan
        self._until = time.monotonic() + plan.seconds
        name = _somebody()
        tokens = [a_token(f"{name}-{number}") for number in range(plan.users)]
        async with asyncio.TaskGroup() as tasks:
            for number in range(plan.parallel):
                token, source = tokens[number % plan.users], _address(number, plan.addresses)
                tasks.create_task(self._again_and_again(token, source))

    async def _again_and_again(self, token: str, source: str) -> None:
        while (left := self._until - time.monotonic()) > 0:
            wire = await _open(self._port, token, source, min(left, 10.0), self.loot)
            if wire is not None:
                wire.abort()


async def _open(
    port: int, token: str, source: str, timeout: float, loot: Loot, buffer: int | None = None
) -> Wire | None:
    """One try to connect; counted in ``loot``."""
    try:
        wire = await Wire.open(port, token, source=source, receive_buffer=buffer, timeout=timeout)
    except Refused as refused:
        loot.closes[f"HTTP {refused.status}"] += 1
    except (OSError, TimeoutError, EOFError):
        loot.closes["not connected"] += 1
    else:
        loot.connections += 1
        return wire
    await asyncio.sleep(_AGAIN_SECONDS)
    return None


def _address(number: int, addresses: int) -> str:
    return f"127.0.1.{number % addresses + 1}"


async def _main(attacker: Attacker, seconds: float) -> None:
    print("ready", flush=True)  # noqa: T201  # the parent reads it
    await asyncio.to_thread(sys.stdin.readline)
    began = time.monotonic()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds + 5):
            await attacker.run()
    loot = attacker.loot
    loot.seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    loot.processor = (used.ru_utime + used.ru_stime) / loot.seconds
    told = {one.name: getattr(loot, one.name) for one in dataclasses.fields(loot)}
    print(json.dumps(told), flush=True)  # noqa: T201  # the parent reads it


def main(plan: dict[str, Any]) -> None:
    """Attack as ``plan`` says."""
    run_as_if_elsewhere(hostile=True)
    port, options = plan["port"], plan["options"]
    attacker: Attacker
    match plan["attack"]:
        case "Flood":
            attacker = _Flooding(Flood(**options), port, plan["seed"])
        case "HalfOpen":
            attacker = _HalfOpening(HalfOpen(**options), port)
        case "Storm":
            attacker = _Storming(Storm(**options), port)
        case other:
            raise ValueError(f"no such attack: {other}")
    asyncio.run(_main(attacker, options["seconds"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
