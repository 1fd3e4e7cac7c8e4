"""A careless service or backend publishes an unusable message: that message is lost, and nothing else."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import aio_pika
import pytest

from tests.faults.conftest import StartSystem
from towpath.protocol.routes import COMMANDS, EVENTS, PUSH, connection_key, control_key
from towpath.testkit.eventually import eventually
from towpath.testkit.odd_messages import (
    OddMessage,
    RawPublisher,
    long,
    message,
    odd_messages,
    properties,
    short,
    table,
    u64,
)
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .bounds import HUNDREDS, ONE_CONNECTION
from .odd_items import ITEMS
from .trial import Ground, Trial

_NANOSECONDS: Final = u64(1_764_300_000 * 10**9)
_TARGETS: Final = (
    (COMMANDS, b"chat.3"),
    (COMMANDS, b"order.5"),
    (EVENTS, b"order.paid"),
    (EVENTS, b"order.created"),
    (EVENTS, b"session.started"),
    (EVENTS, b"session.alive"),
    (EVENTS, b"session.ended"),
    (EVENTS, b"service.alive"),
    (PUSH, b"user.nobody"),
    (PUSH, b"group.nobody"),
    (PUSH, b"everyone"),
    (PUSH, b"control.nobody"),
    (PUSH, b"connection.nobody"),
)


def _envelope(action: str, data: str) -> bytes:
    return f'{{"msg_id":"m","timestamp":1,"action":"{action}","data":{data},"version":"1.0"}}'.encode()


_SESSION: Final = b'{"user_id":"eve","connection_id":"c","gateway_id":"nobody"}'
_BODIES: Final = (
    _envelope("order.paid", '{"order_id":"O1","user_id":"eve","amount":"1.00"}'),
    _envelope("order.created", '{"order_id":"O2","user_id":"eve","amount":"1.00","currency":"EUR"}'),
    _envelope("session.started", '{"user_id":"eve","connection_id":"c","gateway_id":"nobody"}'),
    _envelope("session.alive", '{"gateway_id":"nobody","incarnation":"1"}'),
    _envelope("service.alive", '{"service":"odd","domain":"odd","costs":{"odd.verb":1e9}}'),
    _envelope("odd.push", "{}"),
    b'{"session":' + _SESSION + b',"envelope":' + _envelope("chat.join", '{"room":"odd"}') + b"}",
    b'{"session":' + _SESSION + b',"envelope":' + _envelope("order.list", "{}") + b"}",
    b'{"connection_id":"c","subscribe":["odd"]}',
)


def _undecodable() -> Sequence[OddMessage]:
    """Frames that a codec cannot decode, for each consumed exchange."""
    made = []
    odd = {
        "a timestamp in nanoseconds": properties(timestamp=_NANOSECONDS),
        "a header in nanoseconds": properties(headers=table({b"at": b"T" + _NANOSECONDS})),
        "a header before 1970": properties(headers=table({b"at": b"T" + u64(-1)})),
        "a message_id in Latin-1": properties(message_id=short("café".encode("latin-1"))),
        "a header in Latin-1": properties(headers=table({"é".encode("latin-1"): b"S" + long(b"\xe9")})),
        "a type in Latin-1": properties(
            type=short(b"\xe9"), app_id=short(b"\xe9"), correlation_id=short(b"\xe9")
        ),
    }
    for exchange, key in _TARGETS:
        for what, chosen in odd.items():
            made.append(message(exchange, key, chosen, b"{}", what))
        latin = key.rpartition(b".")[0] + b".caf\xe9"
        made.append(message(exchange, latin, properties(), b"{}", "a routing key in Latin-1"))
    return made


def _forged() -> Sequence[OddMessage]:
    made = []
    for attempt in (-5, -1, 0, 10**6, 2**62):
        for count in (0, 3, 20):
            headers = {
                b"x-attempt": b"l" + u64(attempt),
                b"x-delivery-count": b"l" + u64(count),
                b"x-attempts": b"S" + long(b"not JSON"),
                b"x-first-failed-at": b"l" + u64(-1),
                b"x-queue": b"S" + long(b"orders.commands.0"),
            }
            for exchange, key in _TARGETS[:4]:
                forged = properties(headers=table(headers), delivery_mode=b"\2")
                made.append(message(exchange, key, forged, b'{"no":"envelope"}', f"x-attempt {attempt}"))
    return made


async def _publish(
    ground: Ground, system: System, messages: Iterable[OddMessage], *, count: int, seconds: float
) -> None:
    """Publish them until the broker has taken ``count``, evenly over some seconds."""
    loop = asyncio.get_running_loop()
    ground.begin()
    async with RawPublisher.open(system.rabbitmq.url) as publisher:
        began = loop.time()
        with ground.attacking():
            for odd in messages:
                if publisher.taken == count:
                    break
                await publisher.publish(odd)
                await asyncio.sleep(max(0.0, began + publisher.taken * seconds / count - loop.time()))
        ground.got_in(f"{publisher.taken:,} messages queued; the broker refused {publisher.refused:,} more")
        ground.expect(publisher.taken == count, f"{publisher.taken:,} were queued, not {count:,}")
    ground.end()


async def _dead_letters_can_be_listed(processes: Processes, system: System) -> None:
    tool = processes.launch("towpath", "dead-letters", "list", amqp_url=system.rabbitmq.url)
    assert await tool.ended(timeout=60) == 0, tool.output


async def _everybody_is_served(system: System) -> None:
    async with system.connect("late", 0) as late:

        async def is_answered(action: str, data: dict[str, str]) -> bool:
            answer = await late.request(action, data, timeout=30)
            return str(answer["action"]) == f"{action}.ok"

        await eventually(lambda: is_answered("chat.join", {"room": "late"}), timeout=60)
        await eventually(lambda: is_answered("order.list", {}), timeout=60)


async def test_invalid_directed_items_are_dropped_alone(system: System, trial: Trial) -> None:
    attack = f"{len(ITEMS)} odd directed items, each to a connection and to a user"
    async with trial.of(attack, system, ONE_CONNECTION) as ground, system.connect("named") as named:
        welcome = await named.next("session.welcome")
        connection, gateway = welcome["data"]["connection_id"], welcome["data"]["gateway_id"]
        ground.begin()
        async with await aio_pika.connect(system.rabbitmq.url) as publisher:
            channel = await publisher.channel()
            push = await channel.get_exchange(PUSH, ensure=False)
            with ground.attacking():
                for what, body in ITEMS.items():
                    for key in (connection_key(gateway), control_key("named")):
                        await push.publish(
                            aio_pika.Message(body.replace(b"CONNECTION", connection.encode())), key
                        )
                    answer = await named.request("ping", timeout=20)
                    assert answer["action"] == "pong", what
        ground.end()
        ground.got_in(f"{2 * len(ITEMS)} items")
        odd = {frame["action"] for frame in named.frames} - {"session.welcome", "pong"}
        ground.expect(not odd, f"the client was handed {sorted(odd)[:5]}")


@pytest.mark.parametrize(
    ("attack", "made"),
    [
        ("properties, headers and keys that no codec decodes", _undecodable),
        ("forged headers: x-attempt -5 with a delivery count", _forged),
    ],
)
async def test_odd_amqp_messages_are_parked_or_dropped_and_delay_no_other_message(
    rabbitmq: Rabbit, start_system: StartSystem, processes: Processes, trial: Trial, attack: str, made: object
) -> None:
    system = await start_system(rabbitmq)
    messages = made() if callable(made) else []
    async with trial.of(attack, system, ONE_CONNECTION) as ground:
        await _publish(ground, system, messages, count=len(messages), seconds=8)
        await _everybody_is_served(system)
    # Afterwards: a program that starts takes a core for a second, and operators have machines of their own.
    await _dead_letters_can_be_listed(processes, system)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [pytest.param(10_000, id="10,000")])
async def test_ten_thousand_random_amqp_messages_end_no_program_and_no_link(
    rabbitmq: Rabbit, start_system: StartSystem, processes: Processes, trial: Trial, count: int
) -> None:
    system = await start_system(rabbitmq)
    gateway = await _gateway_id(system)
    targets = [*_TARGETS, (PUSH, connection_key(gateway).encode())]
    number = (
        int(trial.seed, 16)
        if all(letter in "0123456789abcdef" for letter in trial.seed)
        else hash(trial.seed)
    )
    # If RabbitMQ refuses as many as it takes, something else is wrong.
    messages = odd_messages(seed=number, count=2 * count, targets=targets, bodies=_BODIES)
    async with trial.of(f"{count:,} odd AMQP messages", system, HUNDREDS) as ground:
        before = {name: process.pid for name, process in ground.watch.programs.items()}
        await _publish(ground, system, messages, count=count, seconds=60)
        await _everybody_is_served(system)
        ended = ground.watch.ended()
        ground.expect(not ended and len(before) == 4, f"ended: {ended}")
        lost = sum(
            process.output.count('"event": "broker_lost"') for process in ground.watch.programs.values()
        )
        ground.note(f"{lost} broker links lost")
        ground.expect(not lost, f"{lost} broker links were lost")
    await _dead_letters_can_be_listed(processes, system)


async def _gateway_id(system: System) -> str:
    async with system.connect("somebody") as client:
        return str((await client.next("session.welcome"))["data"]["gateway_id"])
