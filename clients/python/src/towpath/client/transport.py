"""One WebSocket: frames in, frames out, and one word when it ends. The only user of ``websockets``.

Guarantees: ``ended`` is called once, unless :meth:`Transport.mute` came first; nothing is heard after either. A write
never waits: a peer that does not read is found by the session's heartbeat. No socket outlives :meth:`Transport.run`.
"""

import asyncio
import contextlib
import email.utils
import ssl
import time
from collections.abc import Callable
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from towpath.client.errors import TowpathError
from towpath.client.events import Disconnected
from towpath.client.reconnect import ABNORMAL

_SUBPROTOCOL: Final = Subprotocol("towpath.v1")

#: A little less than the session's wait for the welcome, since this reason is more precise.
_OPEN_TIME: Final = 9.0
#: For the closing handshake; then the connection is cut.
_CLOSE_TIME: Final = 1.0
#: A frame over it ends the connection. Gateways send less than 1 MiB; this is only to keep memory.
_MAX_FRAME_BYTES: Final = 64 * 2**20


def checked_url(url: Any) -> str:
    """``url`` if a WebSocket can be opened there.

    Raises:
        TowpathError: ``bad_url``.
    """
    try:
        parsed = parse_uri(url)
    except (InvalidURI, ValueError, TypeError, AttributeError) as cause:
        message = f"{url!r} is not a WebSocket address; such as wss://example.org/ws."
        raise TowpathError("bad_url", message, details={"url": repr(url)}) from cause
    if parsed.user_info is not None:
        host = f"{parsed.host}:{parsed.port}"
        raise TowpathError(
            "bad_url", f"The address of {host} holds a user and a password; pass `token` instead."
        )
    return str(url)


class Transport:
    """One connection, or the attempt at one.

    Args:
        url: Where to, as :func:`checked_url` passed it.
        token: The JWT.
        tls: For ``wss``; ``None`` trusts what the system trusts.
        heard: Called with each frame, ``bytes`` for a binary one.
        ended: Called with how it ended.
    """

    def __init__(
        self,
        url: str,
        token: str,
        tls: ssl.SSLContext | None,
        *,
        heard: Callable[[str | bytes], None],
        ended: Callable[[Disconnected], None],
    ) -> None:
        self._url = url
        self._token = token
        self._tls = tls
        self._heard = heard
        self._ended = ended
        self._muted = False
        self._socket: ClientConnection | None = None
        self._opening: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        """Connect, and hand frames over until the end."""
        if self._muted:
            return
        ending = await self._converse()
        if not self._muted:
            self._ended(ending)

    def send(self, text: bytes) -> None:
        """Send one text frame. It is lost if the connection is already closing."""
        socket = self._socket
        if socket is not None and socket.protocol.state is State.OPEN and not socket.transport.is_closing():
            socket.protocol.send_text(text)
            socket.send_data()

    def mute(self) -> None:
        """From now on nothing is to be heard of it."""
        self._muted = True
        if self._opening is not None:
            self._opening.cancel()

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye, and cut the connection of a peer that does not answer to that."""
        socket = self._socket
        if socket is None:
            return
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIME):
                    await socket.close(code, reason)
        finally:
            socket.transport.abort()

    async def _converse(self) -> Disconnected:
        self._opening = asyncio.current_task()
        try:
            socket = await self._open()
        except InvalidStatus as refusal:
            return _refused(refusal.response)
        except Exception as error:  # OSError, InvalidHandshake, ProxyError, a missing module for some proxy …
            return Disconnected(ABNORMAL, str(error) or type(error).__name__)
        finally:
            self._opening = None
        self._socket = socket
        try:
            while True:
                frame = await socket.recv()
                if not self._muted:
                    self._heard(frame)
        except ConnectionClosed:
            # RFC 6455, section 7.1.5: 1006 where no close frame was received.
            return Disconnected(socket.close_code or ABNORMAL, socket.close_reason or "")
        finally:
            self._socket = None
            socket.transport.abort()

    async def _open(self) -> ClientConnection:
        options: dict[str, Any] = {}
        if self._tls is not None and self._url.lower().startswith("wss:"):
            options["ssl"] = self._tls
        return await connect(
            self._url,
            # In a header, never in the URL (protocol.md, "Connecting").
            additional_headers={"Authorization": f"Bearer {self._token}"},
            subprotocols=[_SUBPROTOCOL],
            compression=None,
            open_timeout=_OPEN_TIME,
            ping_interval=None,  # the session pings
            close_timeout=_CLOSE_TIME,
            max_size=_MAX_FRAME_BYTES,
            **options,
        )


def _refused(response: Response) -> Disconnected:
    said = (response.body or b"")[:200].decode(errors="replace").strip().partition("\n")[0]
    advice = next(iter(response.headers.get_all("Retry-After")), None)
    return Disconnected(
        ABNORMAL,
        said,
        status=response.status_code,
        retry_after_ms=None if advice is None else _wait_ms(advice),
    )


def _wait_ms(advice: str) -> float | None:
    """``Retry-After`` in milliseconds: seconds or a date (RFC 9110, section 10.2.3)."""
    if advice.isascii() and advice.isdigit():
        return 1000 * int(advice[:9])
    try:
        then = email.utils.parsedate_to_datetime(advice)
    except ValueError:
        return None
    return max(0, round(1000 * (then.timestamp() - time.time())))
