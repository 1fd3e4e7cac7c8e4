"""Hostile frames against a running gateway: ``python -m tests.abuse.fuzz_frames '{…}'``. One seed, one set of frames.

Half of the connections send envelopes that are nearly right, the others frames against RFC 6455: reserved bits and
opcodes, no mask, control frames that are long or in parts, close frames with wrong codes, lengths that lie, fragments
in a wrong order, text that is not UTF-8. A connection ends when the gateway ends it, or after some frames.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from typing import Any, Final

from towpath.testkit.tokens import a_token

from .mutations import Mutator
from .program import run_as_if_elsewhere
from .wire import BINARY, CLOSE, CONT, PING, PONG, TEXT, Refused, Wire, envelope, frame

_PARALLEL: Final = 12
_FRAMES: Final = 100  # of one connection at most
_USERS: Final = 500
_ADDRESSES: Final = 250
#: Seconds that a connection goes on after its last frame, so that the gateway reads them all.
_READ_SECONDS: Final = 0.3
_TRIES: Final = 50
_ILLEGAL_SHARE: Final = 0.05


class _Fuzz:
    def __init__(self, seed: str, port: int, count: int) -> None:
        self._seed = seed
        self._port = port
        self._left = count
        self.sent = 0
        self.connections = 0
        self.codes = Counter[str]()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(_PARALLEL):
                tasks.create_task(self._work(number))

    async def _work(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        mutator = Mutator(f"{self._seed} {number}")
        while self._left > 0:
            if (wire := await self._open(chance)) is None:
                continue
            frames = min(_FRAMES, self._left)
            self._left -= frames
            reading = asyncio.create_task(wire.discard())
            broken = chance.random() < 0.5
            for _ in range(frames):
                made = _odd_frame(chance) if broken else frame(TEXT, mutator.next())
                try:
                    await wire.send(made)
                except OSError:
                    self._left += 1  # the gateway has not seen it
                    continue
                self.sent += 1
                if broken and chance.random() < 0.3:
                    await asyncio.sleep(0)
            done, _ = await asyncio.wait([reading], timeout=_READ_SECONDS)
            code = reading.result() if done else "still open"
            self.codes[str(code or "no code")] += 1
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            wire.abort()

    async def _open(self, chance: random.Random) -> Wire | None:
        for _ in range(_TRIES):
            user, source = f"fuzz{chance.randrange(_USERS)}", f"127.0.5.{chance.randrange(_ADDRESSES) + 1}"
            try:
                wire = await Wire.open(self._port, a_token(user), source=source)
            except Refused as refused:
                self.codes[f"HTTP {refused.status}"] += 1
            except (OSError, TimeoutError, EOFError):
                self.codes["not connected"] += 1
            else:
                self.connections += 1
                return wire
            await asyncio.sleep(0.1)
        raise AssertionError("the gateway accepts no connections any more")


def _odd_frame(chance: random.Random) -> bytes:
    """Mostly frames that RFC 6455 allows and no client sends, so a connection survives; sometimes forbidden ones."""
    if chance.random() > _ILLEGAL_SHARE:
        return chance.choice(
            (
                frame(PING, _some_bytes(chance, 125)),
                frame(PONG, _some_bytes(chance, 125)),
                frame(TEXT, b""),
                frame(TEXT, b"", fin=False)
                + frame(CONT, b"", fin=False) * chance.randrange(20)
                + frame(CONT, b""),
                frame(TEXT, b'{"a', fin=False) + frame(PING, b"in between") + frame(CONT, b'":1}'),
                frame(TEXT, "é".encode()[:1], fin=False) + frame(CONT, "é".encode()[1:]),
                frame(TEXT, envelope("ping", msg_id="p")),
                frame(TEXT, b" " * chance.randrange(60_000)),
                frame(TEXT, b"[" * chance.randrange(60_000)),
                frame(TEXT, b'{"a":' * chance.randrange(10_000)),
                frame(TEXT, ("\u0000" * chance.randrange(1_000)).encode()),
            )
        )
    payload = _some_bytes(chance, 200)
    return chance.choice(
        (
            frame(chance.randrange(16), payload, reserved=chance.randrange(8), fin=chance.random() < 0.5),
            frame(TEXT, payload, masked=False),
            frame(BINARY, payload),
            frame(CONT, payload),
            frame(PING, b"x" * 126),
            frame(PING, payload[:10], fin=False),
            frame(TEXT, b"\xff\xfe" + payload),
            frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
            frame(CLOSE, b"\x03"),
            frame(
                CLOSE, chance.choice((0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)).to_bytes(2) + b"why"
            ),
            frame(CLOSE, (1000).to_bytes(2) + b"\xff\xff"),
            frame(CLOSE, (1000).to_bytes(2))
            + frame(TEXT, envelope("chat.join", {"room": "after"}, msg_id="x")),
            bytes([0x81, 0xFF]) + (2**63).to_bytes(8) + b"\0\0\0\0",
            bytes([0x81, 0xFF]) + (2**40).to_bytes(8) + b"\0\0\0\0" + payload,
            bytes([0x81, 0xFE, 0, 1]) + b"\0\0\0\0x",
            b"GET / HTTP/1.1\r\n\r\n",
            payload,
        )
    )


def _some_bytes(chance: random.Random, most: int) -> bytes:
    return chance.randbytes(chance.randrange(most))


async def _main(plan: dict[str, Any]) -> None:
    print("ready", flush=True)  # noqa: T201  # the parent reads it
    await asyncio.to_thread(sys.stdin.readline)
    fuzz = _Fuzz(plan["seed"], plan["port"], plan["count"])
    await fuzz.run()
    told = {"sent": fuzz.sent, "connections": fuzz.connections, "codes": fuzz.codes}
    print(json.dumps(told), flush=True)  # noqa: T201  # the parent reads it


if __name__ == "__main__":
    run_as_if_elsewhere(hostile=True)
    asyncio.run(_main(json.loads(sys.argv[1])))
