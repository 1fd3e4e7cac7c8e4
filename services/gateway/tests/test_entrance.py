"""The entrance: handshakes and sockets are bounded, and honest clients still get in."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from towpath.gateway.admission.descriptor_share import DescriptorShare, divide
from towpath.gateway.admission.entrance import Entrance
from towpath.gateway.settings import GatewaySettings
from towpath.gateway.websocket.counted import CountedConnection
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import GatewayUnderTest, RunGateway
from towpath.testkit.tokens import a_token


async def refused(url: str, token: str) -> tuple[int, str | None]:
    """The HTTP status of a refused handshake, and its Retry-After."""
    with pytest.raises(InvalidStatus) as refusal:
        async with WireClient.connect(url, token=token):
            pass
    return refusal.value.response.status_code, refusal.value.response.headers.get("Retry-After")


class AbortableStub:
    """A socket, as the entrance needs it."""

    def __init__(self) -> None:
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
async def telemetry() -> AsyncIterator[Telemetry]:
    async with Telemetry.open("gateway", GatewaySettings()) as telemetry:
        yield telemetry


def a_share(*, connections: int = 100, handshakes: int = 100, per_address: int = 100) -> DescriptorShare:
    return DescriptorShare(1000, connections, handshakes, per_address)


def test_with_enough_descriptors_the_settings_apply() -> None:
    assert divide(100_000, GatewaySettings()) == DescriptorShare(100_000, 50_000, 2_000, 1_000)


def test_with_few_descriptors_the_reserve_comes_first_and_a_quarter_is_for_handshakes() -> None:
    share = divide(1024, GatewaySettings(descriptors_reserve=100))
    assert share == DescriptorShare(1024, 693, 231, 115)
    assert share.connections + share.handshakes <= 1024 - 100


@pytest.mark.parametrize("limit", [1, 64, 103, 104, 200])
def test_with_next_to_no_descriptors_each_limit_is_at_least_one(limit: int) -> None:
    share = divide(limit, GatewaySettings())
    assert min(share.connections, share.handshakes, share.handshakes_per_address) >= 1


async def test_past_the_limit_the_oldest_unfinished_handshake_is_aborted(telemetry: Telemetry) -> None:
    entrance = Entrance(a_share(handshakes=2), telemetry)
    finished, silent, third, fourth = (AbortableStub() for _ in range(4))
    for line in (finished, silent):
        assert entrance.enter(line, "a")
    entrance.admitted(finished)
    for line in (third, fourth):
        assert entrance.enter(line, "b")
    assert [line.aborted for line in (finished, silent, third, fourth)] == [False, True, False, False]


async def test_an_address_over_its_limit_does_not_affect_others(telemetry: Telemetry) -> None:
    entrance = Entrance(a_share(per_address=2), telemetry)
    other = AbortableStub()
    assert entrance.enter(other, "b")
    crowd = [AbortableStub() for _ in range(10)]
    for line in crowd:
        assert entrance.enter(line, "a")
    assert [line.aborted for line in crowd] == [True] * 8 + [False] * 2
    assert not other.aborted


async def test_there_are_never_more_sockets_than_descriptors_for_them(telemetry: Telemetry) -> None:
    entrance = Entrance(a_share(connections=2, handshakes=1), telemetry)
    lines = [AbortableStub() for _ in range(3)]
    for line in lines:
        assert entrance.enter(line, None)
        entrance.admitted(line)
    assert not entrance.enter(AbortableStub(), None)
    entrance.closed(lines[0])
    assert entrance.enter(AbortableStub(), None)


async def test_a_request_sent_byte_by_byte_ends_with_the_open_timeout(run_gateway: RunGateway) -> None:
    async with run_gateway(open_timeout=0.5) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.port)

        async def drip() -> None:
            with contextlib.suppress(OSError):
                while True:
                    writer.write(b"G")
                    await writer.drain()
                    await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        with contextlib.suppress(OSError):
            async with asyncio.timeout(10):
                assert await reader.read() == b""
        dripping.cancel()
        writer.close()
        assert await metric(gateway, "handshakes_open") == 0


async def test_silent_sockets_do_not_lock_clients_out(run_gateway: RunGateway) -> None:
    async with run_gateway(handshakes_max=8, handshakes_max_per_address=4, open_timeout=60.0) as gateway:
        with silent_sockets(gateway.settings.port, 50):
            await eventually(lambda: counts(gateway, "sockets_open", 4))
            async with gateway.connect("ana") as ana:
                await ana.next("session.welcome")
                assert (await ana.request("ping"))["action"] == "pong"
        aborted = await metric(gateway, 'handshakes_aborted_total{limit="address"}')
        assert aborted >= 46


async def test_a_user_who_connects_too_often_gets_429_with_advice(run_gateway: RunGateway) -> None:
    async with run_gateway(connects_per_user=0.1, connects_per_user_burst=2) as gateway:
        for _ in range(2):
            async with gateway.connect("ana") as ana:
                await ana.next("session.welcome")
        status, advice = await refused(gateway.url, token=a_token("ana"))
        assert status == 429
        assert 1 <= int(advice or 0) <= 10
        async with gateway.connect("ben") as ben:
            await ben.next("session.welcome")


async def test_a_close_for_abuse_costs_its_user_connects(run_gateway: RunGateway) -> None:
    async with run_gateway(
        connects_per_user=0.1, connects_per_user_burst=10, connects_after_abuse=10, max_violations=1
    ) as gateway:
        async with gateway.connect("ana") as ana, gateway.connect("ben") as ben:
            for _ in range(3):
                await ana.send_raw("x")
            assert await ana.closed() == 4500
            assert (await refused(gateway.url, token=a_token("ana")))[0] == 429
            assert (await ben.request("ping"))["action"] == "pong"
        async with gateway.connect("ben") as ben:
            await ben.next("session.welcome")


async def test_an_address_that_connects_too_often_gets_429_before_its_token_is_checked(
    run_gateway: RunGateway,
) -> None:
    async with run_gateway(connects_per_address=0.1, connects_per_address_burst=2) as gateway:
        for _ in range(2):
            assert (await refused(gateway.url, token="garbage"))[0] == 401
        assert (await refused(gateway.url, token="garbage"))[0] == 429


async def test_each_client_behind_a_trusted_proxy_has_its_own_limit(run_gateway: RunGateway) -> None:
    async with run_gateway(
        connects_per_address=0.1, connects_per_address_burst=1, trusted_proxies="127.0.0.0/8"
    ) as gateway:

        async def status_from(address: str) -> int:
            async with (
                aiohttp.ClientSession() as http,
                http.get(
                    gateway.url.replace("ws:", "http:"), headers={"X-Forwarded-For": address}
                ) as response,
            ):
                return response.status

        assert await status_from("192.0.2.1") != 429
        assert await status_from("192.0.2.1") == 429
        assert await status_from("192.0.2.2") != 429
        assert await status_from("192.0.2.9, 192.0.2.1") == 429


async def metric(gateway: GatewayUnderTest, name: str) -> float:
    """One figure of ``/metrics``."""
    for line in (await gateway.admin("/metrics"))[1].splitlines():
        if line.startswith((f"{name} ", name + "{")):
            return float(line.split()[-1])
    raise AssertionError(f"there is no {name}")


async def counts(gateway: GatewayUnderTest, name: str, count: int) -> bool:
    return await metric(gateway, name) == count


@contextlib.contextmanager
def silent_sockets(port: int, count: int) -> Iterator[None]:
    """Connections that send nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        yield


@contextlib.contextmanager
def without_garbage_collector() -> Iterator[None]:
    """Objects that reference counting did not free."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def connections_left() -> int:
    return sum(issubclass(type(each), CountedConnection) for each in gc.get_objects())


async def test_an_ended_connection_is_freed_without_the_garbage_collector(run_gateway: RunGateway) -> None:
    with without_garbage_collector():
        async with run_gateway(open_timeout=0.2) as gateway:
            for _ in range(5):
                async with gateway.connect("ana") as ana:
                    await ana.next("session.welcome")
                    assert (await ana.request("ping"))["action"] == "pong"
            assert (await refused(gateway.url, token="garbage"))[0] == 401
            async with gateway.connect("ana") as ana:
                for _ in range(200):
                    await ana.send_raw("x")
                assert await ana.closed() == 4500
            with silent_sockets(gateway.settings.port, 5):
                await eventually(lambda: connections_left() >= 5)
                await eventually(lambda: counts(gateway, "sockets_open", 0))
            await eventually(lambda: connections_left() == 0)
