"""Servers that say nonsense, refuse, hang up or say nothing."""

import asyncio
import contextlib
import gc
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from towpath.client import Client, Retry, TowpathError, connect
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import free_port

pytestmark = pytest.mark.usefixtures("nothing_is_left")


async def stay(peer: Any) -> None:
    """Welcome, and answer nothing."""
    await peer.welcome()
    await peer.socket.wait_closed()


# Frames


@pytest.mark.parametrize(
    "frame",
    [
        b"\x00\x01",
        "",
        "nonsense",
        "[]",
        "null",
        '{"action": 7, "data": {}}',
        '{"action": "chat.message"}',
        '{"action": "chat.message", "data": NaN}',
        '{"action": "chat.message", "data": {"n": -Infinity}}',
        '{"action": "chat.message", "data": {}',
        "[" * 100_000,
    ],
    ids=lambda frame: repr(frame[:30]),
)
async def test_invalid_frames_are_reported_and_the_client_continues(
    a_server: Any, frame: str | bytes
) -> None:
    async def talk(peer: Any) -> None:
        await peer.welcome()
        await peer.socket.send(frame)
        await peer.push("chat:lobby", 1)
        await peer.socket.wait_closed()

    errors: list[Any] = []
    heard: list[Any] = []
    async with a_server(talk) as server:
        client = connect(server.url, token="t")
        client.on_error(errors.append)
        client.on("chat.message", heard.append)
        async with client:
            await eventually(lambda: heard == [{"n": 1}])
    assert [error.code for error in errors] == ["bad_frame"]
    assert len(str(errors[0])) < 200


@pytest.mark.parametrize(
    "frame",
    [
        '{"action": "chat.message", "data": {"text": "\\ud800"}, "stream": "chat:lobby", "seq": 1}',
        '{"action": "chat.message", "data": {"n": 1e400}, "stream": "chat:lobby", "seq": 1}',
        '{"action": "chat.message", "data": {}, "msg_id": 7, "version": null, "stream": "chat:lobby", "seq": 1.0}',
    ],
)
async def test_odd_json_in_a_frame_loses_no_push(a_server: Any, frame: str) -> None:
    async def talk(peer: Any) -> None:
        await peer.welcome()
        await peer.socket.send(frame)
        await peer.push("chat:lobby", 2)
        await peer.socket.wait_closed()

    heard: list[Any] = []
    async with a_server(talk) as server:
        client = connect(server.url, token="t")
        client.on("chat.message", heard.append)
        async with client:
            await eventually(lambda: len(heard) == 2)
            assert client.positions == {"chat:lobby": 2}


async def test_answers_with_odd_data_answer_all_the_same(a_server: Any) -> None:
    async def talk(peer: Any) -> None:
        await peer.welcome(heartbeat_ms="soon", max_frame_bytes=-1)
        for data in ({"seq": "many"}, {"seq": -1}):
            await peer.answer(data)
        asked = await peer.hear()
        await peer.say(
            "error", {"code": 7, "message": None, "retryable": "yes"}, correlation_id=asked["msg_id"]
        )
        await peer.say("error", {}, correlation_id=[])
        await peer.say("chat.send.ok", {}, correlation_id="nobody")
        await peer.socket.wait_closed()

    async with a_server(talk) as server, connect(server.url, token="t") as client:
        errors: list[Any] = []
        client.on_error(errors.append)
        assert await client.request("chat.join", stream="chat:lobby") == {"seq": "many"}
        assert await client.request("chat.join", stream="chat:lobby") == {"seq": -1}
        with pytest.raises(TowpathError, match="without saying which") as raised:
            await client.request("chat.send")
        assert (raised.value.code, raised.value.retryable) == ("internal", False)
        assert client.positions == {}
        await eventually(lambda: errors)


@pytest.mark.parametrize("stream", [[], {}, 7, None, "", "chat:lobby"])
async def test_a_push_without_seq_or_stream_is_transient(a_server: Any, stream: Any) -> None:
    async def talk(peer: Any) -> None:
        await peer.welcome()
        await peer.say("chat.typing", {}, stream=stream, seq="7")
        await peer.push("chat:lobby", 1)
        await peer.socket.wait_closed()

    heard: list[str] = []
    async with a_server(talk) as server:
        client = connect(server.url, token="t")
        reader = client.stream("chat:lobby")
        client.on("*", lambda data, envelope: heard.append(envelope["action"]))
        async with client, asyncio.timeout(30):
            assert (await anext(reader))["seq"] == 1
    assert heard == ["session.welcome", "chat.typing", "chat.message"]


async def test_a_request_may_be_cancelled_while_it_fails(a_server: Any) -> None:
    async def talk(peer: Any) -> None:
        await peer.welcome()
        while True:
            asked = await peer.hear()
            await peer.say("error", {"code": "conflict"}, correlation_id=asked["msg_id"])
            await peer.say("chat.message", {})

    async with a_server(talk) as server, connect(server.url, token="t") as client:
        under_way: list[asyncio.Task[Any]] = []
        client.on("chat.message", lambda: under_way[0].cancel())
        for _ in range(20):
            under_way = [asyncio.create_task(client.request("chat.send"))]
            with pytest.raises((asyncio.CancelledError, TowpathError)):
                await under_way[0]
    under_way.clear()
    gc.collect()  # a future with an unread exception complains when it is collected


# Refusals


@pytest.mark.parametrize("status", [401, 403, 404, 503])
async def test_a_refused_connect_is_reported_and_retried_with_a_new_token(a_server: Any, status: int) -> None:
    errors: list[Any] = []
    retries: list[Retry] = []
    tokens = iter(["t-1", "t-2"])
    async with a_server(stay, refuse=lambda attempt: (status, {}) if attempt == 1 else None) as server:
        client = connect(server.url, token=lambda: next(tokens))
        client.on_error(errors.append)
        client.on("retry", retries.append)
        async with client:
            assert server.peers[0].token == "t-2"
    (error,) = errors
    assert (error.code, error.retryable, error.details) == ("refused", True, {"status": status})
    assert error.message == f"The server refused the connection: HTTP {status}. not today"
    assert [(retry.attempt, retry.code) for retry in retries] == [(1, 1006)]


@pytest.mark.parametrize(
    ("advice", "least"),
    [("3600", 300), ("2", 2), ("in a while", 0), ("-5", 0), ("", 0), ("9" * 400, 300)],
)
async def test_retry_after_is_a_floor_within_reason(a_server: Any, advice: str, least: float) -> None:
    async with waiting(a_server, {"Retry-After": advice}) as retry:
        assert least <= retry.delay <= least + 1


async def test_retry_after_may_be_a_date(a_server: Any) -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    async with waiting(a_server, {"Retry-After": then}) as retry:
        assert 90 < retry.delay <= 101
    async with waiting(a_server, {"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}) as retry:
        assert retry.delay <= 1


@contextlib.asynccontextmanager
async def waiting(a_server: Any, headers: dict[str, str]) -> AsyncIterator[Retry]:
    """A client that was refused with 503 and ``headers``, and waits."""
    async with a_server(stay, refuse=lambda _: (503, headers)) as server:
        client = connect(server.url, token="t")
        client.on_error(lambda error: None)
        yield await first_attempt(client)
        await client.close()


async def test_a_refused_client_gets_the_reason(a_server: Any) -> None:
    async with a_server(stay, refuse=lambda _: (403, {})) as server:
        client = connect(server.url, token="t", open_timeout=0.3)
        client.on_error(lambda error: None)
        await first_attempt(client)
        with pytest.raises(
            TowpathError, match=r"Not open within 0.3 s; the last attempt: HTTP 403"
        ) as raised:
            async with client:
                pass
        assert raised.value.code == "timeout"
        assert client.state == "closed"


async def test_an_unsent_request_reports_the_reason(a_server: Any) -> None:
    async with a_server(stay, refuse=lambda _: (403, {})) as server:
        client = connect(server.url, token="t")
        client.on_error(lambda error: None)
        await first_attempt(client)
        with pytest.raises(TowpathError, match="the last attempt: HTTP 403") as raised:
            await client.request("chat.send", timeout=0)
        assert raised.value.details == {"sent": False}
        await client.close()


async def first_attempt(client: Client) -> Retry:
    """Start a client that cannot connect; it waits for the second attempt."""
    retries: list[Retry] = []
    client.on("retry", retries.append)
    client.start()
    await eventually(lambda: retries)
    return retries[0]


async def test_a_server_without_a_welcome_is_not_open(a_server: Any) -> None:
    async def say_nothing(peer: Any) -> None:
        await peer.socket.wait_closed()

    async with a_server(say_nothing) as server:
        with pytest.raises(TowpathError, match="no attempt has ended yet"):
            async with connect(server.url, token="t", open_timeout=1.0):
                pass
        assert await server.peers[0].until_closed() == 1000


# Endings


@pytest.mark.parametrize("code", [4500, 4502, 4503, 1003])
async def test_a_final_close_code_closes_the_client_for_good(a_server: Any, code: int) -> None:
    async def hang_up(peer: Any) -> None:
        await peer.welcome()
        await peer.hear()
        await peer.socket.close(code, "enough")

    states: list[tuple[str, Any]] = []
    async with a_server(hang_up) as server, connect(server.url, token="t") as client:
        client.on_state(lambda state, error: states.append((state, error.message)))
        with pytest.raises(TowpathError, match=f"for good .{code}: enough") as raised:
            await client.request("chat.send")
        assert raised.value.code == "closed"
        assert raised.value.details == {"close_code": code, "reason": "enough"}
        assert client.state == "closed"
        assert states == [("closed", f"The server closed the connection for good ({code}: enough).")]
        for asks in (client.request("chat.send"), client.opened()):
            with pytest.raises(TowpathError) as raised:
                await asks
            assert raised.value.code == "closed"


async def test_a_cut_connection_is_opened_again_and_the_request_is_resent(a_server: Any) -> None:
    async def cut_the_first(peer: Any) -> None:
        await peer.welcome()
        asked = await peer.hear()
        if peer.number == 1:
            peer.socket.transport.abort()
            return
        await peer.say("chat.send.ok", {"by": peer.number}, correlation_id=asked["msg_id"])
        await peer.socket.wait_closed()

    async with a_server(cut_the_first) as server, connect(server.url, token="t") as client:
        assert await client.request("chat.send") == {"by": 2}


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def cut_in_the_middle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 101 Switching Pro")
    writer.close()


async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    writer.close()


async def speak_smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example.org ESMTP\r\n")
    await reader.read()
    writer.close()


async def welcome_a_stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("talk", "said"),
    [
        (reset, "1006: "),
        (cut_in_the_middle, "1006: "),
        (speak_http, "HTTP 200"),
        (speak_smtp, "1006: did not receive a valid HTTP response"),
        (welcome_a_stranger, "1006: .*Sec-WebSocket-Accept"),
    ],
)
async def test_a_server_that_is_not_a_gateway_is_not_open_and_the_reason_is_reported(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], said: str
) -> None:
    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await fails(f"ws://127.0.0.1:{port}/ws", said)


async def fails(url: str, said: str) -> None:
    client = connect(url, token="t")
    client.on_error(lambda error: None)
    await first_attempt(client)
    with pytest.raises(TowpathError, match=f"the last attempt: {said}") as raised:
        await client.opened(timeout=0)
    assert (raised.value.code, raised.value.retryable) == ("timeout", True)
    await client.close()


async def test_a_peer_that_ignores_the_close_is_cut_off(a_server: Any) -> None:
    async def deaf(peer: Any) -> None:
        await peer.welcome()
        peer.socket.transport.pause_reading()
        await gone.wait()

    gone = asyncio.Event()
    async with a_server(deaf) as server:
        async with asyncio.timeout(10), connect(server.url, token="t"):
            pass
        gone.set()
        server.peers[0].socket.transport.abort()


# Addresses


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://example.org/ws",
            "example.org",
            "",
            "ws://",
            "ws:///ws",
            "wss://[::1/ws",
            "ws://host:99999/ws",
        ),
        *("ws://host:port/ws", "ws://example.org/#ws", 7, None, b"ws://example.org"),
    ],
)
def test_an_unusable_address_is_refused_at_once(url: Any) -> None:
    with pytest.raises(
        TowpathError, match=r"is not a WebSocket address; such as wss://example.org/ws"
    ) as raised:
        connect([url], token="t")
    assert raised.value.code == "bad_url"


def test_an_address_is_required_and_contains_no_secrets() -> None:
    with pytest.raises(TowpathError, match="Pass an address"):
        connect([], token="t")
    with pytest.raises(TowpathError, match="holds a user and a password") as raised:
        connect("wss://ana:secret@example.org/ws", token="t")
    assert "secret" not in str(raised.value)


async def test_a_closed_port_is_not_open_and_the_reason_is_reported() -> None:
    await fails(f"ws://127.0.0.1:{free_port()}/ws", "1006: .*Connect call failed")


async def test_a_host_name_that_does_not_exist_is_reported() -> None:
    await fails("ws://nobody.invalid/ws", r"1006: \[Errno -\d\] ")


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """An unsigned key and certificate for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    own = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + own.public_bytes(Encoding.PEM))
    return path


async def test_a_certificate_is_verified_with_the_trust_of_the_application(
    a_server: Any, certificate: Path
) -> None:
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate)
    async with a_server(stay, tls=served) as server:
        trusting = ssl.create_default_context(cafile=str(certificate))
        async with connect(server.url, token="t", tls=trusting) as client:
            assert client.state == "open"
        await fails(server.url, "1006: .*CERTIFICATE_VERIFY_FAILED")
