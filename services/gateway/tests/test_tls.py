"""``wss``: what a client can rely on, how certificates are replaced, and that TLS handshakes count like others."""

import asyncio
import contextlib
import gc
import json
import os
import shutil
import signal
import socket
import ssl
import struct
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from websockets.exceptions import InvalidStatus

from towpath.client import connect
from towpath.gateway.settings import GatewaySettings
from towpath.gateway.websocket.certificate import Certificate
from towpath.gateway.websocket.counted import CountedConnection
from towpath.protocol.routes import user_key
from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.settings import BadSetting
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.tls import TlsFiles
from towpath.testkit.certificates import Authority, Issued
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.gateway import GatewayUnderTest, RunGateway, a_backend
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.tokens import SECRET, a_token


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def issued(authority: Authority) -> Issued:
    return authority.issue("localhost")


@pytest.fixture
def run_wss(run_gateway: RunGateway, issued: Issued) -> Any:
    """Runs a gateway with a certificate for ``localhost``."""

    @asynccontextmanager
    async def run(own: Issued = issued, **settings: Any) -> AsyncIterator[GatewayUnderTest]:
        async with run_gateway(tls_certificate=own.certificate, tls_key=own.key, **settings) as gateway:
            yield gateway

    return run


def url_of(gateway: GatewayUnderTest, host: str = "localhost") -> str:
    return f"wss://{host}:{gateway.settings.port}/ws"


def trusting(authority: Authority) -> ssl.SSLContext:
    return TlsFiles("TEST", ca=authority.ca).client_context()


@asynccontextmanager
async def a_client(
    gateway: GatewayUnderTest, authority: Authority, user: str = "ana", **options: Any
) -> AsyncIterator[WireClient]:
    async with WireClient.connect(
        url_of(gateway), token=a_token(user), ssl=trusting(authority), **options
    ) as client:
        await client.next("session.welcome")
        yield client


async def metric(gateway: GatewayUnderTest, name: str) -> float:
    for line in (await gateway.admin("/metrics"))[1].splitlines():
        if line.startswith((f"{name} ", name + "{")):
            return float(line.split()[-1])
    raise AssertionError(f"there is no {name}")


async def reaches(gateway: GatewayUnderTest, name: str, value: float) -> None:
    async def is_reached() -> bool:
        return await metric(gateway, name) == value

    await eventually(is_reached)


@contextlib.contextmanager
def silent_sockets(port: int, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            for _ in range(count)
        ]


# Clients


async def test_requests_are_answered_over_wss(run_wss: Any, authority: Authority) -> None:
    async with (
        run_wss() as gateway,
        a_backend(gateway.hub) as backend,
        a_client(gateway, authority) as ana,
    ):
        text = "x" * 50_000  # several TLS records
        asking = asyncio.create_task(ana.request("echo.say", {"text": text}))
        await backend.answer()
        assert (await asking)["data"] == {"text": text}


async def test_the_python_client_connects_with_a_private_authority(
    run_wss: Any, authority: Authority
) -> None:
    async with (
        run_wss() as gateway,
        connect(url_of(gateway), token=a_token("ana"), tls=trusting(authority)) as client,
    ):
        assert client.state == "open"


async def test_a_certificate_that_a_client_does_not_trust_ends_its_attempt(
    run_wss: Any, authority: Authority, tmp_path: Path
) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    mine, others = authority.issue("localhost"), Authority(tmp_path, "another")
    for own, trusted, problem in (
        (mine, others, "self-signed certificate|unable to get local issuer"),
        (authority.issue("gateway.example"), authority, "Hostname mismatch"),
        (authority.issue("localhost", not_after=yesterday), authority, "certificate has expired"),
    ):
        async with run_wss(own) as gateway:
            with pytest.raises(ssl.SSLCertVerificationError, match=problem):
                async with a_client(gateway, trusted):
                    pass
            await reaches(gateway, "sockets_open", 0)


async def test_tls_1_1_is_refused(run_wss: Any, authority: Authority) -> None:
    old = trusting(authority)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with run_wss() as gateway:
        with pytest.raises(OSError):  # an alert, or a reset
            await asyncio.open_connection("localhost", gateway.settings.port, ssl=old)
        await reaches(gateway, "tls_handshakes_failed_total", 1)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        _, writer = await asyncio.open_connection("localhost", gateway.settings.port, ssl=old)
        writer.close()


async def test_a_client_without_tls_is_refused_and_counted(run_wss: Any) -> None:
    async with run_wss() as gateway:
        with pytest.raises(Exception, match=r"did not receive a valid HTTP response|connection|reset"):
            async with WireClient.connect(gateway.url, token=a_token("ana")):
                pass
        await reaches(gateway, "tls_handshakes_failed_total", 1)
        await reaches(gateway, "sockets_open", 0)


async def test_a_refusal_is_readable_and_ends_the_connection_at_once(
    run_wss: Any, authority: Authority
) -> None:
    # Longer than the test may take: what is waited for is the gateway's own end.
    async with run_wss(close_timeout=60.0) as gateway:
        with pytest.raises(InvalidStatus) as refused:
            async with WireClient.connect(url_of(gateway), token="garbage", ssl=trusting(authority)):
                pass
        assert refused.value.response.status_code == 401
        reader, writer = await asyncio.open_connection(
            "localhost", gateway.settings.port, ssl=trusting(authority)
        )
        writer.write(b"rubbish\r\n\r\n")
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_a_close_is_seen_with_its_code_and_does_not_wait(run_wss: Any, authority: Authority) -> None:
    async with run_wss(close_timeout=60.0, max_violations=1) as gateway:
        async with a_client(gateway, authority) as ana:
            for _ in range(3):
                await ana.send_raw("x")
            assert await ana.closed(timeout=10) == 4500
        async with a_client(gateway, authority, "ben") as ben:
            gateway.drain()
            assert await ben.closed(timeout=10) == 1012


REQUEST = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: towpath.v1\r\nAuthorization: Bearer "
)


def a_large_ping(number: int) -> bytes:
    """A text frame of 20,000 to 40,000 bytes, masked with zeros."""
    data = {"text": "x" * (20_000 + 997 * number % 20_000)}
    envelope = {"msg_id": f"m-{number}", "timestamp": 1, "action": "ping", "data": data, "version": "1.0"}
    payload = json.dumps(envelope).encode()
    return b"\x81" + struct.pack("!BH", 0x80 | 126, len(payload)) + bytes(4) + payload


async def test_a_client_that_is_paused_in_the_middle_of_records_gets_an_answer_to_each_request(
    run_wss: Any, authority: Authority
) -> None:
    count = 100
    limits = {"rate_per_connection": 10, "burst_per_connection": 10, "rate_strikes": 10_000}
    async with run_wss(**limits, rate_rest=0.01) as gateway:
        reader, writer = await asyncio.open_connection(
            "localhost", gateway.settings.port, ssl=trusting(authority)
        )
        writer.write(REQUEST + a_token("ana").encode() + b"\r\n\r\n")
        writer.write(b"".join(map(a_large_ping, range(count))))
        received = b""
        async with asyncio.timeout(50):
            while received.count(b'"correlation_id"') < count:
                chunk = await reader.read(65_536)
                assert chunk, "the gateway closed the connection"
                received += chunk
        writer.transport.abort()


@asynccontextmanager
async def a_stalled_client(gateway: GatewayUnderTest, authority: Authority) -> AsyncIterator[None]:
    """``ana``, who reads nothing after her handshake."""
    with socket.create_connection(("127.0.0.1", gateway.settings.port)) as connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connected.setblocking(False)
        reader, writer = await asyncio.open_connection(
            sock=connected, ssl=trusting(authority), server_hostname="localhost", limit=1024
        )
        writer.write(REQUEST + a_token("ana").encode() + b"\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        await reaches(gateway, "connection_active", 1)
        try:
            yield
        finally:
            writer.transport.abort()


def a_push(megabytes: int) -> dict[str, Any]:
    text = "x" * (megabytes * 1024 * 1024)
    return {"msg_id": "b", "timestamp": 1, "action": "news.sent", "data": {"text": text}, "version": "1.0"}


async def test_bytes_that_wait_below_tls_count(run_wss: Any, authority: Authority) -> None:
    total = 64 * 1024 * 1024
    async with (
        run_wss(send_buffer_bytes=total, send_buffer_total_bytes=total) as gateway,
        a_backend(gateway.hub) as backend,
        a_stalled_client(gateway, authority),
    ):
        # More than the kernel holds, and one write: TLS has given all of it to TCP.
        for _ in range(3):
            await backend.push(user_key("ana"), a_push(6))

        async def is_counted() -> bool:
            return await metric(gateway, "send_backlog_bytes") > 10 * 1024 * 1024

        await eventually(is_counted)


async def test_a_client_that_does_not_read_is_closed_as_over_plain_connections(
    run_wss: Any, authority: Authority
) -> None:
    async with (
        run_wss(send_buffer_bytes=1024 * 1024, close_timeout=0.5) as gateway,
        a_backend(gateway.hub) as backend,
        a_stalled_client(gateway, authority),
    ):
        for _ in range(3):
            await backend.push(user_key("ana"), a_push(6))
        await reaches(gateway, 'slow_consumers_total{limit="connection"}', 1)
        await reaches(gateway, "sockets_open", 0)


# The certificate is replaced


async def serial_of(gateway: GatewayUnderTest, authority: Authority) -> str:
    """The serial number of the certificate that a new connection sees."""
    _, writer = await asyncio.open_connection("localhost", gateway.settings.port, ssl=trusting(authority))
    serial = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return str(serial)


@pytest.mark.parametrize("noticed", ["signal", "change"])
async def test_new_connections_get_a_replaced_certificate_and_open_ones_stay(
    run_wss: Any, authority: Authority, tmp_path: Path, noticed: str
) -> None:
    served, new = authority.issue("localhost"), authority.issue("localhost")
    async with run_wss(served, tls_check=60.0 if noticed == "signal" else 0.05) as gateway:
        async with a_client(gateway, authority) as ana:
            before = await serial_of(gateway, authority)
            shutil.copy(new.certificate, served.certificate)
            shutil.copy(new.key, served.key)
            if noticed == "signal":
                assert await serial_of(gateway, authority) == before
                os.kill(os.getpid(), signal.SIGHUP)

            async def is_new() -> bool:
                return await serial_of(gateway, authority) != before

            await eventually(is_new)
            assert (await ana.request("ping"))["action"] == "pong"
        assert await metric(gateway, 'tls_reloads_total{result="ok"}') >= 1


async def test_a_pair_that_cannot_be_used_changes_nothing_until_it_is_mended(
    run_wss: Any, authority: Authority
) -> None:
    served, new = authority.issue("localhost"), authority.issue("localhost")
    async with run_wss(served, tls_check=0.05) as gateway:
        before = await serial_of(gateway, authority)
        shutil.copy(new.certificate, served.certificate)  # and not yet the key
        await reaches(gateway, 'tls_reloads_total{result="failed"}', 1)
        assert await serial_of(gateway, authority) == before
        os.unlink(served.key)  # noqa: PTH108
        await reaches(gateway, 'tls_reloads_total{result="failed"}', 2)
        assert await serial_of(gateway, authority) == before
        shutil.copy(new.key, served.key)
        await reaches(gateway, 'tls_reloads_total{result="ok"}', 1)
        assert await serial_of(gateway, authority) != before


async def test_the_time_until_the_certificate_expires_is_a_metric(run_wss: Any, authority: Authority) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    async with run_wss(authority.issue("localhost", not_after=tomorrow)) as gateway:
        assert 86_000 < await metric(gateway, "tls_certificate_expires_seconds") <= 86_400


async def test_a_program_reloads_on_sighup_and_goes_on(
    processes: Processes, authority: Authority, issued: Issued
) -> None:
    gateway = processes.launch(
        "towpath-gateway",
        amqp_url=f"amqp://guest:guest@127.0.0.1:{free_port()}/",
        auth_secret=SECRET,
        development=1,
        port=free_port(),
        tls_certificate=issued.certificate,
        tls_key=issued.key,
        tls_check=600,
    )
    await eventually(lambda: '"serving"' in gateway.output, timeout=60)
    os.kill(gateway.pid, signal.SIGHUP)
    await eventually(lambda: '"certificate_reloaded"' in gateway.output)
    assert gateway.status is None
    assert await gateway.terminate() == 0


# At the start


@pytest.mark.parametrize("missing", ["tls_certificate", "tls_key"])
def test_certificate_and_key_are_needed_together(issued: Issued, missing: str) -> None:
    files: dict[str, Any] = {"tls_certificate": issued.certificate, "tls_key": issued.key, missing: None}
    settings = GatewaySettings(auth_secret=SECRET, **files)
    with pytest.raises(BadSetting, match=f"^TOWPATH_{missing.upper()}: is required with TOWPATH_TLS_"):
        Certificate.of(settings, Telemetry("gateway", settings))


def test_without_files_there_is_no_certificate() -> None:
    settings = GatewaySettings(auth_secret=SECRET)
    assert Certificate.of(settings, Telemetry("gateway", settings)) is None


async def test_a_program_whose_certificate_cannot_be_used_ends_with_one_line(
    processes: Processes, authority: Authority, issued: Issued, tmp_path: Path
) -> None:
    other = authority.issue("localhost")
    for files, said in (
        ((issued.certificate, str(tmp_path / "gone.key")), "TOWPATH_TLS_KEY="),
        ((issued.certificate, other.key), "is not the key of"),
        ((issued.key, issued.key), "TOWPATH_TLS_CERTIFICATE="),
    ):
        certificate, key = files
        gateway = processes.launch(
            "towpath-gateway",
            amqp_url=f"amqp://guest:guest@127.0.0.1:{free_port()}/",
            auth_secret=SECRET,
            development=1,
            port=free_port(),
            tls_certificate=certificate,
            tls_key=key,
        )
        assert await gateway.ended(timeout=60) == ExitStatus.BAD_SETTING
        (line,) = [line for line in gateway.output.splitlines() if not line.startswith("{")]
        assert said in line


# The entrance


async def test_silent_tls_handshakes_count_from_their_acceptance_and_do_not_lock_clients_out(
    run_wss: Any, authority: Authority
) -> None:
    async with run_wss(handshakes_max=8, handshakes_max_per_address=4, open_timeout=60.0) as gateway:
        with silent_sockets(gateway.settings.port, 50):
            await reaches(gateway, "sockets_open", 4)
            assert await metric(gateway, "handshakes_open") == 4
            async with a_client(gateway, authority) as ana:
                assert (await ana.request("ping"))["action"] == "pong"
        assert await metric(gateway, 'handshakes_aborted_total{limit="address"}') >= 46


async def test_a_tls_handshake_without_an_end_ends_with_the_open_timeout(
    run_wss: Any, authority: Authority
) -> None:
    async with run_wss(open_timeout=0.3) as gateway:
        with silent_sockets(gateway.settings.port, 3) as sockets:
            sockets[0].sendall(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a ClientHello
            await reaches(gateway, "sockets_open", 3)
            await reaches(gateway, "sockets_open", 0)
        assert await metric(gateway, "tls_handshakes_failed_total") == 3


async def test_a_client_that_gives_up_its_handshake_frees_its_place(
    run_wss: Any, authority: Authority
) -> None:
    async with run_wss(open_timeout=60.0) as gateway:
        with silent_sockets(gateway.settings.port, 3):
            await reaches(gateway, "sockets_open", 3)
        await reaches(gateway, "sockets_open", 0)
        # After its TLS handshake, before its request.
        _, writer = await asyncio.open_connection("localhost", gateway.settings.port, ssl=trusting(authority))
        await reaches(gateway, "handshakes_open", 1)
        writer.transport.abort()
        await reaches(gateway, "sockets_open", 0)


async def test_a_gateway_that_stops_does_not_wait_for_unfinished_tls_handshakes(
    run_wss: Any, authority: Authority
) -> None:
    async with asyncio.timeout(10):
        async with run_wss(open_timeout=60.0) as gateway:
            sockets = contextlib.ExitStack()
            sockets.enter_context(silent_sockets(gateway.settings.port, 3))
            await reaches(gateway, "sockets_open", 3)
        sockets.close()


async def test_an_address_whose_tls_handshakes_fail_is_turned_away_before_the_next_and_others_are_not(
    run_wss: Any, authority: Authority
) -> None:
    rates = {"connects_per_address": 0.1, "connects_per_address_burst": 50}
    async with run_wss(**rates) as gateway:
        with silent_sockets(gateway.settings.port, 3):
            await reaches(gateway, "sockets_open", 3)
        await reaches(gateway, "sockets_open", 0)
        with pytest.raises(OSError):
            async with a_client(gateway, authority):
                pass
        assert await metric(gateway, "tls_turned_away_total") >= 1
        async with a_client(gateway, authority, local_addr=("127.0.0.2", 0)) as ben:
            assert (await ben.request("ping"))["action"] == "pong"
    async with run_wss(**rates, trusted_proxies="127.0.0.1") as gateway:
        with silent_sockets(gateway.settings.port, 3):
            await reaches(gateway, "sockets_open", 3)
        await reaches(gateway, "sockets_open", 0)
        async with a_client(gateway, authority) as ana:
            assert (await ana.request("ping"))["action"] == "pong"


async def test_a_failed_tls_handshake_is_freed_without_the_garbage_collector(
    run_wss: Any, authority: Authority
) -> None:
    def are_freed() -> bool:
        return not any(issubclass(type(each), CountedConnection) for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        async with run_wss(open_timeout=0.3) as gateway:
            with silent_sockets(gateway.settings.port, 6) as sockets:
                for one in sockets[:3]:
                    one.sendall(b"GET /ws HTTP/1.1\r\n\r\n")
                await reaches(gateway, "tls_handshakes_failed_total", 6)
                await eventually(are_freed)
            async with a_client(gateway, authority):
                pass
            await eventually(are_freed)
    finally:
        gc.enable()


# The programs run on uvloop, whose TLS is another than asyncio's


@pytest.mark.parametrize(
    "promise",
    [
        test_requests_are_answered_over_wss,
        test_tls_1_1_is_refused,
        test_a_refusal_is_readable_and_ends_the_connection_at_once,
        test_a_close_is_seen_with_its_code_and_does_not_wait,
        test_a_client_that_is_paused_in_the_middle_of_records_gets_an_answer_to_each_request,
        test_bytes_that_wait_below_tls_count,
        test_a_client_that_does_not_read_is_closed_as_over_plain_connections,
        test_silent_tls_handshakes_count_from_their_acceptance_and_do_not_lock_clients_out,
        test_a_tls_handshake_without_an_end_ends_with_the_open_timeout,
        test_a_client_that_gives_up_its_handshake_frees_its_place,
        test_a_gateway_that_stops_does_not_wait_for_unfinished_tls_handshakes,
        test_an_address_whose_tls_handshakes_fail_is_turned_away_before_the_next_and_others_are_not,
        test_a_failed_tls_handshake_is_freed_without_the_garbage_collector,
    ],
)
def test_the_same_holds_on_uvloop(
    promise: Callable[[Any, Authority], Awaitable[None]], run_wss: Any, authority: Authority
) -> None:
    async def keep() -> None:
        await promise(run_wss, authority)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(keep())
