"""Tokens, cancellation and the end: whatever happens, nothing hangs and nothing is left."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from towpath.client import Client, TowpathError, connect
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import free_port

pytestmark = pytest.mark.usefixtures("nothing_is_left")


async def stay(peer: Any) -> None:
    await peer.welcome()
    await peer.socket.wait_closed()


@pytest.fixture
async def server(a_server: Any) -> AsyncIterator[Any]:
    async with a_server(stay) as server:
        yield server


#: Seconds; less than a close takes that waits for something.
AT_ONCE = 1.9


def quick(seconds: float = 10) -> asyncio.Timeout:
    """Fails what hangs."""
    return asyncio.timeout(seconds)


# Tokens


async def test_a_token_may_be_a_string_or_a_function_of_either_kind(server: Any) -> None:
    async def later() -> str:
        await asyncio.sleep(0)
        return "t-3"

    for token in ("t-1", lambda: "t-2", later, lambda: "t-4\n"):  # as a program prints it
        async with quick(), connect(server.url, token=token):
            pass
    assert [peer.token for peer in server.peers] == ["t-1", "t-2", "t-3", "t-4"]


async def test_a_failed_token_function_is_called_again(server: Any) -> None:
    asked: list[int] = []
    errors: list[Any] = []

    def token() -> str:
        asked.append(1)
        if len(asked) == 1:
            raise OSError("the login page is down")
        return "t"

    client = connect(server.url, token=token)
    client.on_error(errors.append)
    async with quick(), client:
        assert [error.message for error in errors] == ["token() failed: the login page is down"]
        assert errors[0].retryable
        assert isinstance(errors[0].__cause__, OSError)


async def test_a_final_error_of_the_token_function_closes_the_client(server: Any) -> None:
    async def token() -> str:
        raise TowpathError("no_token", "Ana is signed out.")

    with pytest.raises(TowpathError, match="Ana is signed out"):
        async with quick(), connect(server.url, token=token):
            pass


@pytest.mark.parametrize("nonsense", [None, 7, b"t", "", "\n", "a b", "t\r\nX-Evil: 1", "tökén", ["t"]])
async def test_an_invalid_token_closes_the_client(server: Any, nonsense: Any) -> None:
    with pytest.raises(TowpathError, match=r"token\(\) gave .* it has to give a JWT") as raised:
        async with quick(), connect(server.url, token=lambda: nonsense):
            pass
    assert raised.value.code == "no_token"
    assert server.attempts == 0


async def test_a_token_function_that_never_returns_times_out(server: Any) -> None:
    async def token() -> str:
        await asyncio.Event().wait()
        raise AssertionError("it is never set")

    errors: list[Any] = []
    client = connect(server.url, token=token, open_timeout=0.05)
    client.on_error(errors.append)
    client.start()
    await eventually(lambda: errors)
    assert errors[0].message == "token() failed: no answer within 0.05 s"
    with pytest.raises(TowpathError, match=r"the last attempt: token\(\) failed"):
        await client.opened(timeout=0)
    async with quick():
        await client.close()


async def test_a_token_function_that_cancels_itself_has_failed(server: Any) -> None:
    async def token() -> str:
        raise asyncio.CancelledError

    errors: list[Any] = []
    client = connect(server.url, token=token)
    client.on_error(errors.append)
    client.start()
    await eventually(lambda: errors)
    assert errors[0].message == "token() failed: it was cancelled"
    await client.close()


# The end


async def never_welcome(peer: Any) -> None:
    await peer.socket.wait_closed()


async def started(client: Client, reached: Callable[[], object]) -> Client:
    client.on_error(lambda error: None)
    client.start()
    await eventually(reached)
    return client


async def test_a_client_that_was_never_started_can_be_closed(server: Any) -> None:
    client = connect(server.url, token="t")
    await client.close()
    assert client.state == "closed"
    client.start()
    with pytest.raises(TowpathError, match="The client was closed"):
        await client.opened()


async def test_closing_while_the_token_is_fetched(server: Any) -> None:
    asked = asyncio.Event()

    async def token() -> str:
        asked.set()
        await asyncio.Event().wait()
        return "t"

    client = await started(connect(server.url, token=token), asked.is_set)
    async with quick(AT_ONCE):
        await client.close()


async def test_closing_while_the_socket_opens() -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read()
        writer.close()

    came = asyncio.Event()
    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        client = await started(connect(f"ws://127.0.0.1:{port}/ws", token="t"), came.is_set)
        async with quick(AT_ONCE):
            await client.close()


async def test_closing_before_the_welcome(a_server: Any) -> None:
    async with a_server(never_welcome) as server:
        client = await started(connect(server.url, token="t"), lambda: server.peers)
        async with quick():
            await client.close()
        assert await server.peers[0].until_closed() == 1000


async def test_closing_while_open(server: Any) -> None:
    client = connect(server.url, token="t")
    states: list[tuple[str, str | None]] = []
    client.on_state(lambda state, error: states.append((state, error and error.code)))
    async with client:
        asked = asyncio.create_task(client.request("chat.send"))
        await eventually(lambda: client.state == "open")
    with pytest.raises(TowpathError) as raised:
        await asked
    assert raised.value.code == "closed"
    assert states == [("open", None), ("closed", "closed")]
    assert client.connection is None
    assert await server.peers[0].until_closed() == 1000


async def test_closing_while_waiting_for_the_next_attempt() -> None:
    retries: list[Any] = []
    client = connect(f"ws://127.0.0.1:{free_port()}/ws", token="t")
    client.on("retry", retries.append)
    await started(client, lambda: retries)
    async with quick(AT_ONCE):
        await client.close()


async def test_closing_by_many_at_once(server: Any) -> None:
    async with quick(), connect(server.url, token="t") as client:
        await asyncio.gather(*(client.close() for _ in range(5)))


async def test_closing_waits_for_listeners_for_a_bounded_time(server: Any) -> None:
    ended: list[str] = []

    async def brief(state: str) -> None:
        await asyncio.sleep(0)
        ended.append("brief")

    async def endless(state: str) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("endless")
            raise

    client = connect(server.url, token="t")
    client.on_state(brief)
    client.on_state(endless)
    async with quick(), client:
        await eventually(lambda: ended == ["brief"])
    assert ended == ["brief", "brief", "endless", "endless"]


# Cancellation


async def test_cancelling_the_wait_to_be_open_leaves_nothing(a_server: Any) -> None:
    async def enter(client: Client) -> None:
        async with client:
            raise AssertionError("it is never open")

    async with a_server(never_welcome) as server:
        client = connect(server.url, token="t")
        entering = asyncio.create_task(enter(client))
        await eventually(lambda: server.peers)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with quick():
                await entering
        assert client.state == "closed"


async def test_cancelling_the_body_leaves_nothing(server: Any) -> None:
    async def use(client: Client) -> None:
        async with client:
            await client.request("chat.send")

    client = connect(server.url, token="t")
    using = asyncio.create_task(use(client))
    await eventually(lambda: client.state == "open")
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        async with quick():
            await using
    assert client.state == "closed"


async def test_cancelling_even_the_close_leaves_nothing(server: Any) -> None:
    async def endless() -> None:
        await asyncio.Event().wait()

    client = connect(server.url, token="t")
    client.on_state(endless)
    async with quick():
        client.start()
        await client.opened()
        closing = asyncio.create_task(client.close())
        await eventually(lambda: client.state == "closed")
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing


async def test_cancelling_one_wait_to_be_open_does_not_touch_another(server: Any) -> None:
    client = connect(server.url, token="t")
    client.start()
    first, second = (asyncio.create_task(client.opened(timeout)) for timeout in (None, 10))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second)["user_id"] == "ana"
    assert first.cancelled()
    await client.close()


def test_a_client_that_is_never_closed_does_not_keep_the_program_alive() -> None:
    async def forget_to_close() -> None:
        client = connect(f"ws://127.0.0.1:{free_port()}/ws", token="t")
        client.on_error(lambda error: None)
        client.start()
        with pytest.raises(TowpathError):
            await client.opened(timeout=0.05)

    asyncio.run(forget_to_close())


async def test_a_call_that_needs_a_start_reports_it() -> None:
    client = connect("ws://127.0.0.1/ws", token="t")
    for asks in (client.request("chat.send"), client.opened()):
        with pytest.raises(RuntimeError, match=r"use `async with`, or call start\(\)"):
            await asks


# The queue


async def test_requests_wait_for_a_connection_up_to_the_limit(a_server: Any) -> None:
    async def welcome_later(peer: Any) -> None:
        await go_on.wait()
        await peer.welcome()
        while True:
            await peer.answer()

    go_on = asyncio.Event()
    async with a_server(welcome_later) as server:
        client = connect(server.url, token="t", queue_limit=2)
        client.start()
        asked = [asyncio.create_task(client.request("chat.send", {"n": n})) for n in range(3)]
        with pytest.raises(TowpathError, match="2 requests wait for one already") as raised:
            await asked[2]
        assert (raised.value.code, raised.value.retryable) == ("queue_full", True)
        assert raised.value.details == {"sent": False, "limit": 2}
        go_on.set()
        assert await asyncio.gather(*asked[:2]) == [{}, {}]
        await client.close()
