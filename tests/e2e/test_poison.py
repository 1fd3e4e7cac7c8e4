"""Poison: messages that break their service are parked, and other messages are not affected.

The service is a real process that is started again whenever it ends, as a supervisor does.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from towpath.protocol.envelope import Envelope, parse
from towpath.protocol.messages import join_batch, read_directed
from towpath.protocol.routes import PUSH, connection_key, dead_queue
from towpath.servicekit.broker.interface import Binding, Broker, BrokerError, Inbox, Message, Subscription
from towpath.servicekit.broker.rabbitmq import RabbitBroker
from towpath.servicekit.messaging.failure_headers import history
from towpath.testkit.dispatching import GATEWAY, Incoming, a_command, an_event
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.tools.parked import Parked, read

PROGRAM: Final = Path(__file__).parent / "poisonous.py"
TIME_LIMIT: Final = 1.0
PATIENCE: Final = 60.0

#: Kind of poison, the reason of its parking, and a part of its error.
KINDS: Final = [
    ("exit", "crashed", "status 3"),
    ("segfault", "crashed", "SIGSEGV"),
    ("leave", "crashed", "status 70"),
    ("loop", "hung", "within 1 s"),
    ("deaf", "hung", "within 1 s"),
    ("sleep", "hung", "within 1 s"),
    ("regex", "hung", "within 1 s"),
    ("giant", "hung", "within 1 s"),
    ("bug", "failed", "ZeroDivisionError"),
    ("constraint", "failed", "IntegrityError"),
    ("database", "failed", "TimeoutError"),
    ("model", "crashed", "status 3"),
    ("validator", "unreadable", "KeyError"),
]
#: Those that take the program with them, at first.
FATAL: Final = {"exit", "segfault", "leave", "deaf", "giant", "model"}


class Orders:
    """The poisonous service, and what a gateway hears of it.

    Attributes:
        ends: The exit statuses of the program so far.
    """

    def __init__(
        self, rabbitmq: Rabbit, processes: Processes, folder: Path, broker: Broker, crash_limit: int
    ) -> None:
        self._rabbitmq = rabbitmq
        self._processes = processes
        self._folder = folder
        self._broker = broker
        self._answers: dict[str, list[Envelope]] = {}
        self._process: Process | None = None
        self._crash_limit = crash_limit
        self._fixed: tuple[str, ...] = ()
        self.ends: list[int] = []

    @classmethod
    @asynccontextmanager
    async def running(
        cls, rabbitmq: Rabbit, processes: Processes, folder: Path, *, crash_limit: int = 3
    ) -> AsyncIterator["Orders"]:
        gateway = Inbox(name="gateway", bindings=[Binding(PUSH, connection_key(GATEWAY))])
        async with RabbitBroker.connect(rabbitmq.url, name="test", reconnect_max=0.5) as broker:
            orders = cls(rabbitmq, processes, folder, broker, crash_limit)
            keeping = asyncio.create_task(orders._keep())
            await orders.until_served()
            async with broker.subscribe(gateway, prefetch=1000) as told:
                listening = asyncio.create_task(orders._listen(told))
                try:
                    yield orders
                finally:
                    keeping.cancel()
                    listening.cancel()

    async def until_served(self) -> None:
        async def served() -> bool:
            try:
                async with self._broker.browse(dead_queue("orders")):
                    return True
            except BrokerError:
                return False

        await eventually(served, timeout=PATIENCE)

    async def fix(self) -> None:
        """Deploy the version that has no poison in it."""
        assert self._process is not None
        self._fixed = ("--fixed",)
        await self._process.terminate()

    async def send(self, *commands: Incoming) -> None:
        """Publish ``commands``, of one user, as one body."""
        first = commands[0]
        message = Message(body=join_batch([one.item for one in commands]), app_id=first.app_id)
        await self._broker.publish(first.exchange, first.routing_key, message, mandatory=True)

    def answers(self, msg_id: str) -> list[Envelope]:
        return self._answers.get(msg_id, [])

    async def answer(self, msg_id: str) -> Envelope:
        """The answer, however often it came."""
        await eventually(lambda: msg_id in self._answers, timeout=PATIENCE)
        assert len({one.action for one in self._answers[msg_id]}) == 1
        return self._answers[msg_id][0]

    async def orders_of(self, user: str) -> Counter[str]:
        """The ids of all orders that ``user`` has."""
        msg_id = f"list-{user}-{len(self._answers)}"
        await self.send(a_command("order.list", by=user, msg_id=msg_id, limit=100))
        return Counter(order["order_id"] for order in (await self.answer(msg_id)).data["orders"])

    async def parked(self, count: int, *, timeout: float = PATIENCE) -> list[Parked]:
        """All that is parked, once there are ``count``."""

        async def all_there() -> tuple[list[Parked]]:
            async with self._broker.browse(dead_queue("orders")) as looking:
                found = [read(delivery) async for delivery in looking]
            assert len(found) == count, [one.as_dict() for one in found]
            return (found,)

        (found,) = await eventually(all_there, timeout=timeout, every=0.1)
        return found

    async def tool(self, *arguments: str) -> tuple[int, str]:
        """Run ``towpath dead-letters``; its status and all it says."""
        running = self._processes.launch("towpath", "dead-letters", *arguments, amqp_url=self._rabbitmq.url)
        return await running.ended(), running.output

    async def _keep(self) -> None:
        while True:
            self._process = self._processes.launch(
                Path(sys.executable).name, str(PROGRAM), *self._fixed,
                name="orders", amqp_url=self._rabbitmq.url, reconnect_max=0.5, crash_limit=self._crash_limit,
                handler_time_limit=TIME_LIMIT, unit_time_limit=1.5 * TIME_LIMIT,
                database_url=f"sqlite:///{self._folder}/orders.db",
            )  # fmt: skip
            self.ends.append(await self._process.ended(timeout=3600))

    async def _listen(self, told: Subscription) -> None:
        async for delivery in told:
            for item in read_directed(delivery.body):
                if item.envelope:
                    answer = parse(bytes(item.envelope))
                    self._answers.setdefault(answer.correlation_id or "", []).append(answer)
            delivery.ack()


@pytest.fixture
async def orders(rabbitmq: Rabbit, processes: Processes, tmp_path: Path) -> AsyncIterator[Orders]:
    async with Orders.running(rabbitmq, processes, tmp_path) as orders:
        yield orders


def an_order(order_id: str, user: str = "ana", **more: Any) -> Incoming:
    return a_command(
        "order.submit", by=user, msg_id=f"m-{order_id}", order_id=order_id, amount="9.90", **more
    )


@pytest.mark.parametrize(("kind", "reason", "told"), KINDS, ids=[kind for kind, _, _ in KINDS])
async def test_poison_is_parked_and_the_other_messages_flow(
    orders: Orders, kind: str, reason: str, told: str
) -> None:
    async def keep_ordering() -> None:
        for number in range(20):
            await orders.send(an_order(f"ben-{number}", "ben"))
            await orders.answer(f"m-ben-{number}")

    ordering = asyncio.create_task(keep_ordering())
    await orders.answer("m-ben-0")
    poison = an_order(f"{kind}-1")
    await orders.send(
        *(an_order(f"ana-{n}") for n in range(3)), poison, *(an_order(f"ana-{n}") for n in (3, 4))
    )

    [parked] = await orders.parked(1)
    assert (parked.id, parked.reason, parked.users) == (f"m-{kind}-1", reason, "ana")
    assert told in parked.error
    assert parked.queue.startswith("orders.commands.")
    assert parked.traceparent is not None
    assert (await orders.answer(f"m-{kind}-1")).data["code"] == "internal"
    for number in range(5):
        assert (await orders.answer(f"m-ana-{number}")).action == "order.submit.ok"
    await ordering
    assert await orders.orders_of("ana") == Counter(f"ana-{n}" for n in range(5))
    assert await orders.orders_of("ben") == Counter(f"ben-{n}" for n in range(20))
    assert bool(orders.ends) == (kind in FATAL)
    # Known by now, or found by the trial of what it was redelivered with: it ends the program no second time.
    ends = len(orders.ends)
    if kind not in ("model", "database"):
        await orders.send(an_order(f"{kind}-2"))
        await orders.parked(2)
        assert len(orders.ends) == ends


async def test_a_failed_command_is_parked_with_its_location_and_without_effect(orders: Orders) -> None:
    await orders.send(an_order("bug-1"))
    assert (await orders.answer("m-bug-1")).data["code"] == "internal"
    [parked] = await orders.parked(1)
    tries = history({"x-attempts": json.dumps(parked.as_dict()["attempts"])})
    assert (parked.tries, parked.effect, len(tries)) == (0, "none", 1)
    assert "ZeroDivisionError" in tries[0].error
    assert "<lambda>" in tries[0].where


async def test_an_unreadable_message_is_parked_and_its_neighbours_are_handled(orders: Orders) -> None:
    good = an_order("ana-1")
    await orders.send(
        good, Incoming(exchange=good.exchange, routing_key=good.routing_key, item=b'{"no": 1}', app_id="x")
    )
    await orders.send(
        Incoming(exchange=good.exchange, routing_key=good.routing_key, item=b"\xff\x00", app_id="x")
    )
    await orders.send(an_event("order.paid", order_id=["no id"], user_id="ana"))
    assert (await orders.answer("m-ana-1")).action == "order.submit.ok"
    assert [one.reason for one in await orders.parked(3)] == ["unreadable"] * 3
    assert orders.ends == []


async def test_each_of_several_poisons_in_a_batch_is_found(orders: Orders) -> None:
    kinds = ["exit", "loop", "segfault", "bug", "giant"]
    await orders.send(*(an_order(f"{word}-1") for kind in kinds for word in (kind, f"good{kind}")))
    parked = await orders.parked(len(kinds))
    assert {one.id for one in parked} == {f"m-{kind}-1" for kind in kinds}
    assert await orders.orders_of("ana") == Counter(f"good{kind}-1" for kind in kinds)
    assert len(orders.ends) == 1


@pytest.mark.timeout(300)  # the program is started a dozen times
async def test_a_message_that_no_crash_probe_finds_is_deferred_alone_and_finally_parked(
    rabbitmq: Rabbit, processes: Processes, tmp_path: Path
) -> None:
    async with Orders.running(rabbitmq, processes, tmp_path, crash_limit=2) as orders:
        await orders.send(an_order("ana-1"), an_order("save-1"), an_order("ana-2"))
        for number in range(5):
            await orders.send(an_order(f"ben-{number}", "ben"))
        # No test has to wait until its end.
        assert (await orders.answer("m-ben-4")).action == "order.submit.ok"
        [parked] = await orders.parked(1, timeout=240)
        assert (parked.id, parked.reason) == ("m-save-1", "crashed")
        assert await orders.orders_of("ana") == Counter(["ana-1", "ana-2"])
        assert await orders.orders_of("ben") == Counter(f"ben-{n}" for n in range(5))


async def test_a_message_replayed_before_the_fix_is_parked_again_and_ends_no_program(orders: Orders) -> None:
    await orders.send(an_order("exit-1"))
    await orders.parked(1)
    ends = len(orders.ends)
    status, said = await orders.tool("replay", "orders", "m-exit-1")
    assert (status, said.splitlines()[-1]) == (0, "1 replayed")

    async def parked_anew() -> bool:
        return [one.replayed for one in await orders.parked(1)] == [1]

    await eventually(parked_anew, timeout=PATIENCE)
    assert len(orders.ends) == ends


async def test_a_message_replayed_after_the_fix_takes_effect_once(orders: Orders) -> None:
    for _ in range(2):  # the client asked again under the same msg_id
        await orders.send(an_order("exit-1"), an_order("good-1"))
        await orders.answer("m-exit-1")
    await orders.parked(2)
    await orders.fix()
    status, said = await orders.tool("replay", "orders")
    assert (status, said.splitlines()[-1]) == (0, "2 replayed")
    await orders.parked(0)
    await eventually(lambda: orders.answers("m-exit-1")[-1].action == "order.submit.ok", timeout=PATIENCE)
    assert await orders.orders_of("ana") == Counter(["good-1", "exit-1"])
    status, said = await orders.tool("replay", "orders")
    assert (status, said) == (0, "0 replayed\n")
