"""Hostile and broken requests: each gets its own clear refusal, and costs the ingress nothing."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import pytest_asyncio

from services.ingress.tests.running import IngressUnderTest, RunIngress, a_consumer, an_ingress

LIMITS: Final[dict[str, Any]] = {
    "body_max_bytes": 64 * 1024,
    "header_max_bytes": 4096,
    "items_max": 50,
    "nesting_max": 10,
    "header_timeout": 0.5,
    "body_timeout": 0.5,
    "request_timeout": 2.0,
    "keep_alive": 1.0,
}
PAID: Final = b'{"action":"order.paid","data":{}}'
KEY: Final = b"<key>"
HEAD: Final = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer <key>\r\n"
JSON: Final = b"Content-Type: application/json\r\n"


def a_request(body: bytes, *, headers: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return HEAD + JSON + headers + length + b"\r\n" + body


def an_event(data: bytes = b"{}", action: bytes = b'"order.paid"', more: bytes = b"") -> bytes:
    return a_request(b'{"action":' + action + b',"data":' + data + more + b"}")


#: The bytes of a request; the status, and a part of the detail of its answer.
HOSTILE: Final[dict[str, tuple[bytes, int, str]]] = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "not HTTP/1.1"),
    "two lengths": (HEAD + JSON + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, "not HTTP/1.1"),
    "a negative length": (HEAD + JSON + b"Content-Length: -1\r\n\r\n", 400, "not HTTP/1.1"),
    "a header with a line break": (HEAD + b"X: a\r\n\x00: b\r\n\r\n", 400, "not HTTP/1.1"),
    "an endless header": (HEAD + b"X: " + b"a" * 9000, 431, "more than 4096 bytes"),
    "a head that does not end": (HEAD, 408, "did not come within 0.5 s"),
    "a body that does not end": (HEAD + JSON + b"Content-Length: 9\r\n\r\n{", 408, "1 of 9 bytes came"),
    "no key": (b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 401, "Bearer <key>"),
    "the key of another": (a_request(PAID).replace(KEY, b"shop.c2VjcmV0"), 401, "Bearer <key>"),
    "the key as Basic": (a_request(PAID).replace(b"Bearer", b"Basic"), 401, "Bearer <key>"),
    "another path": (a_request(PAID).replace(b"/v1/events", b"/v1/events/../admin"), 404, "there are /v1/events"),
    "another method": (a_request(PAID).replace(b"POST", b"GET"), 405, "GET: use POST"),
    "no length": (HEAD + JSON + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411, "Content-Length"),
    "an announced giant": (HEAD + JSON + b"Content-Length: 999999999999\r\n\r\n", 413, "999999999999 bytes"),
    "a long length": (HEAD + JSON + b"Content-Length: " + b"9" * 100 + b"\r\n\r\n", 400, "bad Content-Length"),
    "a text": (a_request(PAID).replace(b"application/json", b"text/plain"), 415, "'text/plain': send"),
    "UTF-16": (a_request(PAID).replace(b"json\r", b"json; charset=utf-16\r"), 415, "utf-16"),
    "an empty body": (a_request(b""), 400, "is empty"),
    "half a document": (a_request(PAID[:-1]), 400, "not JSON"),
    "two documents": (a_request(PAID + PAID), 400, "not JSON"),
    "wrong UTF-8": (a_request(b'{"action":"\xff"}'), 400, "not UTF-8"),
    "a number": (a_request(b"7"), 422, "neither a JSON object"),
    "an empty array": (a_request(b"[]"), 422, "no items"),
    "an array of arrays": (a_request(b"[[" + PAID + b"]]"), 422, "The envelope is not a JSON object"),
    "too many items": (a_request(b"[" + b",".join([PAID] * 51) + b"]"), 413, "more than 50 items"),
    "deep nesting": (an_event(b'{"a":' * 30 + b"0" + b"}" * 30), 422, "nested deeper than 10"),
    "bottomless nesting": (a_request(b"[" * 30_000 + b"]" * 30_000), 400, "not JSON"),
    "bottomless data": (an_event(b'{"a":' * 5_000 + b"0" + b"}" * 5_000), 400, "not JSON"),
    "not a number": (an_event(b'{"a":NaN}'), 400, "not JSON"),
    "a number of 5,000 digits": (an_event(b'{"a":' + b"9" * 5_000 + b"}"), 422, ""),
    "half a surrogate": (an_event(b'{"a":"\\ud800"}'), 400, "half of a surrogate pair"),
    "an action without a domain": (an_event(action=b'"ping"'), 422, "'ping' has no domain"),
    "an action with a wildcard": (an_event(action=b'"order.*"'), 422, "action: String should match"),
    "an action with a line break": (an_event(action=b'"order.paid\\n"'), 422, "action: String should match"),
    "an event of gateways": (an_event(action=b'"session.ended"'), 403, "may not publish session.ended"),
    "an unknown field": (an_event(more=b',"msgid":"1"'), 422, "'msgid' is not a field"),
    "a forged sender": (an_event(more=b',"user_id":"root"'), 422, "'user_id' is not a field"),
    "an odd id": (an_event(more=b',"msg_id":"a b"'), 422, "msg_id: String should match"),
    "a time before all times": (an_event(more=b',"timestamp":-1'), 422, "timestamp: Input should be greater"),
    "another version": (an_event(more=b',"version":"2.0"'), 422, "Version 2.0"),
    "an odd idempotency key": (a_request(PAID, headers=b"Idempotency-Key: \x80\r\n"), 400, "visible ASCII"),
    "two idempotency keys": (
        a_request(PAID, headers=b"Idempotency-Key: a\r\nIdempotency-Key: b\r\n"), 400, "must be there once",
    ),
    "an endless idempotency key": (
        a_request(PAID, headers=b"Idempotency-Key: " + b"a" * 300 + b"\r\n"), 400, "1 to 255",
    ),
}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[IngressUnderTest]:
    """An ingress with small limits, behind which a service hears everything."""
    folder: Path = tmp_path_factory.mktemp("ingress")
    async with an_ingress(folder, **LIMITS) as ingress, a_consumer(ingress.hub):
        yield ingress


async def exchange(ingress: IngressUnderTest, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes on a connection of their own, and read one answer: status, headers, body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", ingress.settings.port)
    try:
        writer.write(sent.replace(KEY, ingress.key.encode()))
        async with asyncio.timeout(10):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            headers = {
                name.lower(): value for name, value in re.findall(r"^([\w-]+): (.*?)\r$", head, re.MULTILINE)
            }
            return int(head.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))
    finally:
        writer.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_request_is_refused_with_its_reason(shared: IngressUnderTest, name: str) -> None:
    sent, status, part = HOSTILE[name]
    found, headers, body = await exchange(shared, sent)
    problem = msgspec.json.decode(body)
    assert (found, problem["status"]) == (status, status), problem
    assert part in problem["detail"]
    assert headers["content-type"] == "application/problem+json"
    assert problem["type"].startswith("urn:towpath:problem:")
    assert problem["title"]
    assert shared.key not in body.decode()
    # The next one is served.
    assert (await exchange(shared, a_request(PAID)))[0] == 202


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("user_id", "part"),
    [
        (b'""', "must not be empty"),
        (b'"' + b"a" * 129 + b'"', "at most 128 characters"),
        (b'"' + "舟".encode() * 100 + b'"', "at most 200 bytes"),
        (b'"a\\nb"', "control characters"),
        (b"7", "Expected `str`"),
        (b"null", "Expected `str`"),
    ],
)
async def test_an_odd_user_is_refused_with_the_reason(
    shared: IngressUnderTest, user_id: bytes, part: str
) -> None:
    answer = await shared.post("/v1/push", b'{"user_id":' + user_id + b',"envelope":' + PAID + b"}")
    assert answer.status_code == 422
    assert part in answer.json()["detail"]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_connection_serves_on_after_a_refusal_with_an_unread_body(shared: IngressUnderTest) -> None:
    body = b"x" * 200_000
    first = await shared.post("/v1/events", body)
    second = await shared.post("/v1/events", body, key="shop.wrong")
    assert (first.status_code, second.status_code) == (413, 401)
    assert (await shared.events(PAID)).status_code == 202


@pytest.mark.asyncio(loop_scope="module")
async def test_an_idle_connection_is_closed(shared: IngressUnderTest) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.settings.port)
    writer.write(a_request(PAID).replace(KEY, shared.key.encode()))
    async with asyncio.timeout(10):
        assert (await reader.read()).startswith(b"HTTP/1.1 202 ")
    writer.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_drip_of_bytes_does_not_make_the_time_longer(shared: IngressUnderTest) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.settings.port)

    async def drip() -> None:
        for byte in HEAD * 100:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
    dripping.cancel()
    writer.close()


async def test_more_connections_than_allowed_are_answered_503(run_ingress: RunIngress) -> None:
    async with run_ingress(max_connections=3) as ingress:
        # One is held by the client that waited for the start.
        await ingress.http.aclose()
        held = [await asyncio.open_connection("127.0.0.1", ingress.settings.port) for _ in range(3)]
        status, headers, _ = await exchange(ingress, a_request(PAID))
        assert (status, headers["retry-after"], headers["connection"]) == (503, "2", "close")
        for _, writer in held:
            writer.close()


async def test_more_requests_at_once_than_allowed_are_answered_503(run_ingress: RunIngress) -> None:
    async with run_ingress(requests_max=2) as ingress, a_consumer(ingress.hub) as consumer:
        ingress.hub.hold_confirms()
        waiting = [asyncio.create_task(ingress.events(PAID)) for _ in range(2)]
        await consumer.take(2)
        answer = await ingress.events(PAID)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        ingress.hub.release_confirms()
        assert [one.status_code for one in await asyncio.gather(*waiting)] == [202, 202]


async def test_a_key_over_its_rate_gets_429_with_retry_after(run_ingress: RunIngress) -> None:
    async with run_ingress(rate_per_key=1, burst_per_key=10) as ingress, a_consumer(ingress.hub):
        items = b"[" + b",".join([PAID] * 8) + b"]"
        assert (await ingress.events(items)).status_code == 202
        answer = await ingress.events(items)
        assert answer.status_code == 429
        assert 5 <= int(answer.headers["retry-after"]) <= 7
        assert (await ingress.events(PAID)).status_code == 202


async def test_a_client_that_takes_no_answer_is_dropped(run_ingress: RunIngress) -> None:
    limits = LIMITS | {"items_max": 10_000, "body_max_bytes": 1024 * 1024}
    async with run_ingress(**limits) as ingress:
        reader, writer = await asyncio.open_connection("127.0.0.1", ingress.settings.port, limit=1)
        sent = a_request(b"[" + b",".join([b"{}"] * 10_000) + b"]").replace(KEY, ingress.key.encode())
        writer.write(sent * 20)
        try:
            async with asyncio.timeout(200):
                with pytest.raises(ConnectionError):
                    await until_lost(writer)
        finally:
            writer.transport.abort()
        assert reader.at_eof() or reader.exception() is not None


async def until_lost(writer: asyncio.StreamWriter) -> None:
    """Write until the connection is lost."""
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def test_no_key_is_in_the_log(run_ingress: RunIngress, caplog: pytest.LogCaptureFixture) -> None:
    async with run_ingress(log_level="debug") as ingress:
        for path in ("/v1/events", "/nowhere", f"/v1/events?key={ingress.key}"):
            await ingress.post(path, b"{")
        await exchange(ingress, b"\x00" + ingress.key.encode() + b"\r\n\r\n")
        assert ingress.key.partition(".")[2] not in caplog.text
