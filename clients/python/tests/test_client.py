"""The client and a real gateway."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from towpath.client import Client, Envelope, Incomplete, Retry, TowpathError, connect, key_of
from towpath.protocol.envelope import make
from towpath.protocol.routes import EVERYONE, user_key
from towpath.servicekit.broker.memory import MemoryHub
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import Backend, GatewayUnderTest, a_backend, a_gateway
from towpath.testkit.tokens import a_token

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    async with a_gateway() as gateway:
        yield gateway


@pytest.fixture
async def backend(gateway: GatewayUnderTest) -> AsyncIterator[Backend]:
    async with a_backend(gateway.hub) as backend:
        yield backend


@pytest.fixture
async def client(gateway: GatewayUnderTest, backend: Backend) -> AsyncIterator[Client]:
    async with connect(gateway.url, token=lambda: a_token("ana")) as client:
        yield client


async def the_commands(backend: Backend, count: int) -> AsyncIterator[dict[str, Any]]:
    """The next ``count`` commands, in whatever batches they come."""
    while count:
        for command in await backend.commands():
            count -= 1
            yield command


async def answer(backend: Backend, command: dict[str, Any], data: dict[str, Any]) -> None:
    asked = command["envelope"]
    told = make(f"{asked['action']}.ok", data, correlation_id=asked["msg_id"])
    await backend.direct(command["session"], envelope=told.model_dump(exclude_none=True))


@contextlib.asynccontextmanager
async def answering(backend: Backend, count: int = 1) -> AsyncIterator[None]:
    """The next ``count`` commands are answered with what they hold."""

    async def echo() -> None:
        async for command in the_commands(backend, count):
            await answer(backend, command, command["envelope"]["data"])

    task = asyncio.create_task(echo())
    try:
        yield
        await task
    finally:
        task.cancel()


async def push(backend: Backend, *seqs: int, key: str = user_key("ana")) -> None:
    for seq in seqs:
        envelope = make("echo.said", {"n": seq}, stream="echo:lobby", seq=seq)
        await backend.push(key, envelope.model_dump(exclude_none=True))


# Requests


async def test_a_request_gets_its_answer(client: Client, backend: Backend) -> None:
    async with answering(backend):
        assert await client.request("echo.say", {"text": "hello"}) == {"text": "hello"}


async def test_many_requests_may_be_in_flight(client: Client, backend: Backend) -> None:
    async with answering(backend, 50):
        answers = await asyncio.gather(*(client.request("echo.say", {"n": n}) for n in range(50)))
    assert answers == [{"n": n} for n in range(50)]


async def test_the_envelope_has_the_options_of_the_request(client: Client, backend: Backend) -> None:
    asked = asyncio.create_task(
        client.request("echo.say", {"n": 1}, key="lobby", msg_id="m-1", on_accepted=lambda: None)
    )
    command, _ = await backend.command()
    envelope = command["envelope"]
    assert envelope.pop("timestamp") > 0
    assert envelope.pop("traceparent")  # the gateway's
    assert envelope == {
        "msg_id": "m-1",
        "action": "echo.say",
        "data": {"n": 1},
        "version": "1.0",
        "key": "lobby",
        "ack": True,
    }
    await answer(backend, command, {"done": True})
    assert await asked == {"done": True}


async def test_accepted_is_called_before_the_answer(client: Client, backend: Backend) -> None:
    accepted = asyncio.Event()
    asked = asyncio.create_task(client.request("echo.say", on_accepted=accepted.set))
    async with asyncio.timeout(10):
        await accepted.wait()
    assert not asked.done()
    await backend.answer()
    assert await asked == {}


class Said(BaseModel):
    model_config = ConfigDict(strict=True)

    amount: Decimal
    day: date
    at: datetime


async def test_models_are_sent_and_returned(client: Client, backend: Backend) -> None:
    said = Said(amount=Decimal("9.90"), day=date(2026, 1, 2), at=datetime(2026, 1, 2, 3, tzinfo=UTC))
    async with answering(backend):
        assert await client.request("echo.say", said, into=Said) == said


async def test_data_may_contain_types_that_json_lacks(client: Client, backend: Backend) -> None:
    async with answering(backend):
        answer = await client.request("echo.say", {"amount": Decimal("9.90"), "day": date(2026, 1, 2)})
    assert answer == {"amount": "9.90", "day": "2026-01-02"}


async def test_an_answer_that_does_not_fit_its_model_names_the_field(
    client: Client, backend: Backend
) -> None:
    async with answering(backend):
        with pytest.raises(
            TowpathError, match=r"The answer to echo.say does not fit Said .* amount"
        ) as raised:
            await client.request("echo.say", {"amount": "much"}, into=Said)
    assert raised.value.code == "bad_frame"
    assert raised.value.details is not None
    assert {"field": "day", "problem": "Field required"} in raised.value.details["fields"]


async def test_an_error_is_raised_with_all_its_fields(client: Client) -> None:
    with pytest.raises(TowpathError) as raised:
        await client.request("nobody.home", msg_id="m-1")
    error = raised.value
    assert (error.code, error.retryable, error.msg_id) == ("unknown_action", False, "m-1")
    assert str(error) == f"{error.message} (unknown_action)"


async def test_data_that_json_cannot_represent_is_refused_by_the_client(client: Client) -> None:
    circle: dict[str, Any] = {}
    circle["itself"] = circle
    for data in ({"no": object()}, circle, {"text": "\ud800"}, {"big": {1, object()}}):
        with pytest.raises(TowpathError, match="JSON cannot hold this data") as raised:
            await client.request("echo.say", data)
        assert (raised.value.code, raised.value.details) == ("invalid_data", {"sent": False})


async def test_an_id_or_key_with_other_letters_is_refused_here(client: Client) -> None:
    for options in ({"key": "the lobby"}, {"msg_id": ""}, {"msg_id": "x" * 65}, {"key": 7}):
        with pytest.raises(TowpathError, match="it takes 1 to 64") as raised:
            await client.request("echo.say", **options)
        assert raised.value.code == "bad_envelope"
    assert key_of("the lobby") == "crc32:9cacf9e7"
    assert key_of("lobby") == "lobby"


async def test_a_msg_id_in_flight_is_refused(client: Client, backend: Backend) -> None:
    first = asyncio.create_task(client.request("echo.say", msg_id="m-1"))
    await asyncio.sleep(0)
    with pytest.raises(TowpathError, match="m-1 is under way") as raised:
        await client.request("echo.say", msg_id="m-1")
    assert raised.value.code == "conflict"
    await backend.answer()
    assert await first == {}


async def test_a_request_without_an_answer_in_time_has_an_unknown_outcome(
    client: Client, backend: Backend
) -> None:
    with pytest.raises(TowpathError, match="Whether it was done is unknown") as raised:
        await client.request("echo.say", timeout=0.05)
    assert (raised.value.code, raised.value.retryable, raised.value.details) == ("timeout", True, None)


async def test_cancelling_the_task_cancels_the_request(client: Client, backend: Backend) -> None:
    asked = asyncio.create_task(client.request("echo.say", msg_id="m-1"))
    command, _ = await backend.command()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    again = asyncio.create_task(client.request("echo.say", msg_id="m-1"))
    await backend.command()
    await answer(backend, command, {})
    assert await again == {}


# Pushes


async def test_a_listener_gets_pushes_of_its_action_with_their_envelope(
    client: Client, backend: Backend
) -> None:
    heard: list[tuple[str, int]] = []
    everything: list[str] = []

    @client.on("echo.said")
    def said(data: dict[str, Any], envelope: Envelope) -> None:
        heard.append((envelope["stream"], data["n"]))

    client.on("*", lambda data, envelope: everything.append(envelope["action"]))
    client.on("echo.other", lambda: heard.append(("never", 0)))
    await push(backend, 4, 5)
    await eventually(lambda: heard == [("echo:lobby", 4), ("echo:lobby", 5)])
    assert everything == ["echo.said", "echo.said"]
    assert client.positions == {"echo:lobby": 5}
    assert callable(said)


async def test_a_removed_listener_is_not_called(client: Client, backend: Backend) -> None:
    gone: list[Any] = []
    stays: list[Any] = []
    off = client.on("echo.said", gone.append)
    client.on("echo.said", stays.append)
    off()
    off()
    await push(backend, 1)
    await eventually(lambda: stays == [{"n": 1}])
    assert gone == []


async def test_a_listener_that_raises_does_not_stop_the_others(client: Client, backend: Backend) -> None:
    heard: list[Any] = []
    errors: list[BaseException] = []

    async def fail_later(data: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        raise ValueError("later")

    client.on("echo.said", lambda: 1 / 0)
    client.on("echo.said", fail_later)
    client.on("echo.said", heard.append)
    client.on_error(lambda: 1 / 0)
    client.on_error(errors.append)
    await push(backend, 1)
    await eventually(lambda: len(errors) == 2)
    assert [type(error) for error in errors] == [ZeroDivisionError, ValueError]
    assert heard == [{"n": 1}]


async def test_a_push_without_a_listener_is_logged(
    client: Client, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    client.on("echo.said", lambda: 1 / 0)
    await push(backend, 1)
    await eventually(lambda: caplog.records)
    (record,) = caplog.records
    assert (record.name, record.levelno, record.message) == (
        "towpath.client",
        logging.ERROR,
        "division by zero",
    )


async def test_coroutine_listeners_run_side_by_side(client: Client, backend: Backend) -> None:
    begun: list[int] = []
    ended: list[int] = []
    go_on = asyncio.Event()

    @client.on("echo.said")
    async def said(data: dict[str, Any]) -> None:
        begun.append(data["n"])
        await go_on.wait()
        ended.append(data["n"])

    await push(backend, 1, 2)
    await eventually(lambda: begun == [1, 2])
    assert ended == []
    go_on.set()
    await eventually(lambda: ended == [1, 2])


async def test_a_listener_may_ask_and_close(gateway: GatewayUnderTest, backend: Backend) -> None:
    async with connect(gateway.url, token=a_token("ana")) as client:
        answers: list[Any] = []

        @client.on("echo.said")
        async def said(data: dict[str, Any]) -> None:
            answers.append(await client.request("echo.say", data))
            await client.close()
            answers.append(client.state)

        await push(backend, 1)
        await backend.answer()
        await eventually(lambda: answers == [{"n": 1}, "closed"])


def test_a_listener_that_cannot_be_called_is_refused_at_once() -> None:
    client = connect("ws://127.0.0.1/ws", token="t")
    with pytest.raises(TypeError, match=r"is called with \(data, envelope\)"):
        client.on("echo.said", lambda data, envelope, more: None)
    with pytest.raises(TypeError, match=r"is called with \(error\)"):
        client.on_error(lambda error, more: None)
    client.on("echo.said", lambda *everything: None)
    client.on("echo.said", print)


# Connections


async def test_connection_has_the_fields_of_the_welcome(client: Client) -> None:
    assert client.state == "open"
    assert client.connection is not None
    assert client.connection["user_id"] == "ana"
    assert await client.opened() == client.connection


async def test_clients_leave_a_stopping_gateway_without_a_gap() -> None:
    hub = MemoryHub()
    async with a_backend(hub) as backend, a_gateway(hub, retry_after=0.1) as first, a_gateway(hub) as second:
        states: list[str] = []
        retries: list[Retry] = []
        heard: list[int] = []
        async with connect([first.url, second.url], token=lambda: a_token("ana")) as client:
            assert client.connection is not None
            left = client.connection["gateway_id"]
            client.on_state(states.append)
            client.on("retry", retries.append)
            client.on("echo.said", lambda data: heard.append(data["n"]))
            await push(backend, 1, 2)
            await eventually(lambda: heard == [1, 2])
            first.drain()
            await eventually(lambda: client.state == "recovering")
            waits = asyncio.create_task(client.request("echo.say", {"n": 0}))
            commands = [command async for command in the_commands(backend, 2)]
            assert [command["envelope"]["action"] for command in commands] == ["echo.resume", "echo.say"]
            resumed, asked = commands
            assert resumed["envelope"]["data"] == {"positions": {"echo:lobby": 2}}
            await push(backend, 3, 4)
            await answer(backend, resumed, {"streams": {"echo:lobby": {"seq": 4, "complete": True}}})
            await answer(backend, asked, {"n": 0})
            assert await waits == {"n": 0}
            assert heard == [1, 2, 3, 4]
            assert states == ["recovering", "open"]
            assert retries[0].attempt == 1
            assert retries[0].delay >= 0.1
            assert client.connection["gateway_id"] != left


async def test_a_token_is_renewed_before_it_expires(backend: Backend, gateway: GatewayUnderTest) -> None:
    given: list[float] = []

    def token() -> str:
        given.append(5.0 if not given else 3600.0)
        return a_token("ana", expires_in=given[-1])

    async with connect(gateway.url, token=token) as client:
        await eventually(lambda: given == [5.0, 3600.0])
        async with answering(backend):
            assert await client.request("echo.say") == {}
        assert client.state == "open"


async def test_a_gap_that_cannot_be_filled_is_reported(client: Client, backend: Backend) -> None:
    told: list[Incomplete] = []
    client.on("incomplete", told.append)
    await push(backend, 1, 90)
    resumed, _ = await backend.command()
    await answer(backend, resumed, {"streams": {"echo:lobby": {"seq": 90, "complete": False}}})
    await eventually(lambda: told == [Incomplete("echo:lobby", 90)])
    assert client.positions == {"echo:lobby": 90}


async def test_a_stream_is_opened_by_the_request_that_joins_it(client: Client, backend: Backend) -> None:
    heard: list[int] = []
    client.on("echo.said", lambda data: heard.append(data["n"]))
    joined = asyncio.create_task(client.request("echo.join", {}, stream="echo:lobby"))
    command, _ = await backend.command()
    await push(backend, 4, 5, 6)
    await answer(backend, command, {"seq": 4})
    assert await joined == {"seq": 4}
    await eventually(lambda: heard == [5, 6])
    assert client.positions == {"echo:lobby": 6}


async def test_a_tracked_stream_is_resumed_and_a_forgotten_one_is_not(
    client: Client, backend: Backend
) -> None:
    client.track("echo:lobby", 3)
    client.track("echo:den", 1)
    client.forget("echo:den")
    client.resume("echo")
    command, _ = await backend.command()
    assert command["envelope"]["data"] == {"positions": {"echo:lobby": 3}}
    for seq in (-1, 1.5, "1", None):
        with pytest.raises(ValueError, match="is not a position of echo:lobby"):
            client.track("echo:lobby", seq)  # type: ignore[arg-type]


async def test_a_client_may_be_started_without_waiting(gateway: GatewayUnderTest, backend: Backend) -> None:
    client = connect(gateway.url, token=a_token("ana"))
    client.start()
    client.start()
    async with answering(backend):
        assert await client.request("echo.say", {"n": 1}) == {"n": 1}
    await client.close()
    await client.close()
    assert client.state == "closed"


async def test_hundreds_of_clients_live_in_one_process(gateway: GatewayUnderTest, backend: Backend) -> None:
    heard: list[int] = []
    async with contextlib.AsyncExitStack() as stack:
        clients = [connect(gateway.url, token=a_token(f"user-{n}")) for n in range(200)]
        for client in clients:
            client.on("echo.said", lambda data: heard.append(data["n"]))
            client.start()
            stack.push_async_callback(client.close)
        await asyncio.gather(*(client.opened() for client in clients))
        await push(backend, 1, 2, key=EVERYONE)
        await eventually(lambda: sorted(heard) == [1] * 200 + [2] * 200)
