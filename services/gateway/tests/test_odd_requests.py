"""Odd requests: each gets a clear answer, none is an error of the gateway, and none shows in its log."""

import asyncio
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from towpath.testkit.gateway import GatewayUnderTest, a_gateway
from towpath.testkit.tokens import a_token

UPGRADE: Final = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: towpath.v1\r\n"
)
TOKEN: Final = f"Authorization: Bearer {a_token('ana')}\r\n"
HOST: Final = "Host: gateway\r\n"


async def answer(gateway: GatewayUnderTest, request: bytes) -> tuple[int, str]:
    """Status and text of the answer; 0 where the gateway closes without one."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.port)
        try:
            writer.write(request)
            head = await reader.readline()
            if not head:
                return 0, ""
            status = int(head.split()[1])
            return status, "" if status == 101 else (await reader.read()).decode()
        finally:
            writer.close()


def a_request(target: str = "/ws", *, headers: str = HOST + TOKEN, line: str | None = None) -> bytes:
    return f"{line or f'GET {target} HTTP/1.1'}\r\n{headers}{UPGRADE}\r\n".encode("latin-1")


ODD: Final = [
    # Targets
    (a_request("//[ws"), 404, "connect to /ws"),
    (a_request("http://[::1/ws"), 404, "connect to /ws"),
    (a_request("//ws"), 404, "connect to /ws"),
    (a_request("//evil.example/ws"), 404, "connect to /ws"),
    (a_request("http://gateway:99999999/ws/../x"), 404, "connect to /ws"),
    (a_request("ws"), 404, "connect to /ws"),
    (a_request("*"), 404, "connect to /ws"),
    (a_request("/w%73"), 404, "connect to /ws"),
    (a_request("/%zz"), 404, "connect to /ws"),
    (a_request("/ws%00"), 404, "connect to /ws"),
    (a_request("/" + "x" * 8000), 404, "connect to /ws"),
    (a_request("/" + "x" * 10_000), 414, ""),
    (a_request("http://gateway/ws"), 101, ""),
    (a_request("/ws?a=[&b=%zz#c"), 101, ""),
    (a_request("/ws#fragment"), 101, ""),
    # Headers
    (a_request(headers=HOST + TOKEN + TOKEN), 400, "Authorization occurs more than once"),
    (
        a_request(headers=HOST + TOKEN + "Origin: https://a.example\r\nOrigin: https://b.example\r\n"),
        400,
        "Origin occurs more than once",
    ),
    (a_request(headers=HOST + HOST + TOKEN), 400, "Host occurs more than once"),
    (a_request(headers=HOST + TOKEN + "Origin: \xff\xfe\r\n"), 403, "may not connect"),
    (a_request(headers=TOKEN), 101, ""),
    (a_request(headers=HOST + "Authorization: Bearer \xe9\xe9.x.y\r\n"), 401, "not valid"),
    (a_request(headers=HOST + "Authorization:\r\n"), 401, "no token"),
    (a_request(headers=HOST + TOKEN + "X-Forwarded-For: , ,[::,\r\n"), 101, ""),
    (a_request(headers=HOST + TOKEN + "Sec-WebSocket-Key: twice\r\n"), 400, ""),
    (a_request(headers=HOST + TOKEN + "Sec-WebSocket-Protocol: ,,;=\r\n"), 400, ""),
    (a_request(headers=HOST + TOKEN + "Sec-WebSocket-Extensions: ;;\r\n"), 101, ""),
    (a_request(headers=HOST + TOKEN + f"X-Long: {'x' * 10_000}\r\n"), 431, ""),
    (a_request(headers=HOST + TOKEN + "X-Many: 1\r\n" * 200), 431, ""),
    # Invalid requests
    (a_request(headers=HOST + TOKEN + "X-Nul: a\x00b\r\n"), 400, "not an HTTP/1 request"),
    (a_request(headers=HOST + TOKEN + "no header at all\r\n"), 400, "not an HTTP/1 request"),
    (a_request(headers=HOST + TOKEN + "Content-Length: 5\r\n"), 400, "not an HTTP/1 request"),
    (a_request(headers=HOST + TOKEN + "Transfer-Encoding: chunked\r\n"), 400, "not an HTTP/1 request"),
    (a_request("/w\xe9"), 400, "not an HTTP/1 request"),
    (a_request(line="GET /ws HTTP/9.9"), 400, "not an HTTP/1 request"),
    (a_request(line="GET  /ws HTTP/1.1"), 400, "not an HTTP/1 request"),
    (a_request(line="nonsense"), 400, "not an HTTP/1 request"),
    (a_request(line="POST /ws HTTP/1.1"), 405, ""),
    (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, "not an HTTP/1 request"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "not an HTTP/1 request"),
]


@pytest.mark.parametrize(("request_bytes", "status", "text"), ODD, ids=range(len(ODD)))
async def test_an_odd_request_gets_a_clear_answer_and_no_log_line(
    gateway: GatewayUnderTest,
    capsys: pytest.CaptureFixture[str],
    request_bytes: bytes,
    status: int,
    text: str,
) -> None:
    got, said = await answer(gateway, request_bytes)
    assert got == status
    assert text in said
    logged = "".join(capsys.readouterr())
    assert "Traceback" not in logged
    assert "[error" not in logged


noise = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=20)
headers = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "Host",
                "Origin",
                "Authorization",
                "Upgrade",
                "Connection",
                "X-Forwarded-For",
                "Sec-WebSocket-Key",
                "Sec-WebSocket-Protocol",
                "Sec-WebSocket-Version",
                "Cookie",
                "Content-Length",
            ]
        ),
        noise | st.sampled_from(["Bearer ", "Basic YTpi", TOKEN[15:-2], "towpath.v1", "13", "websocket"]),
    ),
    max_size=6,
)


@given(target=noise | noise.map("/ws".__add__) | noise.map("http://".__add__), headers=headers)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_request_is_answered_without_an_error_of_the_gateway(
    target: str, headers: list[tuple[str, str]]
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)

    async def ask() -> int:
        async with a_gateway() as gateway:
            return (await answer(gateway, a_request(target, headers=lines)))[0]

    assert asyncio.run(ask()) in (101, 400, 401, 403, 404, 405, 414, 426, 431)
