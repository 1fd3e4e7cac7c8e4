"""Many quiet people in a process of their own: ``python -m tests.abuse.people '{…}'``.

They connect, wait for a line, follow the plan (join one room together, or just stay), and report at the end the
pushes that they received: pushes are counted, not kept.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from typing import Any, Final

from towpath.testkit.tokens import a_token

from .wire import CLOSE, TEXT, Refused, Wire, text

_ARRIVING: Final = 50
_TRIES: Final = 100
#: Addresses that people of one process come from; behind one they would share its limits.
_ADDRESSES: Final = 250


class _Person:
    def __init__(self, name: str, port: int, source: str) -> None:
        self.pushes: Counter[str] = Counter()
        self.answered: float | None = None
        self.advised = False
        self.code: int | None = None
        self.closed: float | None = None
        self.asked = 0.0
        self.outcome = ""
        self._name = name
        self._port = port
        self._source = source
        self._wire: Wire | None = None

    async def arrive(self) -> None:
        token = a_token(self._name)
        for _ in range(_TRIES):
            with contextlib.suppress(Refused, OSError, TimeoutError, EOFError):
                self._wire = await Wire.open(self._port, token, source=self._source)
                return
            await asyncio.sleep(0.2)
        raise AssertionError(f"{self._name} cannot connect")

    async def listen(self) -> None:
        assert self._wire is not None
        with contextlib.suppress(EOFError, OSError):
            while True:
                opcode, payload = await self._wire.receive()
                if opcode == TEXT:
                    self._take(payload)
                elif opcode == CLOSE:
                    self.code = int.from_bytes(payload[:2], "big")
                    self.closed = time.monotonic()

    async def join(self, room: str) -> None:
        assert self._wire is not None
        self.asked = time.monotonic()
        with contextlib.suppress(OSError):
            await self._wire.send(text("chat.join", {"room": room}, key=room, msg_id="join"))

    def _take(self, payload: bytes) -> None:
        if b'"correlation_id":"join"' in payload:
            found = json.loads(payload)
            if found["action"] != "accepted":
                self.answered = time.monotonic() - self.asked
                self.outcome = found["data"]["code"] if found["action"] == "error" else "ok"
        elif b'"session.closing"' in payload:
            self.advised = json.loads(payload)["data"].get("retry_after_ms") is not None
        else:
            # The action is near the beginning of a service's JSON; parsing two million pushes takes too long.
            action = payload.partition(b'"action":"')[2].partition(b'"')[0]
            self.pushes[action.decode()] += 1


async def _main(plan: dict[str, Any]) -> None:
    ports: list[int] = plan["ports"]
    people = [
        _Person(f"{plan['name']}{number}", ports[number % len(ports)], f"127.0.2.{number % _ADDRESSES + 1}")
        for number in range(plan["count"])
    ]
    for first in range(0, len(people), _ARRIVING):
        await asyncio.gather(*(person.arrive() for person in people[first : first + _ARRIVING]))
    listening = [asyncio.create_task(person.listen()) for person in people]
    print("ready", flush=True)  # noqa: T201  # the parent reads it
    await asyncio.to_thread(sys.stdin.readline)
    if room := plan.get("room"):
        pause = plan["within"] / len(people)
        began = time.monotonic()
        for number, person in enumerate(people):
            await asyncio.sleep(max(0.0, began + number * pause - time.monotonic()))
            await person.join(room)
    await asyncio.to_thread(sys.stdin.readline)
    for task in listening:
        task.cancel()
    pushes = Counter[str]()
    for person in people:
        pushes.update(person.pushes)
    told = {
        "answers": [person.answered for person in people if person.answered is not None],
        "outcomes": Counter(person.outcome for person in people),
        "pushes": pushes,
        "advised": sum(person.advised for person in people),
        "codes": Counter(str(person.code) for person in people),
        "closed": max((person.closed for person in people if person.closed is not None), default=None),
    }
    print(json.dumps(told), flush=True)  # noqa: T201  # the parent reads it


if __name__ == "__main__":
    os.nice(19)  # two thousand of them are one process here, and two thousand machines elsewhere
    asyncio.run(_main(json.loads(sys.argv[1])))
    os._exit(0)
