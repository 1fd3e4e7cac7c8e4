"""A network that breaks on demand, seen from a client of an echo server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from time import perf_counter
from typing import Final

import pytest

from towpath.testkit.eventually import eventually
from towpath.testkit.network import WINDOW, Proxy

PATIENCE: Final = 30.0
QUIET: Final = 0.2  # seconds in which what must not arrive would have arrived


class Echo:
    """A server that sends back what it gets."""

    def __init__(self) -> None:
        self.open: set[asyncio.StreamWriter] = set()
        self.ended: list[str] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        try:
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
            self.ended.append("end")
        except ConnectionError:
            self.ended.append("reset")
        finally:
            self.open.discard(writer)
            writer.close()


class Client:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def receive(self, count: int, timeout: float = PATIENCE) -> bytes:
        async with asyncio.timeout(timeout):
            return await self._reader.readexactly(count)

    async def reached(self, proxy: Proxy, count: int) -> None:
        """Wait until the server has got so many bytes."""
        await eventually(lambda: proxy.to_server.passed == count)

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(QUIET):
                return not await self._reader.read(1)
        except TimeoutError:
            return True


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    yield echo
    server.close()
    for writer in echo.open:
        writer.transport.abort()
    await eventually(lambda: not echo.open)


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    async with Proxy.open("127.0.0.1", echo.port) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Client]:
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[Client]:
    async with connected(proxy) as client:
        yield client


async def test_an_undisturbed_network_passes_everything_both_ways(proxy: Proxy, client: Client) -> None:
    data = bytes(range(256)) * 4096
    client.send(data)
    assert await client.receive(len(data)) == data
    assert (proxy.to_server.passed, proxy.to_client.passed) == (len(data), len(data))


async def test_a_close_passes_through_the_proxy(proxy: Proxy, echo: Echo, client: Client) -> None:
    client.send(b"last")
    client.writer.write_eof()
    assert await client.receive(4) == b"last"
    with pytest.raises(asyncio.IncompleteReadError):
        await client.receive(1)
    assert echo.ended == ["end"]
    await eventually(lambda: proxy.connections == 0)


async def test_a_delay_delays_and_does_not_slow_down(proxy: Proxy, client: Client) -> None:
    proxy.to_server.delay, proxy.to_client.delay = 0.1, 0.2
    started = perf_counter()
    for number in range(20):
        client.send(f"{number:03}".encode())
        await asyncio.sleep(0)
    assert await client.receive(60) == b"".join(f"{number:03}".encode() for number in range(20))
    assert 0.3 <= perf_counter() - started < 20 * 0.2  # the sum of all delays one after another


async def test_jitter_keeps_the_order(proxy: Proxy, client: Client) -> None:
    proxy.to_client.jitter = 0.05
    for number in range(20):
        client.send(f"{number:03}".encode())
        await client.reached(proxy, 3 * (number + 1))
    assert await client.receive(60) == b"".join(f"{number:03}".encode() for number in range(20))


async def test_a_given_rate_is_reached(proxy: Proxy, client: Client) -> None:
    proxy.to_server.rate = 200_000
    started = perf_counter()
    client.send(b"x" * 131_072)
    client.send(b"y")
    assert (await client.receive(131_073))[-1:] == b"y"
    assert perf_counter() - started >= 0.3


async def test_a_cut_towards_the_server_holds_requests_until_it_ends(proxy: Proxy, client: Client) -> None:
    proxy.to_server.hold()
    client.send(b"hello")
    assert await client.hears_nothing()
    assert proxy.to_server.passed == 0
    proxy.heal()
    assert await client.receive(5) == b"hello"


async def test_a_cut_towards_the_client_holds_answers_until_it_ends(proxy: Proxy, client: Client) -> None:
    proxy.to_client.hold()
    client.send(b"hello")
    await eventually(lambda: proxy.to_server.passed == 5)
    assert await client.hears_nothing()
    proxy.heal()
    assert await client.receive(5) == b"hello"


async def test_a_cut_can_begin_at_a_mark_in_each_connection(proxy: Proxy, client: Client) -> None:
    proxy.to_client.hold(at=b"mark")
    client.send(b"before")
    assert await client.receive(6) == b"before"
    client.send(b"the ma")
    await client.reached(proxy, 12)
    client.send(b"rk ")
    await client.reached(proxy, 15)
    async with connected(proxy) as other:
        other.send(b"other")
        assert await other.receive(5) == b"other"
    client.send(b"and on")
    assert await client.receive(6) == b"the ma"
    assert await client.hears_nothing()
    proxy.heal()
    assert await client.receive(9) == b"rk and on"


async def test_a_cut_accepts_one_window_and_then_the_sender_waits(proxy: Proxy, client: Client) -> None:
    proxy.to_server.hold()
    data = b"x" * (64 * 1024 * 1024)
    client.send(data)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(QUIET):
            await client.writer.drain()
    assert proxy.to_server.passed == 0
    assert client.writer.transport.get_write_buffer_size() > len(data) - 16 * 1024 * 1024 - WINDOW


async def test_a_connection_opened_during_a_cut_works_after_it(proxy: Proxy) -> None:
    proxy.hold()
    async with connected(proxy) as client:
        client.send(b"early")
        assert await client.hears_nothing()
        proxy.heal()
        assert await client.receive(5) == b"early"


async def test_a_connection_is_cut_after_so_many_bytes(proxy: Proxy, echo: Echo, client: Client) -> None:
    proxy.to_client.cut_after(5)
    client.send(b"hello world")
    assert await client.receive(5) == b"hello"
    with pytest.raises(ConnectionResetError):
        await client.receive(1)
    await eventually(lambda: echo.ended == ["reset"])


async def test_a_reset_reaches_both_sides(proxy: Proxy, echo: Echo, client: Client) -> None:
    client.send(b"hello")
    await client.receive(5)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await client.receive(1)
    await eventually(lambda: echo.ended == ["reset"])
    async with connected(proxy) as again:
        again.send(b"again")
        assert await again.receive(5) == b"again"


async def test_a_half_open_connection_is_closed_for_the_server_only(
    proxy: Proxy, echo: Echo, client: Client
) -> None:
    client.send(b"hello")
    await client.receive(5)
    proxy.half_open()
    await eventually(lambda: echo.ended == ["reset"])
    client.send(b"anybody?")
    assert await client.hears_nothing()
    assert proxy.connections == 1


async def test_a_closed_port_refuses_and_is_the_same_when_it_opens(proxy: Proxy, client: Client) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        async with connected(proxy):
            pass
    client.send(b"hello")
    assert await client.receive(5) == b"hello"  # an open connection stays open
    await proxy.listen()
    async with connected(proxy) as again:
        again.send(b"again")
        assert await again.receive(5) == b"again"


async def test_a_proxy_without_its_server_resets_connections() -> None:
    async with Proxy.open("127.0.0.1", 1) as proxy, connected(proxy) as client:
        with pytest.raises(ConnectionResetError):
            await client.receive(1)


async def test_a_proxy_replaces_the_address_of_a_server(echo: Echo) -> None:
    async with Proxy.before(f"amqp://u:p@127.0.0.1:{echo.port}/v%2Fw?a=1") as proxy:
        assert proxy.instead_of("amqp://u:p@broker:5672/v%2Fw?a=1") == (
            f"amqp://u:p@127.0.0.1:{proxy.port}/v%2Fw?a=1"
        )
        async with connected(proxy) as client:
            client.send(b"hello")
            assert await client.receive(5) == b"hello"
