"""``towpath dead-letters`` over messages that no AMQP library can publish, parked beside a healthy one."""

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import aio_pika
import pytest

from towpath.protocol.envelope import make
from towpath.protocol.routes import EVENTS, dead_queue, events_queue
from towpath.testkit.eventually import eventually
from towpath.testkit.odd_messages import (
    OddMessage,
    RawPublisher,
    long,
    message,
    properties,
    short,
    table,
    u64,
)
from towpath.testkit.processes import Processes
from towpath.testkit.system import System

PATIENCE: Final = 40.0
DEAD: Final = dead_queue("orders")
QUEUE: Final = events_queue("orders")
PAID: Final = b"order.paid"
NANOSECONDS: Final = u64(1_764_300_000 * 10**9)
#: It clears a screen, sets a title, colours, and turns the direction of what follows.
CONTROLS: Final = "\x1b[2J\x1b]0;title\x07\r\x9b31m\u202e"


@dataclass(frozen=True)
class Odd:
    """One odd message.

    Attributes:
        id: Its name in the tool.
        error: Part of the error that the tool prints.
        shown: Part of the body, as it prints it.
    """

    sent: OddMessage
    id: str
    error: str
    shown: str


def an_event(msg_id: str, **data: str) -> bytes:
    return make("order.paid", data, msg_id=msg_id).to_json()


def undecodable(msg_id: str, error: str, chosen: bytes, key: bytes = PAID) -> Odd:
    """A message whose body is right."""
    body = an_event(msg_id, order_id=f"O-{msg_id}", user_id="ana")
    return Odd(message(EVENTS, key, chosen, body), msg_id, error, f'"order_id": "O-{msg_id}"')


def unreadable(body: bytes, error: str, shown: str) -> Odd:
    """A message whose body is wrong."""
    return Odd(message(EVENTS, PAID, properties(), body), f"@{sha256(body).hexdigest()[:12]}", error, shown)


ODD: Final = [
    undecodable("odd-timestamp", "timestamp: not a time in seconds", properties(timestamp=NANOSECONDS)),
    undecodable(
        "odd-before-1970",
        "header at: not a time in seconds",
        properties(headers=table({b"at": b"T" + u64(-1)})),
    ),
    undecodable("odd-message-id", "message_id: not UTF-8", properties(message_id=short(b"caf\xe9"))),
    undecodable("odd-routing-key", "routing key: not UTF-8", properties(), b"order.caf\xe9"),
    unreadable(b"\xff\x00 no JSON", "neither a JSON object nor an array", "\\xff· no JSON"),
    unreadable(f"{CONTROLS} no JSON".encode(), "neither a JSON object nor an array", "31m· no JSON"),
    unreadable(json.dumps({"action": CONTROLS}).encode(), "refused because of", '"action": "'),
]


class Desk:
    """The tool, as an operator types it, beside a running system."""

    def __init__(self, system: System, processes: Processes) -> None:
        self._url = system.rabbitmq.url
        self._processes = processes

    async def tool(self, *arguments: str) -> str:
        """All it says; it must succeed, and send nothing to the terminal but text."""
        running = self._processes.launch("towpath", "dead-letters", *arguments, amqp_url=self._url)
        assert await running.ended(timeout=PATIENCE) == 0, running.output
        unsafe = [letter for letter in running.output if not letter.isprintable() and letter != "\n"]
        assert not unsafe, ascii(running.output)
        return running.output

    async def parked(self, count: int) -> list[dict[str, Any]]:
        """The entries of ``list --json``, once there are ``count``."""

        listed: list[dict[str, Any]] = []

        async def all_there() -> bool:
            said = await self.tool("list", "orders", "--json")
            listed[:] = [json.loads(line) for line in said.splitlines()]
            assert len(listed) == count, listed
            return True

        await eventually(all_there, timeout=PATIENCE, every=0.5)
        return listed


@pytest.fixture
async def desk(system: System, processes: Processes) -> Desk:
    async with await aio_pika.connect(system.rabbitmq.url) as connection:
        # An operator's binding: without one no routing key in Latin-1 leads to the service.
        queue = await (await connection.channel()).get_queue(QUEUE, ensure=False)
        await queue.bind(EVENTS, "order.#")
    return Desk(system, processes)


async def publish(system: System, *messages: OddMessage) -> None:
    async with RawPublisher.open(system.rabbitmq.url) as publisher:
        for one in messages:
            assert await publisher.publish(one), publisher.last_reason


async def test_odd_messages_are_parked_listed_and_dropped_and_a_healthy_one_is_replayed(
    system: System, desk: Desk
) -> None:
    await publish(system, *(one.sent for one in ODD))
    parked = {one["msg_id"]: one for one in await desk.parked(len(ODD))}
    assert parked.keys() == {one.id for one in ODD}
    assert {one["queue"] for one in parked.values()} == {QUEUE}

    *lines, counted = (await desk.tool("list", "orders")).splitlines()
    assert counted == f"{DEAD}: {len(parked)} of {len(parked)}"
    for one in ODD:
        (line,) = (line for line in lines if one.id in line)
        assert "unreadable" in line
        assert one.error in line
        shown = await desk.tool("show", "orders", one.id)
        assert one.error in shown
        assert one.shown in shown

    assert (await desk.tool("drop", "orders", "odd-message-id")).splitlines()[-1] == "1 dropped"
    async with system.connect("ana") as ana:
        await ana.request("order.submit", {"order_id": "O-odd-timestamp", "amount": "9.90"})
        assert (await desk.tool("replay", "orders", "odd-timestamp")).splitlines()[-1] == "1 replayed"
        await ana.find(lambda f: f["action"] == "order.updated" and f["data"]["status"] == "paid")
    left = await desk.parked(len(parked) - 2)
    assert {one["msg_id"] for one in left} == parked.keys() - {"odd-message-id", "odd-timestamp"}


async def test_a_message_with_odd_properties_and_a_valid_body_is_handled_after_a_replay(
    system: System, desk: Desk
) -> None:
    odd = next(one for one in ODD if one.id == "odd-timestamp")
    await publish(system, odd.sent)
    await desk.parked(1)
    async with system.connect("ana") as ana:
        assert (await desk.tool("replay", "orders", odd.id)).splitlines()[-1] == "1 replayed"
        push = await ana.next("order.updated")
        assert (push["data"]["order_id"], push["data"]["status"]) == ("O-odd-timestamp", "paid")
    await desk.parked(0)


async def test_messages_of_other_programs_in_the_dead_queue_are_shown_and_dropped_and_never_replayed(
    system: System, desk: Desk
) -> None:
    forged = {
        b"x-error": b"S" + long(CONTROLS.encode()),
        b"x-reason": b"S" + long(CONTROLS.encode()),
        b"x-first-failed-at": b"T" + u64(-1),
        b"x-queue": b"S" + long(b"caf\xe9"),
        b"x-attempts": b"S" + long(b'[{"at":1e400,"error":1}]'),
    }
    body = json.dumps({"msg_id": CONTROLS, "action": CONTROLS}).encode()
    await publish(
        system,
        message(DEAD, b"caf\xe9", properties(headers=table(forged), timestamp=NANOSECONDS), body),
        message(DEAD, PAID, properties(headers=table(forged)), b"\xff"),
        message(DEAD, PAID, properties(), an_event("alone", order_id="O1", user_id="ana")),
    )
    parked = {one["msg_id"] for one in await desk.parked(3)}
    assert {CONTROLS, "alone"} < parked
    for name in parked:
        assert name in await desk.tool("show", "orders", name) or name == CONTROLS
    assert (await desk.tool("replay", "orders")).splitlines()[-1] == "0 replayed, 3 skipped"
    await desk.parked(3)
    assert (await desk.tool("drop", "orders", CONTROLS)).splitlines()[-1] == "1 dropped"
    assert {one["msg_id"] for one in await desk.parked(2)} == parked - {CONTROLS}
