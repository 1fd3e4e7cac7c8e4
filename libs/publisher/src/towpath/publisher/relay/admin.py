"""The admin port of the relay: ``/health/live``, ``/health/ready`` and ``/metrics``, as Towpath's programs have it.

Written on sockets, because the relay is installed without a web framework. Each connection is closed after its
answer, and has five seconds for its request.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

_SECONDS: Final = 5.0
_REQUEST_MAX: Final = 8 * 1024
_JSON: Final = "application/json; charset=utf-8"
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"

#: Name → (help, kind, value).
Metrics = Mapping[str, tuple[str, str, float]]


@asynccontextmanager
async def serve_admin(
    host: str, port: int, failing: Callable[[], Sequence[str]], metrics: Callable[[], Metrics]
) -> AsyncIterator[int]:
    """Serve from entry to exit; yields the port.

    Args:
        failing: The names of the checks that fail; none if the program is ready.

    Raises:
        OSError: The port cannot be used.
    """

    def answer(path: str) -> tuple[str, str, str]:
        if path == "/health/live":
            return "200 OK", _JSON, json.dumps({"status": "live"})
        if path == "/health/ready":
            if checks := list(failing()):
                return (
                    "503 Service Unavailable",
                    _JSON,
                    json.dumps({"status": "not ready", "failing": checks}),
                )
            return "200 OK", _JSON, json.dumps({"status": "ready"})
        if path == "/metrics":
            return "200 OK", _TEXT, exposition(metrics())
        return "404 Not Found", _TEXT, "/health/live, /health/ready and /metrics are here\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
                path = request.split(b" ", 2)[1].partition(b"?")[0].decode("ascii", "replace")
                status, kind, body = answer(path)
                content = body.encode()
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + content
                )
                await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, IndexError):
            pass  # Not a request, or its sender is gone.
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, host, port, limit=_REQUEST_MAX)
    async with server:
        yield server.sockets[0].getsockname()[1]


def exposition(metrics: Metrics) -> str:
    """The text format of Prometheus: https://prometheus.io/docs/instrumenting/exposition_formats/"""
    return "".join(
        f"# HELP {name} {text}\n# TYPE {name} {kind}\n{name} {value:g}\n"
        for name, (text, kind, value) in metrics.items()
    )
