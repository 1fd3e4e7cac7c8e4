"""Honest users in a process of their own: ``python -m tests.abuse.honest '{…}'``.

They ask at times that do not depend on the answers (an open loop), measure every wait, and print all of it when they
are asked to stop. Nothing of the attack runs in this process, so what they measure is the system's.
"""

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from towpath.testkit.eventually import eventually
from towpath.testkit.tokens import a_token

from .program import run_as_if_elsewhere

#: Seconds between two questions of one person.
_PAUSE: Final = (0.25, 0.5)
#: Seconds that an answer may take once nothing more is asked; what comes later never came.
_PATIENCE: Final = 10.0
_MEMBERS: Final = 5
_TICK: Final = 0.02


@dataclass(slots=True)
class _Send:
    started: float
    waiting: set[str]
    answered: bool = False


@dataclass(slots=True)
class _Book:
    """The measurements of all honest users.

    Attributes:
        waits: ``[group, kind, started, waited, outcome]``; the outcome is ``ok``, an error code, or ``never``.
        ends: ``[group, at, code]`` of each connection that ended.
    """

    waits: list[tuple[str, str, float, float, str]] = field(default_factory=list)
    ends: list[tuple[str, float, str]] = field(default_factory=list)
    sends: dict[str, _Send] = field(default_factory=dict)
    lag: list[tuple[float, float]] = field(default_factory=list)
    over: bool = False


class _Person:
    """One user on one connection, in one room with a few others."""

    def __init__(
        self, name: str, group: str, url: str, room: str, members: Sequence[str], book: _Book
    ) -> None:
        self.name = name
        self.group = group
        self._url = url
        self._room = room
        self._members = members
        self._book = book
        self._chance = random.Random(name)
        self._asked: dict[str, tuple[str, float, str]] = {}
        self._socket: ClientConnection | None = None
        self._count = 0
        self._listening: asyncio.Task[None] | None = None
        self._heard = 0

    async def arrive(self) -> None:
        await self._connect()
        joining = self._ask("join", "chat.join", {"room": self._room})
        await eventually(lambda: joining not in self._asked, timeout=30)

    async def live(self) -> None:
        asks: Sequence[tuple[float, Callable[[], object]]] = (
            (0.40, self._send),
            (0.30, lambda: self._ask("ping", "ping", {})),
            (0.12, lambda: self._ask("read", "chat.read", {"room": self._room, "seq": max(1, self._heard)})),
            (0.10, lambda: self._ask("orders", "order.list", {"limit": 5})),
            (0.08, self._order),
        )
        due = time.monotonic() + self._chance.uniform(0, _PAUSE[1])
        while not self._book.over:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += self._chance.uniform(*_PAUSE)
            self._chance.choices([ask for _, ask in asks], [share for share, _ in asks])[0]()

    def leave(self) -> None:
        """Count what never came."""
        now = time.monotonic()
        for kind, started, _ in self._asked.values():
            self._book.waits.append((self.group, kind, started, now - started, "never"))

    @property
    def is_waiting(self) -> bool:
        return bool(self._asked)

    def _send(self) -> None:
        ref = f"{self.name}-{self._count}"
        self._book.sends[ref] = _Send(time.monotonic(), set(self._members))
        self._ask("send", "chat.send", {"room": self._room, "text": f"hello {ref}", "client_ref": ref}, ref)

    def _order(self) -> None:
        self._ask("order", "order.submit", {"order_id": f"{self.name}-{self._count}", "amount": "9.90"})

    def _ask(self, kind: str, action: str, data: dict[str, Any], ref: str = "") -> str:
        self._count += 1
        msg_id = f"{self.name}-{self._count}"
        asked = {"msg_id": msg_id, "timestamp": 1, "action": action, "data": data, "version": "1.0"}
        if "room" in data:
            asked["key"] = self._room
        self._asked[msg_id] = (kind, time.monotonic(), ref)
        socket = self._socket
        if socket is not None:
            with contextlib.suppress(Exception):
                # The transport, since send() would wait for a gateway that does not read: an open loop does not.
                socket.transport.write(_masked(json.dumps(asked).encode()))
        return msg_id

    async def _connect(self) -> None:
        self._socket = await connect(
            self._url,
            additional_headers={"Authorization": f"Bearer {a_token(self.name)}"},
            subprotocols=[Subprotocol("towpath.v1")],
            compression=None,
            ping_interval=None,
            open_timeout=30,
            max_queue=None,
            proxy=None,
        )
        self._listening = asyncio.create_task(self._listen(self._socket))

    async def _listen(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in socket:
                self._take(json.loads(frame))
        if self._book.over:
            return
        self._book.ends.append((self.group, time.monotonic(), str(socket.close_code)))
        while not self._book.over:
            try:
                await self._connect()
            except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
                self._book.ends.append((self.group, time.monotonic(), type(error).__name__))
                await asyncio.sleep(0.5)
            else:
                return

    def _take(self, frame: dict[str, Any]) -> None:
        now = time.monotonic()
        action = frame["action"]
        if action == "chat.message":
            self._heard = max(self._heard, frame["data"]["seq"])
            send = self._book.sends.get(frame["data"].get("client_ref", ""))
            if send is not None and self.name in send.waiting:
                send.waiting.discard(self.name)
                self._book.waits.append((self.group, "push", send.started, now - send.started, "ok"))
            return
        if (asked := self._asked.pop(frame.get("correlation_id", ""), None)) is None:
            return
        kind, started, ref = asked
        outcome = frame["data"]["code"] if action == "error" else "ok"
        if ref and outcome == "ok":
            self._book.sends[ref].answered = True
        self._book.waits.append((self.group, kind, started, now - started, outcome))


def _masked(payload: bytes) -> bytes:
    head = (
        bytes([0x81, 0x80 | len(payload)]) if len(payload) < 126 else b"\x81\xfe" + len(payload).to_bytes(2)
    )
    return head + b"\0\0\0\0" + payload


async def _main(plan: dict[str, Any]) -> None:
    book = _Book()
    people: list[_Person] = []
    for group, (url, count) in plan["groups"].items():
        names = [f"{plan['name']}-{group}{number}" for number in range(count)]
        for number, name in enumerate(names):
            first = number // _MEMBERS * _MEMBERS
            members = names[first : first + _MEMBERS]
            room = f"{plan['name']}-{group}-room{first}"
            people.append(_Person(name, group, url, room, members, book))
    for person in people:
        await person.arrive()
    living = [asyncio.create_task(person.live()) for person in people]
    ticking = asyncio.create_task(_tick(book))
    print("ready", flush=True)  # noqa: T201  # the parent reads it
    await asyncio.to_thread(sys.stdin.readline)
    book.over = True
    await asyncio.gather(*living)

    def all_came() -> bool:
        missing = any(send.answered and send.waiting for send in book.sends.values())
        return not missing and not any(person.is_waiting for person in people)

    with contextlib.suppress(AssertionError):
        await eventually(all_came, timeout=_PATIENCE, every=0.05)
    ticking.cancel()
    for person in people:
        person.leave()
    now = time.monotonic()
    groups = {person.name: person.group for person in people}
    for send in book.sends.values():
        if send.answered:
            book.waits += [
                (groups[name], "push", send.started, now - send.started, "never") for name in send.waiting
            ]
    json.dump({"waits": book.waits, "ends": book.ends, "lag": book.lag}, sys.stdout)
    sys.stdout.flush()


async def _tick(book: _Book) -> None:
    """How late this process's own loop is: so much of what is measured may be its own."""
    while True:
        due = time.monotonic() + _TICK
        await asyncio.sleep(_TICK)
        late = time.monotonic() - due
        if late > 0.01:
            book.lag.append((due, late))


if __name__ == "__main__":
    run_as_if_elsewhere(hostile=False)
    asyncio.run(_main(json.loads(sys.argv[1])))
    os._exit(0)  # its connections need no farewell
