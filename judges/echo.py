"""An echo of the gateway's own WebSocket: its listener, its sockets and its receiver; only the host differs.

Autobahn judges frames, not envelopes: what the gateway does with a text is replaced by sending it back, the handshake
admits each client, and a session closes without its own frame ``session.closing`` before the close frame.

The limits are those of the gateway, but for two: a frame may be as large as the setting allows (Autobahn's largest
message has 16 MiB), and rates are off, because a test suite is a flood.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
import uvloop
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from towpath.gateway.admission import descriptor_share
from towpath.gateway.admission.connect_rates import ConnectRates
from towpath.gateway.admission.credentials import Identity
from towpath.gateway.sessions.limits import Limits
from towpath.gateway.sessions.session import Session
from towpath.gateway.settings import GatewaySettings
from towpath.gateway.websocket.handshake import Handshake
from towpath.gateway.websocket.listener import Listener
from towpath.gateway.websocket.socket import Shared, Socket
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.processes import free_port
from towpath.testkit.tokens import SECRET

_FAR_AWAY: Final = 4e9  # seconds since 1970: the year 2096


class OpenDoor(Handshake):
    """Admits each client, and needs no token."""

    def __init__(self) -> None:
        """It has none of the parts of a handshake, because it checks nothing."""

    async def check(self, connection: ServerConnection, request: Request) -> Response | None:
        assert isinstance(connection, Socket)
        connection.identity = Identity("autobahn", expires_at=_FAR_AWAY)
        connection.admitted()
        return None


class QuietSession(Session):
    """A session that announces no close, since Autobahn takes each text frame for an echo."""

    def close(self, code: int, reason: str, *, retry_after: float | None = None) -> None:
        self._socket.close_with(code, reason)


class EchoHost:
    """Sends each text back."""

    def __init__(self, settings: GatewaySettings, telemetry: Telemetry) -> None:
        self._settings = settings
        self._limits = Limits(settings, telemetry)

    @asynccontextmanager
    async def routed_to(self, user_id: str) -> AsyncIterator[None]:
        yield

    def open(self, socket: Socket) -> Session:
        return QuietSession(socket, socket.identity, self._settings, self._limits)

    def receive(self, session: Session, text: bytes) -> None:
        session.send_text(text)

    def close(self, session: Session, code: int | None) -> None:
        """Nothing to do."""


async def serve(port: int) -> None:
    """Serve until cancelled."""
    unlimited: dict[str, Any] = dict.fromkeys(
        (
            "rate_per_connection",
            "rate_per_user",
            "rate_per_address",
            "connects_per_user",
            "connects_per_address",
        ),
        0.0,
    )
    settings = GatewaySettings(
        port=port,
        auth_secret=SECRET,
        max_connections=100,
        max_frame_bytes=16 * 2**20,
        send_buffer_bytes=32 * 2**20,
        **unlimited,
    )
    telemetry = Telemetry("echo", settings)
    shared = Shared.of(
        descriptor_share.claim(settings), ConnectRates(settings, telemetry), settings, telemetry
    )
    async with Listener(EchoHost(settings, telemetry), OpenDoor(), shared, settings).open():
        sys.stdout.write(f"{port}\n")  # it listens
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )  # the port has stdout to itself
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(free_port()))
