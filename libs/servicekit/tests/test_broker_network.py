"""RabbitMQ behind a faulty network: what the driver does about it, and within which time."""

import asyncio
import contextlib
import itertools
import random
import re
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Any, Final

import aio_pika
import pytest
from pamqp import commands
from pamqp.base import Frame
from pamqp.frame import marshal
from structlog.testing import capture_logs

from towpath.servicekit.broker.interface import (
    Binding,
    BrokerBlocked,
    BrokerError,
    BrokerRefused,
    BrokerState,
    Exchange,
    Inbox,
    Lost,
    Message,
    PublishRefused,
    PublishUnconfirmed,
    Queue,
    Subscription,
    Topology,
    Unroutable,
)
from towpath.servicekit.broker.rabbitmq import RabbitBroker, connection, link, supervisor
from towpath.testkit.eventually import eventually
from towpath.testkit.network import Proxy
from towpath.testkit.rabbitmq import Rabbit
from towpath.tools.rabbitmq_node import RabbitControl

TOPICS: Final = Exchange("test.topics")
WORK: Final = Queue(name="test.work", bindings=[Binding(TOPICS.name, "work.#")])
INBOX: Final = Inbox(name="test.inbox", bindings=[Binding(TOPICS.name, "push.#")])
WANTED: Final = Topology([TOPICS], [WORK])
HELLO: Final = Message(body=b'"hello"')
PATIENCE: Final = 20.0

#: The broker's frames at each step, in order; the number is that of its class and method.
STEPS: Final[list[type[Frame]]] = [
    commands.Connection.Start,
    commands.Connection.Tune,
    commands.Connection.OpenOk,
    commands.Channel.OpenOk,
    commands.Confirm.SelectOk,
    commands.Exchange.DeclareOk,
    commands.Queue.DeclareOk,
    commands.Queue.BindOk,
    commands.Basic.QosOk,
    commands.Basic.ConsumeOk,
]


def said(step: type[Frame]) -> bytes:
    """The bytes that a frame of this kind has in it."""
    return step.index.to_bytes(4, "big")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time limits of a second or two, so that tests of them are short; what they are is tested below."""
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 2.0)
    monkeypatch.setattr(connection, "RPC_TIMEOUT", 2.0)
    monkeypatch.setattr(connection, "HEARTBEAT_SECONDS", 2)
    monkeypatch.setattr(supervisor, "CHECK_EVERY", 1.0)


@pytest.fixture
async def proxy(rabbitmq: Rabbit) -> AsyncIterator[Proxy]:
    async with Proxy.before(rabbitmq.url) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[RabbitBroker]:
    async with RabbitBroker.connect(url, name="under test", reconnect_max=0.2, **options) as broker:
        async with asyncio.timeout(PATIENCE):
            await broker.until_ready()
        yield broker


@pytest.fixture
async def broker(proxy: Proxy, rabbitmq: Rabbit) -> AsyncIterator[RabbitBroker]:
    """A connection through the proxy, with a queue and no subscription."""
    async with connected(proxy.instead_of(rabbitmq.url)) as broker:
        await broker.declare(WANTED)
        yield broker


@pytest.fixture
async def admin(rabbitmq: Rabbit) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A careless hand: a channel past the proxy."""
    async with await aio_pika.connect(rabbitmq.url) as admin:
        yield await admin.channel()


def is_ready(broker: RabbitBroker) -> bool:
    return broker.state is BrokerState.READY


class Rebuilt:
    """How often ``on_rebuilt`` was called."""

    def __init__(self, broker: RabbitBroker) -> None:
        self.count = 0
        broker.on_rebuilt(self._count)

    def _count(self) -> None:
        self.count += 1

    async def reached(self, count: int) -> None:
        await eventually(lambda: self.count >= count, timeout=PATIENCE)


def found_by(broker: RabbitBroker) -> list[Lost]:
    """The losses that it finds from now on."""
    found: list[Lost] = []
    broker.on_loss(lambda what, _: found.append(what))
    return found


async def accepts_more_than(proxy: Proxy, count: int) -> None:
    await eventually(lambda: proxy.accepted > count)


async def arrives(broker: RabbitBroker, subscription: Subscription, key: str) -> None:
    """A publish with ``key`` arrives, perhaps not at the first attempt."""

    async def publish() -> None:
        for number in itertools.count():
            with contextlib.suppress(BrokerError):
                await broker.publish(TOPICS.name, key, Message(body=b"%d" % number), timeout=1)
            await asyncio.sleep(0.05)

    publishing = asyncio.create_task(publish())
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                delivery = await anext(subscription)
                delivery.ack()
                if delivery.routing_key == key:
                    return
    finally:
        publishing.cancel()
        await asyncio.wait([publishing])


# Every step has a time limit


def test_a_silent_broker_is_noticed_within_33_s_by_either_side() -> None:
    heartbeat = 8  # the setting that the fixture above replaces
    grace, pause = 3 * (heartbeat + 1), heartbeat / 2
    assert grace + pause <= 33
    assert 2 * heartbeat + heartbeat / 2 <= 33  # RabbitMQ: two missed


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
async def test_a_broker_silent_at_any_step_of_connecting_is_dropped_and_retried(
    step: type[Frame], proxy: Proxy, broker: RabbitBroker
) -> None:
    rebuilt = Rebuilt(broker)
    async with broker.subscribe(WORK, INBOX, prefetch=10) as subscription:
        before = proxy.accepted
        proxy.to_client.hold(at=said(step))
        proxy.reset()
        await eventually(lambda: proxy.accepted >= before + 4, timeout=PATIENCE)
        assert not is_ready(broker)
        assert rebuilt.count == 0
        proxy.heal()
        await arrives(broker, subscription, "work.again")
        await arrives(broker, subscription, "push.again")
    assert rebuilt.count == 1
    assert proxy.connections == 2


async def test_declare_and_subscribe_fail_in_time_without_an_answer(
    proxy: Proxy, broker: RabbitBroker
) -> None:
    proxy.hold()
    started = perf_counter()
    with pytest.raises(BrokerError, match="topology"):
        await broker.declare(Topology(queues=[Queue(name="other")]))
    with pytest.raises(BrokerError, match="subscription"):
        async with broker.subscribe(WORK, prefetch=1):
            pass
    assert perf_counter() - started < 8  # each has 2 s


async def test_publishes_without_an_answer_are_unconfirmed_in_time_and_leave_nothing_behind(
    proxy: Proxy, broker: RabbitBroker
) -> None:
    await broker.publish("", WORK.name, HELLO)
    tasks = len(asyncio.all_tasks())
    proxy.hold()
    big = Message(body=b'"' + b"x" * 1_000_000 + b'"')
    started = perf_counter()
    outcomes = await asyncio.gather(
        *(broker.publish("", WORK.name, message, timeout=0.5) for message in [big] * 30 + [HELLO] * 100),
        return_exceptions=True,
    )
    assert {type(outcome) for outcome in outcomes} == {PublishUnconfirmed}
    assert perf_counter() - started < 8  # and not the 10 s that a confirm may take
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    proxy.heal()
    await eventually(lambda: is_ready(broker))
    await broker.publish("", WORK.name, HELLO)


@pytest.mark.parametrize("way", ["to_server", "to_client"])
async def test_silence_in_either_direction_is_noticed_by_heartbeats(
    way: str, proxy: Proxy, broker: RabbitBroker
) -> None:
    rebuilt = Rebuilt(broker)
    async with broker.subscribe(WORK, INBOX, prefetch=10) as subscription:
        before = proxy.accepted
        getattr(proxy, way).hold()
        await eventually(lambda: not is_ready(broker), timeout=3 * (2 + 1) + 2)
        await accepts_more_than(proxy, before)
        proxy.heal()
        await arrives(broker, subscription, "push.again")
    assert rebuilt.count == 1


async def test_a_half_open_connection_is_found_before_the_heartbeats_find_it(
    proxy: Proxy, broker: RabbitBroker
) -> None:
    rebuilt, found = Rebuilt(broker), found_by(broker)
    proxy.half_open()
    # A heartbeat's time, and what a busy machine and a new connection may take; the driver takes 3 × (2 + 1) s.
    await eventually(lambda: not is_ready(broker), timeout=2 + 1.5 + 1)
    await rebuilt.reached(1)
    assert found == [Lost.CONNECTION]
    await broker.publish("", WORK.name, HELLO)


async def test_a_paused_broker_costs_no_connection(proxy: Proxy, broker: RabbitBroker) -> None:
    rebuilt = Rebuilt(broker)
    with capture_logs() as logs:
        proxy.hold()
        await eventually(lambda: "broker_silent" in [entry["event"] for entry in logs])
        proxy.heal()
        await broker.publish("", WORK.name, HELLO)
    assert rebuilt.count == 0
    assert proxy.accepted > 2  # it was asked on a new connection


# Closing


@pytest.mark.parametrize("how", ["hold", "half_open", "reset", "refuse"])
async def test_closing_takes_less_than_5_s_whatever_the_network_does(
    how: str, proxy: Proxy, rabbitmq: Rabbit
) -> None:
    async with connected(proxy.instead_of(rabbitmq.url)) as broker:
        await broker.declare(WANTED)
        async with broker.subscribe(WORK, INBOX, prefetch=10):
            getattr(proxy, how)()
            big = Message(body=b"0" * 1_000_000)
            publishes = [asyncio.create_task(broker.publish("", WORK.name, big)) for _ in range(30)]
            await asyncio.sleep(0)
            started = perf_counter()
            await broker.close()
            assert perf_counter() - started < 5
            assert broker.state is BrokerState.CLOSED
            done = await asyncio.gather(*publishes, return_exceptions=True)
            assert all(outcome is None or isinstance(outcome, BrokerError) for outcome in done)


async def test_closing_takes_less_than_5_s_while_a_connect_gets_no_answer(
    proxy: Proxy, rabbitmq: Rabbit
) -> None:
    proxy.hold()
    async with RabbitBroker.connect(proxy.instead_of(rabbitmq.url), name="early"):
        await eventually(lambda: proxy.accepted >= 2)
        started = perf_counter()
    assert perf_counter() - started < 5


async def test_closing_takes_less_than_5_s_under_an_alarm(rabbitmq: Rabbit, broker: RabbitBroker) -> None:
    await blocked(rabbitmq, broker)
    started = perf_counter()
    await broker.close()
    assert perf_counter() - started < 5


# Alarms


async def blocked(rabbitmq: Rabbit, broker: RabbitBroker) -> list[BaseException | None]:
    """Raise an alarm in the middle of many publishes; how these went."""
    await rabbitmq.block()
    return await asyncio.gather(
        *(broker.publish("", WORK.name, HELLO) for _ in range(100)), return_exceptions=True
    )


async def test_publishes_in_flight_at_an_alarm_are_unconfirmed_soon(
    rabbitmq: Rabbit, broker: RabbitBroker
) -> None:
    await broker.publish("", WORK.name, HELLO)
    started = perf_counter()
    outcomes = await blocked(rabbitmq, broker)
    assert perf_counter() - started < 9  # and not the 10 s that a confirm may take
    assert {type(outcome) for outcome in outcomes} <= {type(None), PublishUnconfirmed}
    assert broker.state is BrokerState.BLOCKED
    with pytest.raises(BrokerBlocked):
        async with asyncio.timeout(0):  # ends whatever waits, however short
            await broker.publish("", WORK.name, HELLO)
    await rabbitmq.unblock()
    await eventually(lambda: is_ready(broker))
    await broker.publish("", WORK.name, HELLO)


async def test_an_alarm_drops_no_connection_however_long_it_lasts(
    rabbitmq: Rabbit, proxy: Proxy, broker: RabbitBroker
) -> None:
    rebuilt, taken = Rebuilt(broker), 0
    for _ in range(5):
        await broker.publish("", WORK.name, HELLO)
    async with broker.subscribe(WORK, prefetch=1) as subscription:
        await blocked(rabbitmq, broker)
        before = perf_counter()
        while perf_counter() - before < 3 * (2 + 1) + 2:  # longer than silence may last
            for delivery in subscription.take_waiting(10):
                delivery.ack()
                taken += 1
            await asyncio.sleep(0.1)
        assert taken >= 5
        await rabbitmq.unblock()
        await eventually(lambda: is_ready(broker))
    assert (rebuilt.count, proxy.accepted) == (0, 2)


# Again and again


async def test_repeated_resets_leave_nothing_behind(proxy: Proxy, broker: RabbitBroker) -> None:
    chance = random.Random(5)
    rebuilt = Rebuilt(broker)
    async with broker.subscribe(WORK, INBOX, prefetch=10) as subscription:
        await arrives(broker, subscription, "work.first")
        tasks = len(asyncio.all_tasks())
        for turn in range(1, 11):
            if turn % 2:
                before = proxy.accepted
                proxy.to_client.cut_after(chance.randrange(1, 4000))
                proxy.reset()
                await accepts_more_than(proxy, before)
                proxy.heal()
            else:
                proxy.reset()
            await rebuilt.reached(turn)
        await arrives(broker, subscription, "push.last")
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        assert proxy.connections == 2


async def test_a_restart_is_over_in_less_than_20_s_with_the_longest_waits(rabbitmq: Rabbit) -> None:
    async with RabbitBroker.connect(rabbitmq.url, name="patient") as broker:
        async with asyncio.timeout(PATIENCE):
            await broker.until_ready()
        await rabbitmq.stop()
        await eventually(lambda: not is_ready(broker))
        await rabbitmq.start()
        await eventually(lambda: is_ready(broker), timeout=20)


# Several hosts


def several(url: str, *ports: int) -> str:
    """``url`` with these ports of 127.0.0.1 for its hosts."""
    head, _, tail = url.rpartition("@")
    names = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"{head}@{names}/{tail.partition('/')[2]}"


class Doorkeeper:
    """A server that speaks just enough AMQP to refuse every client."""

    def __init__(self) -> None:
        self.refused = 0
        self.port = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncIterator["Doorkeeper"]:
        keeper = cls()
        server = await asyncio.start_server(keeper.refuse, "127.0.0.1", 0)
        keeper.port = server.sockets[0].getsockname()[1]
        try:
            yield keeper
        finally:
            server.close()

    async def refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(8)
            writer.write(marshal(commands.Connection.Start(mechanisms="PLAIN", locales="en_US"), 0))
            await reader.read(4096)
            writer.write(marshal(commands.Connection.Close(403, "ACCESS_REFUSED", 0, 0), 0))
            await writer.drain()
            self.refused += 1
            await reader.read(4096)
        writer.close()


async def test_a_refusing_and_a_silent_host_are_skipped(rabbitmq: Rabbit) -> None:
    async with (
        Proxy.before(rabbitmq.url) as closed,
        Proxy.before(rabbitmq.url) as silent,
        Proxy.before(rabbitmq.url) as good,
        Doorkeeper.open() as keeper,
    ):
        closed.refuse()
        silent.hold()
        url = several(rabbitmq.url, closed.port, silent.port, keeper.port, good.port)
        for _ in range(4):  # with whichever it begins
            async with connected(url) as broker:
                await broker.declare(WANTED)
                await broker.publish("", WORK.name, HELLO)
        assert good.accepted == 8
        assert keeper.refused >= 1


async def test_when_a_host_is_lost_the_next_one_is_used(rabbitmq: Rabbit) -> None:
    async with (
        Proxy.before(rabbitmq.url) as one,
        Proxy.before(rabbitmq.url) as two,
        connected(several(rabbitmq.url, one.port, two.port)) as broker,
    ):
        await broker.declare(WANTED)
        rebuilt = Rebuilt(broker)
        async with broker.subscribe(WORK, INBOX, prefetch=10) as subscription:
            for turn in range(1, 4):
                here, there = (one, two) if one.connections else (two, one)
                here.refuse()
                here.reset()
                await rebuilt.reached(turn)
                assert (here.connections, there.connections) == (0, 2)
                await here.listen()
                await arrives(broker, subscription, "push.again")


async def test_only_when_all_hosts_refuse_a_program_is_refused(rabbitmq: Rabbit) -> None:
    async with Doorkeeper.open() as one, Doorkeeper.open() as two, Proxy.before(rabbitmq.url) as third:
        third.refuse()
        url = several(rabbitmq.url, one.port, two.port, third.port)
        async with RabbitBroker.connect(url, name="stranger", reconnect_max=0.1) as broker:
            waiting = asyncio.create_task(broker.until_ready())
            await eventually(lambda: one.refused >= 2 and two.refused >= 2)
            assert not waiting.done()
            await third.listen()
            async with asyncio.timeout(PATIENCE):
                await waiting
        async with RabbitBroker.connect(several(url, one.port, two.port), name="stranger") as broker:
            with pytest.raises(
                BrokerRefused, match=r"TOWPATH_AMQP_URL: .* refused user '.*' or the password"
            ):
                async with asyncio.timeout(PATIENCE):
                    await broker.until_ready()


async def test_after_a_refusal_a_new_channel_is_used_and_none_is_left_behind(
    rabbitmq_node: RabbitControl, broker: RabbitBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_CHANNEL_LASTS", 0.0)
    monkeypatch.setattr(link, "_CONFIRMS_LAST", 0.0)
    small = Queue(name="test.small", max_length=1)
    await broker.declare(Topology([], [small]))

    def channels() -> set[str]:
        listed = rabbitmq_node.evaluate("[pid_to_list(Channel) || Channel <- rabbit_channel:list()]")
        return set(re.findall(r"<[0-9.]+>", listed))

    before, seen, refused = channels(), set[str](), 0
    while refused < 20:
        try:
            await broker.publish("", small.name, HELLO)
        except PublishRefused:
            refused += 1
            seen |= channels() - before
    assert len(seen) >= 15
    assert len(channels()) <= len(before) + 2


# Changes of our queues by others


async def test_a_queue_deleted_under_its_consumer_is_restored_on_the_same_link(
    proxy: Proxy, broker: RabbitBroker, admin: aio_pika.abc.AbstractChannel
) -> None:
    rebuilt, found = Rebuilt(broker), found_by(broker)
    async with broker.subscribe(WORK, prefetch=10) as subscription:
        await admin.queue_delete(WORK.name)
        await arrives(broker, subscription, "work.again")
    assert rebuilt.count == 1
    assert proxy.accepted == 2
    assert found == [Lost.QUEUE]


async def test_a_deleted_verified_binding_is_found(
    broker: RabbitBroker, admin: aio_pika.abc.AbstractChannel
) -> None:
    proved = Binding(TOPICS.name, "proof")
    await broker.declare(Topology([], [Queue(name="test.proved", bindings=[proved], verified=[proved])]))
    found = found_by(broker)
    queue = await admin.get_queue("test.proved", ensure=False)
    await queue.unbind(TOPICS.name, "proof")
    await eventually(lambda: found == [Lost.BINDING])

    async def is_bound() -> bool:
        with contextlib.suppress(Unroutable):
            await broker.publish(TOPICS.name, "proof", HELLO, mandatory=True)
            return True
        return False

    await eventually(is_bound)


async def test_a_consumer_lost_by_its_queue_is_found_and_recreated(
    rabbitmq: Rabbit, rabbitmq_node: RabbitControl, broker: RabbitBroker
) -> None:
    found = found_by(broker)
    async with broker.subscribe(WORK, prefetch=10) as subscription:
        vhost = rabbitmq.url.rpartition("/")[2]
        await asyncio.to_thread(
            rabbitmq_node.evaluate,
            "[ra:process_command(amqqueue:get_pid(Q), "
            "rabbit_fifo:make_checkout({element(2, C), element(1, C)}, cancel, #{})) "
            f'|| Q <- rabbit_amqqueue:list(<<"{vhost}">>), C <- rabbit_amqqueue:consumers(Q)]',
        )
        await eventually(lambda: Lost.CONSUMER in found)
        await arrives(broker, subscription, "work.again")


async def test_a_deleted_binding_is_restored(
    broker: RabbitBroker, admin: aio_pika.abc.AbstractChannel
) -> None:
    async with broker.subscribe(WORK, prefetch=10) as subscription:
        queue = await admin.get_queue(WORK.name, ensure=False)
        await queue.unbind(TOPICS.name, "work.#")
        await arrives(broker, subscription, "work.again")


async def test_an_inbox_deleted_by_the_broker_is_recreated(
    rabbitmq: Rabbit, rabbitmq_node: RabbitControl, broker: RabbitBroker
) -> None:
    rebuilt = Rebuilt(broker)
    async with broker.subscribe(INBOX, prefetch=10) as subscription:
        vhost = rabbitmq.url.rpartition("/")[2]
        await asyncio.to_thread(
            rabbitmq_node.evaluate,
            f'[rabbit_amqqueue:delete(Q, false, false, <<"test">>) || Q <- rabbit_amqqueue:list(<<"{vhost}">>), '
            "amqqueue:get_exclusive_owner(Q) =/= none]",
        )
        await arrives(broker, subscription, "push.again")
    assert rebuilt.count == 1


async def test_a_queue_with_other_arguments_is_retried_until_it_is_deleted(
    broker: RabbitBroker, admin: aio_pika.abc.AbstractChannel
) -> None:
    def complaints() -> list[str]:
        return [str(line["error"]) for line in logs if line["event"] == "topology_differs"]

    async with broker.subscribe(WORK, prefetch=10) as subscription:
        with capture_logs() as logs:
            await admin.queue_delete(WORK.name)
            await admin.declare_queue(WORK.name, durable=True)  # a classic one, before we are back
            await eventually(lambda: len(complaints()) >= 2)
            assert not is_ready(broker)
            assert "inequivalent arg" in complaints()[0]
            assert WORK.name in complaints()[0]
        await admin.queue_delete(WORK.name)
        await arrives(broker, subscription, "work.again")


async def test_a_forbidden_publish_fails_alone(
    rabbitmq: Rabbit, rabbitmq_node: RabbitControl, proxy: Proxy, broker: RabbitBroker
) -> None:
    vhost = rabbitmq.url.rpartition("/")[2]

    async def allow(write: str) -> None:
        await asyncio.to_thread(
            rabbitmq_node.evaluate,
            f'rabbit_auth_backend_internal:set_permissions(<<"{rabbitmq_node.user}">>, <<"{vhost}">>, '
            f'<<".*">>, <<"{write}">>, <<".*">>, <<"test">>)',
        )

    await allow("^(?!test.topics).*")
    with pytest.raises(BrokerError, match=TOPICS.name) as refused:
        await broker.publish(TOPICS.name, "work", HELLO)
    assert not isinstance(refused.value, PublishUnconfirmed)
    await broker.publish("", WORK.name, HELLO)
    await allow(".*")
    await broker.publish(TOPICS.name, "work", HELLO, mandatory=True)
    assert (is_ready(broker), proxy.accepted) == (True, 2)
