"""Both client SDKs against real gateways, services and RabbitMQ, while everything around them breaks.

The clients run in processes of their own, see :mod:`towpath.testkit.client_process`. All tests share RabbitMQ, chat,
orders and two gateways; who breaks a gateway launches one for it.
"""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from towpath.testkit.client import WireClient
from towpath.testkit.client_process import ClientProcess, NoToken, RequestFailed
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.system import System, url_of
from towpath.testkit.tokens import a_token

pytestmark = pytest.mark.asyncio(loop_scope="module")

GONE = 1006  # a connection that ended without a close frame, or never came about
CLOCKS_DIFFER = 0.02  # seconds: timers round

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def processes(shared_processes: Processes) -> Processes:
    return shared_processes


@pytest.fixture(scope="module")
def system(shared_system: System, processes: Processes) -> System:
    return shared_system


class Stage:
    """One test's part of the system: a room and people that no other test has.

    Attributes:
        urls: Of the two gateways that no test harms.
        language: Of the client.
    """

    def __init__(self, system: System, drivers: dict[str, list[str]], language: str) -> None:
        number = next(_numbers)
        self.system = system
        self.urls = system.urls
        self.room = f"room-{number}"
        self.stream = f"chat:{self.room}"
        self.ana, self.ben = f"ana-{number}", f"ben-{number}"
        self.language = language
        self._drivers = drivers
        self._joined: dict[ClientProcess, int] = {}

    async def gateway(self, **settings: Any) -> Process:
        """A gateway that this test may harm."""
        gateway = self.system.launch_gateway(**settings)
        await gateway.ready()
        return gateway

    @asynccontextmanager
    async def client(
        self,
        user: str,
        urls: list[str],
        *,
        token: Callable[[], str] | None = None,
        language: str | None = None,
        **options: Any,
    ) -> AsyncIterator[ClientProcess]:
        """A client of ``user``, as far as it has come by itself."""
        command = self._drivers[language or self.language]
        async with ClientProcess.start(command, token=token or (lambda: a_token(user))) as client:
            await client.connect(urls, **options)
            yield client

    @asynccontextmanager
    async def in_the_room(self, user: str, urls: list[str], **options: Any) -> AsyncIterator[ClientProcess]:
        """A client of ``user`` that is open and has joined the room."""
        async with self.client(user, urls, **options) as client:
            await self.join(client)
            yield client

    async def join(self, client: ClientProcess) -> None:
        answer = await client.request("chat.join", {"room": self.room}, key=self.room, stream=self.stream)
        self._joined[client] = answer["seq"]

    @asynccontextmanager
    async def speaker(self) -> AsyncIterator["Speaker"]:
        """Ben, on a gateway without faults."""
        async with WireClient.connect(self.urls[0], token=a_token(self.ben)) as wire:
            answer = await wire.request("chat.join", {"room": self.room}, key=self.room)
            assert answer["action"] == "chat.join.ok", answer
            yield Speaker(wire, self.room)

    def texts(self, client: ClientProcess) -> list[str]:
        """The pushes of the room since a client joined: without a gap and without duplicates."""
        pushes, first = client.pushes(self.stream), self._joined[client] + 1
        assert [push["seq"] for push in pushes] == list(range(first, first + len(pushes)))
        return [push["data"]["text"] for push in pushes if push["action"] == "chat.message"]

    async def heard(self, client: ClientProcess, texts: list[str], *, timeout: float = 30.0) -> None:
        """Wait until a client has received exactly these texts, in this order."""
        await eventually(lambda: len(self.texts(client)) >= len(texts), timeout=timeout)
        assert self.texts(client) == texts


class Speaker:
    """Says numbered things in a room and keeps them.

    Attributes:
        said: All that was said.
    """

    def __init__(self, wire: WireClient, room: str) -> None:
        self.said: list[str] = []
        self._wire = wire
        self._room = room

    async def says(self, *texts: str) -> None:
        """Say all of them at once, in this order."""
        self.said += texts
        asked = [
            await self._wire.send("chat.send", {"room": self._room, "text": text}, key=self._room)
            for text in texts
        ]
        for msg_id in asked:
            answer = await self._wire.answer(msg_id, timeout=30)
            assert answer["action"] == "chat.send.ok", answer

    async def insists(self, text: str) -> None:
        """Say one thing, again while RabbitMQ is away."""
        msg_id = f"insisting-{next(_numbers)}"

        async def is_said() -> bool:
            before = len(self._wire.frames)
            data = {"room": self._room, "text": text}
            await self._wire.send("chat.send", data, key=self._room, msg_id=msg_id)
            answer = await self._wire.find(
                lambda frame: frame.get("correlation_id") == msg_id and frame in self._wire.frames[before:]
            )
            return bool(answer["action"] == "chat.send.ok")

        await eventually(is_said, timeout=30)
        self.said.append(text)

    @asynccontextmanager
    async def talking(self) -> AsyncIterator[None]:
        """Say one thing after the other from entry to exit."""
        silence = asyncio.Event()

        async def talk() -> None:
            while not silence.is_set():
                await self.says(f"word {len(self.said)}")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(talk())
            try:
                yield
            finally:
                silence.set()


async def publish_as_another_backend(amqp_url: str, event: str, **data: Any) -> None:
    """Publish an event by plain AMQP, as a backend without any Towpath library would."""
    envelope = {
        "msg_id": f"event-{next(_numbers)}", "timestamp": 0, "action": event, "data": data, "version": "1.0",
    }  # fmt: skip
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("towpath.events", ensure=False)
        message = aio_pika.Message(
            json.dumps(envelope).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT
        )
        await exchange.publish(message, routing_key=event)


@pytest.fixture(params=["javascript", "python"])
def stage(request: pytest.FixtureRequest, system: System, drivers: dict[str, list[str]]) -> Stage:
    """The test runs with the JavaScript client, and again with the Python one."""
    return Stage(system, drivers, request.param)


# -- everyday


async def test_users_with_either_client_chat_on_two_replicas_and_see_the_same(
    system: System, drivers: dict[str, list[str]]
) -> None:
    stage = Stage(system, drivers, "")
    async with (
        stage.in_the_room(stage.ana, stage.urls[:1], language="javascript") as ana,
        stage.in_the_room(stage.ben, stage.urls[1:], language="python") as ben,
    ):
        people = {"ana": ana, "ben": ben}
        sent = {
            name: [
                client.ask("chat.send", {"room": stage.room, "text": f"{name} {n}"}, key=stage.room)
                for n in range(50)
            ]
            for name, client in people.items()
        }
        for name, client in people.items():
            for handle in sent[name]:
                await client.answer(handle)
        await eventually(lambda: len(stage.texts(ana)) == len(stage.texts(ben)) == 100)
        assert stage.texts(ana) == stage.texts(ben)
        for name in people:  # and each in the order it was said
            assert [t for t in stage.texts(ana) if t.startswith(name)] == [f"{name} {n}" for n in range(50)]


async def test_an_order_is_answered_and_an_event_of_another_backend_shows_up_in_its_stream(
    stage: Stage,
) -> None:
    orders = f"order:{stage.ana}"
    async with stage.client(stage.ana, stage.urls) as ana:
        await ana.opened()
        ana.stream(orders)
        answer = await ana.request("order.submit", {"order_id": f"O-{stage.ana}", "amount": 99.9})
        assert (answer["status"], answer["revision"], answer["amount"]) == ("submitted", 1, "99.90")
        for event in ("order.paid", "order.shipped"):
            await publish_as_another_backend(
                stage.system.rabbitmq.url, event, order_id=f"O-{stage.ana}", user_id=stage.ana
            )
        await eventually(lambda: len(ana.streamed(orders)) == 3)
        for pushes in (ana.streamed(orders), ana.pushes(orders)):
            assert [push["data"]["status"] for push in pushes] == ["submitted", "paid", "shipped"]
            assert [push["seq"] for push in pushes] == [1, 2, 3]
        with pytest.raises(RequestFailed) as refused:
            await ana.request("order.cancel", {"order_id": f"O-{stage.ana}"})
        assert (refused.value.code, refused.value.retryable) == ("conflict", False)


# -- gateways that go


async def test_a_killed_gateway_loses_no_message_sent_meanwhile(stage: Stage) -> None:
    victim = await stage.gateway()
    async with stage.in_the_room(stage.ana, [url_of(victim), *stage.urls]) as ana, stage.speaker() as ben:
        async with ben.talking():
            await eventually(lambda: len(stage.texts(ana)) > 20)
            await victim.kill()
            await ana.reopened()
        await stage.heard(ana, ben.said)
        assert ana.states == ["open", "recovering", "open"]
        assert ana.gateways[0] != ana.gateways[1]
        assert ana.told("incomplete") == []


async def test_a_view_has_everything_once_though_its_gateway_is_killed_while_it_loads_and_again_later(
    stage: Stage,
) -> None:
    first, second = await stage.gateway(), await stage.gateway()

    def viewed() -> list[str]:
        """The texts of the view: its state and its changes."""
        reset, changes = ana.viewed(stage.stream)
        messages = [
            *reset["state"]["messages"],
            *(push["data"] for push in changes if "text" in push["data"]),
        ]
        assert len({message["seq"] for message in messages}) == len(messages)
        return [message["text"] for message in messages]

    async with (
        stage.client(stage.ana, [url_of(first), url_of(second), *stage.urls]) as ana,
        stage.speaker() as ben,
    ):
        await ana.request("chat.join", {"room": stage.room}, key=stage.room)
        await ben.says("before")
        first.pause()  # the load leaves, and is not answered
        ana.view(stage.stream, "chat.history", {"room": stage.room, "limit": 200})
        await ana.event("load")
        async with ben.talking():
            await first.kill()
            await ana.event("reset")
            assert ana.gateways[1] != ana.gateways[0]
            seen = len(ana.viewed(stage.stream)[1])
            await eventually(lambda: len(ana.viewed(stage.stream)[1]) > seen + 10)
            await second.kill()
            await ana.reopened(times=3)
        await eventually(lambda: viewed()[-1:] == ben.said[-1:])
        assert viewed() == ben.said[-len(viewed()) :]
        assert ana.told("reset") == [ana.viewed(stage.stream)[0]], "one state is enough"


async def test_a_view_of_orders_shows_what_other_backends_do(stage: Stage) -> None:
    orders = f"order:{stage.ana}"
    async with stage.client(stage.ana, stage.urls) as ana:
        await ana.opened()
        await ana.request("order.submit", {"order_id": f"O-{stage.ana}", "amount": 99.9})
        ana.view(orders, "order.list", {})
        reset = await ana.event("reset")
        assert [order["status"] for order in reset["state"]["orders"]] == ["submitted"]
        assert reset["seq"] == reset["state"]["seq"] == 1
        for event in ("order.paid", "order.shipped"):
            await publish_as_another_backend(
                stage.system.rabbitmq.url, event, order_id=f"O-{stage.ana}", user_id=stage.ana
            )
        await eventually(lambda: len(ana.viewed(orders)[1]) == 2)
        assert [push["data"]["status"] for push in ana.viewed(orders)[1]] == ["paid", "shipped"]


async def test_a_view_of_a_stream_that_is_not_the_users_ends_with_forbidden(stage: Stage) -> None:
    async with stage.client(stage.ana, stage.urls) as ana:
        await ana.opened()
        with pytest.raises(RequestFailed, match=f"The service does not send order:{stage.ben}") as ended:
            await ana.answer(ana.view(f"order:{stage.ben}", "order.list", {}))
        assert ended.value.code == "forbidden"


async def test_a_request_whose_gateway_is_killed_is_answered_once_and_has_one_effect(stage: Stage) -> None:
    victim = await stage.gateway()
    async with stage.client(stage.ana, [url_of(victim), *stage.urls]) as ana:
        await ana.opened()
        stage.system.orders.pause()
        try:
            handle = ana.ask("order.submit", {"amount": 5}, ack=True)
            await ana.accepted(handle)
            await victim.kill()
            await ana.reopened()
        finally:
            stage.system.orders.resume()
        answer = await ana.answer(handle)
        listed = await ana.request("order.list")
        assert [order["order_id"] for order in listed["orders"]] == [answer["order_id"]]
        assert len(ana.outcomes(handle)) == 1
        await eventually(lambda: ana.pushes(f"order:{stage.ana}"))
        assert [push["seq"] for push in ana.pushes(f"order:{stage.ana}")] == [1]


async def test_clients_leave_a_stopping_replica_after_the_advised_time(stage: Stage) -> None:
    victim = await stage.gateway(retry_after=1.5, retry_spread=0)
    async with stage.in_the_room(stage.ana, [url_of(victim), *stage.urls]) as ana, stage.speaker() as ben:
        assert await victim.terminate() == 0
        await ben.says("while you were away")
        await stage.heard(ana, ["while you were away"])
        [retry] = ana.told("retry")
        assert retry["code"] == 1012
        back = await ana.reopened()
        assert back["at"] - retry["at"] >= retry["delay"] - CLOCKS_DIFFER >= 1.5 - CLOCKS_DIFFER
        assert ana.gateways[0] != ana.gateways[1]


async def test_clients_leave_a_gateway_that_hangs(stage: Stage) -> None:
    victim = await stage.gateway(heartbeat=0.5)
    async with stage.in_the_room(stage.ana, [url_of(victim), *stage.urls]) as ana, stage.speaker() as ben:
        victim.pause()
        await ben.says("are you there?")
        await stage.heard(ana, ben.said)
        assert [retry["code"] for retry in ana.told("retry")] == [4002]
        assert ana.gateways[0] != ana.gateways[1]
        await victim.kill()  # Node's own WebSocket waits for a goodbye, and the process for that


async def test_requests_without_a_gateway_are_handled_in_order_and_once_when_one_starts(
    stage: Stage,
) -> None:
    port = free_port()
    async with stage.client(stage.ana, [f"ws://127.0.0.1:{port}/ws"], queue_limit=5) as ana:
        await ana.event("retry")
        waiting = [
            ana.ask("order.submit", {"order_id": f"O{n}-{stage.ana}", "amount": n}) for n in range(1, 6)
        ]
        with pytest.raises(RequestFailed) as refused:
            await ana.request("order.submit", {"order_id": "one too many", "amount": 6})
        assert refused.value.code == "queue_full"
        assert refused.value.details["sent"] is False
        assert ana.gateways == []
        gateway = await stage.gateway(port=port)
        orders = [(await ana.answer(handle))["order_id"] for handle in waiting]
        assert orders == [f"O{n}-{stage.ana}" for n in range(1, 6)]
        await eventually(lambda: len(ana.pushes(f"order:{stage.ana}")) == 5)
        pushes = ana.pushes(f"order:{stage.ana}")
        assert [(push["seq"], push["data"]["order_id"]) for push in pushes] == list(enumerate(orders, 1))
        listed = await ana.request("order.list")
        assert [order["order_id"] for order in listed["orders"]] == orders[::-1]
    assert await gateway.terminate() == 0


# -- RabbitMQ restarts


async def test_over_a_restart_of_the_broker_answers_are_correct_and_no_accepted_message_is_lost(
    stage: Stage,
) -> None:
    hanging = await stage.gateway()
    async with (
        stage.in_the_room(stage.ana, [url_of(hanging)]) as ana,
        stage.client(stage.ben, stage.urls[1:]) as ben,
        stage.speaker() as speaker,
    ):
        await ben.opened()
        stage.system.orders.pause()
        try:
            accepted = [ben.ask("order.submit", {"amount": n}, ack=True) for n in range(1, 6)]
            for handle in accepted:
                await ben.accepted(handle)
            # A gateway that hangs meanwhile loses its inbox, and what is pushed to it then.
            hanging.pause()
            await stage.system.rabbitmq.stop()
        finally:
            stage.system.orders.resume()

        async def is_unavailable() -> bool:
            handle = ben.ask("order.list", timeout=60)
            outcome = await ben.outcome(handle)
            if outcome["event"] == "answer":
                return False  # RabbitMQ took it before it stopped
            assert (outcome["error"]["code"], outcome["error"]["retryable"]) == ("unavailable", True)
            return True

        await eventually(is_unavailable, timeout=30)
        await stage.system.rabbitmq.start()
        await speaker.insists("who hears me?")
        hanging.resume()
        for handle in accepted:
            assert (await ben.answer(handle))["status"] == "submitted"
        listed = await ben.request("order.list")
        assert len(listed["orders"]) == len(accepted)
        await stage.heard(ana, speaker.said)
        assert "session.resync" in [event["envelope"]["action"] for event in ana.told("push")]
        assert ana.states == ben.states == ["open"]  # the connections to the gateways held


# -- tokens


async def test_a_token_is_refreshed_before_it_expires_without_a_new_connection(stage: Stage) -> None:
    gateway = await stage.gateway(expiry_notice=5.0)
    lasting = 6.0
    begun = time.monotonic()
    async with stage.client(
        stage.ana, [url_of(gateway)], token=lambda: a_token(stage.ana, expires_in=lasting)
    ) as ana:
        await ana.opened()
        await eventually(lambda: time.monotonic() > begun + lasting + 1)
        await ana.request("order.list")
        assert len(ana.told("token")) > 3
        assert ana.states == ["open"]
        assert ana.told("retry") == ana.told("error") == []
    assert await gateway.terminate() == 0


async def test_expired_tokens_are_fetched_again_until_one_is_valid(stage: Stage) -> None:
    gateway = await stage.gateway(expiry_notice=1.0)
    lasting = -60.0
    async with (
        stage.client(
            stage.ana, [url_of(gateway)], token=lambda: a_token(stage.ana, expires_in=lasting)
        ) as ana,
        stage.speaker() as ben,
    ):
        refused = await ana.event("retry")  # HTTP 401
        lasting = 3.0
        await ana.opened()
        lasting = -60.0
        await stage.join(ana)
        expired = await ana.event("retry", lambda event: event["code"] == 4003)
        await ben.says("while you were locked out")
        refused_again = await ana.event("retry", lambda event: event["at"] > expired["at"])
        lasting = 3600.0
        await stage.heard(ana, ben.said)
        assert refused["code"] == refused_again["code"] == GONE
        assert ana.states == ["open", "recovering", "open"]
        codes = {event["error"]["code"] for event in ana.told("error")}
        assert "unauthorized" in codes  # session.refresh with a token that had expired
        assert codes <= {"unauthorized", "refused"}
        refusals = [event for event in ana.told("error") if event["error"]["code"] == "refused"]
        assert {event["error"]["details"]["status"] for event in refusals} <= {401}
    assert await gateway.terminate() == 0


async def test_a_failed_token_callback_is_called_again(stage: Stage) -> None:
    asked = 0

    def token() -> str:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise NoToken("the accounts are closed")
        return a_token(stage.ana)

    async with stage.client(stage.ana, stage.urls, token=token) as ana:
        await ana.opened()
        [error] = ana.told("error")
        assert error["error"]["code"] == "no_token"
        assert "the accounts are closed" in error["error"]["message"]


# -- clients that are slow, away, or too many


async def test_a_client_that_does_not_read_is_cut_off_and_resumes_without_a_hole(stage: Stage) -> None:
    gateway = await stage.gateway(send_buffer_bytes=256 * 1024, close_timeout=30)
    long = "≋" * 3990  # 12 kB
    async with stage.in_the_room(stage.ana, [url_of(gateway)]) as ana, stage.speaker() as ben:
        ana.pause()
        # The kernel keeps some megabytes for her before the gateway has to.
        while "slow_consumer" not in gateway.output:
            assert len(ben.said) < 5000
            await ben.says(*[f"{len(ben.said) + n} {long}" for n in range(50)])
        ana.unpause()
        cut_off = await ana.event("retry")
        await ben.says("are you back?")
        await stage.heard(ana, ben.said)
        assert cut_off["code"] == 4001
        assert ana.told("incomplete") == []
    assert await gateway.terminate() == 0


async def test_one_connection_too_many_closes_the_oldest_for_good_with_the_reason(stage: Stage) -> None:
    gateway = await stage.gateway(max_connections_per_user=1)
    async with stage.client(stage.ana, [url_of(gateway), *stage.urls]) as first:
        await first.opened()
        async with stage.client(stage.ana, [url_of(gateway)]) as second:
            await second.opened()
            closed = await first.event("state", lambda event: event["state"] == "closed")
            assert closed["error"]["code"] == "closed"
            assert closed["error"]["details"]["close_code"] == 4503
            assert "too many connections of this user" in closed["error"]["message"]
            with pytest.raises(RequestFailed, match="closed"):
                await first.request("order.list")
            await second.request("order.list")
            assert first.told("retry") == []
            assert second.states == ["open"]
    assert await gateway.terminate() == 0


async def test_a_client_with_positions_in_a_file_gets_the_missed_entries_after_a_restart(
    stage: Stage, tmp_path: Path
) -> None:
    kept = tmp_path / "positions.json"
    async with stage.speaker() as ben:
        async with stage.in_the_room(stage.ana, stage.urls, storage=str(kept)) as first:
            await ben.says("one", "two")
            await stage.heard(first, ["one", "two"])
        await ben.says("three", "four")
        async with stage.client(stage.ana, stage.urls, storage=str(kept)) as second:
            await eventually(lambda: len(second.pushes(stage.stream)) == 2)
            # This one is killed without a goodbye; its received pushes are kept a moment later nevertheless.
            last = second.pushes(stage.stream)[-1]["seq"]
            await eventually(lambda: str(last) in kept.read_text())
            await second.kill()
        await ben.says("five", "six")
        async with stage.client(stage.ana, stage.urls, storage=str(kept)) as third:
            await eventually(lambda: len(third.pushes(stage.stream)) == 2)
            heard = [client.pushes(stage.stream) for client in (first, second, third)]
        assert [[push["data"]["text"] for push in pushes] for pushes in heard] == [
            ["one", "two"],
            ["three", "four"],
            ["five", "six"],
        ]


# -- addresses and tokens that cannot work


async def test_an_invalid_address_is_refused_at_once(stage: Stage) -> None:
    for urls in (["http//example.org"], ["ftp://example.org/ws"], []):
        with pytest.raises(RequestFailed) as refused:
            async with stage.client(stage.ana, urls):
                pass
        assert refused.value.code == "bad_url"
        assert refused.value.retryable is False


async def test_waiting_for_a_gateway_that_refuses_ends_in_time_with_the_reason(stage: Stage) -> None:
    def forged() -> str:
        return a_token(stage.ana, secret="of another gateway, of 32 bytes or more")

    nobody = f"ws://127.0.0.1:{free_port()}/ws"
    elsewhere = stage.urls[0].removesuffix("/ws") + "/elsewhere"

    async def give_up(url: str, token: Callable[[], str] | None, status: int | None) -> None:
        async with stage.client(stage.ana, [url], token=token) as ana:
            begun = time.monotonic()
            with pytest.raises(RequestFailed) as raised:
                await ana.opened(timeout=4.0)
            assert time.monotonic() - begun < 12
            assert raised.value.code == "timeout"
            assert raised.value.retryable is True
            assert ana.gateways == []
            assert ana.told("retry")
            if stage.language == "python" and status is not None:  # browsers do not reveal it
                assert str(status) in str(raised.value)
                assert {event["error"]["details"]["status"] for event in ana.told("error")} == {status}

    await asyncio.gather(
        give_up(nobody, None, None), give_up(elsewhere, None, 404), give_up(stage.urls[0], forged, 401)
    )
