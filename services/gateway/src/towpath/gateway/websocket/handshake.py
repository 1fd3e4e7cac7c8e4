"""The opening handshake: checks an HTTP request, and answers with 101 or with the reason of the refusal.

Guarantees: every refusal has a status, and a text that says what to do. The checks that cost least and limit most
come first: no signature is checked for an address that connects too often. Nothing of a token gets into an answer. A
token with an unknown key waits for one fetch of keys, for ``jwks_timeout`` seconds at most.

=======  =============================================================================
status   reason
=======  =============================================================================
429      too many connects of this address or user; with Retry-After
404      another path than ``/ws``
400      a header twice that must be unique
403      an Origin that is not allowed
503      the replica is not ready, is full, or stops, or cannot fetch the keys of the token's issuer; with Retry-After
401      no token, or one that is not valid
=======  =============================================================================
"""

import asyncio
import http
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Final
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.headers import parse_subprotocol
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from towpath.gateway.admission.connect_rates import By, ConnectRates
from towpath.gateway.admission.credentials import (
    SUBPROTOCOL,
    Admission,
    Identity,
    KeyUnknown,
    TokenRefused,
    bearer_token,
)
from towpath.gateway.admission.reasons import Reason
from towpath.gateway.settings import GatewaySettings
from towpath.gateway.websocket.socket import Socket
from towpath.servicekit.runtime.sampled_log import SampledLog
from towpath.servicekit.runtime.telemetry import Telemetry

PATH: Final = "/ws"
#: Headers that must not be repeated, because it would be ambiguous which one counts.
_ONCE: Final = ("Origin", "Authorization", "Host")


#: Logged already, by `connect_rates`.
_LOGGED: Final = (Reason.ADDRESS_RATE, Reason.USER_RATE)


class Handshake:
    """Checks the handshakes of one listener.

    Args:
        refusing: Returns why new connections are refused with 503 for now, in a word and as a text; ``None`` while
            they are accepted.
    """

    def __init__(
        self,
        admission: Admission,
        rates: ConnectRates,
        refusing: Callable[[], tuple[Reason, str] | None],
        settings: GatewaySettings,
        telemetry: Telemetry,
    ) -> None:
        self._admission = admission
        self._rates = rates
        self._refusing = refusing
        self._refusal_delay = settings.refusal_delay
        self._retry_after = settings.retry_after
        counters = {
            reason: telemetry.counter(
                "connections_refused", "Handshakes refused, by reason", {"reason": reason.value}
            )
            for reason in Reason
        }
        self._logs = {
            reason: SampledLog("connection_refused", counter) for reason, counter in counters.items()
        }
        self._counters = counters

    async def check(self, connection: ServerConnection, request: Request) -> Response | None:
        """Check one handshake; returns the refusal, or ``None``."""
        assert isinstance(connection, Socket)
        refusal = self._refuse(connection, request) or await self._admit(connection, request)
        if refusal is not None and refusal.status_code == http.HTTPStatus.TOO_MANY_REQUESTS:
            # Slows down clients that reconnect at once; a delayed refusal counts as a handshake.
            await asyncio.sleep(self._refusal_delay)
        return refusal

    def _refuse(self, socket: Socket, request: Request) -> Response | None:
        headers = request.headers
        # Before any limit: behind a trusted proxy the TCP peer is the proxy, and all its clients would share one
        # limit.
        socket.locate(headers.get_all("X-Forwarded-For"))
        # First, before a signature is checked: a client must not make this replica work as fast as it can send.
        if refusal := self._refuse_too_often(socket, "address", socket.address):
            return refusal
        # RFC 6455, section 4.2.2, step 4: a server that does not offer the requested resource answers with 404.
        if _path_of(request.path) != PATH:
            return self._refusal(socket, Reason.PATH, 404, f"nothing here; connect to {PATH}")
        # RFC 9110, section 5.3: a sender must not repeat a header whose value is not a list. A proxy in front may
        # have checked the first value, and this gateway would use the second.
        for name in _ONCE:
            if len(headers.get_all(name)) > 1:
                return self._refusal(socket, Reason.HEADER, 400, f"the header {name} occurs more than once")
        origin = headers.get("Origin")
        # RFC 6455, sections 4.2.2 and 10.2: a page of another site could use this user's browser, so its Origin gets
        # 403.
        if not self._admission.admits_origin(origin):
            return self._refusal(
                socket,
                Reason.ORIGIN,
                403,
                f"origin {origin!r} may not connect; it is not in TOWPATH_ALLOWED_ORIGINS",
            )
        # Before the token: a replica that accepts no connection should not spend its time on signatures.
        return self._refuse_for_now(socket, self._refusing())

    async def _admit(self, socket: Socket, request: Request) -> Response | None:
        """Identify the user; returns the refusal, or ``None`` once the socket is admitted."""
        try:
            # RFC 6455, section 4.2.2, step 2: a server may authenticate the client by HTTP, with 401 and
            # WWW-Authenticate.
            token = bearer_token(request.headers.get("Authorization"), _offered(request))
            socket.identity = await self._identify(token)
        except TokenRefused as error:
            if isinstance(error, KeyUnknown) and not error.source.has_keys:
                # The token may be good, and a client that gets 401 would throw it away.
                return self._refuse_for_now(socket, (Reason.NO_KEYS, str(error)))
            return self._refusal(socket, error.reason, 401, str(error), {"WWW-Authenticate": "Bearer"})
        # Again: the replica may have filled up while this waited for keys, or begun to stop.
        if refusal := self._refuse_for_now(socket, self._refusing()):
            return refusal
        # Only now, since a user id is worth nothing before its signature is checked: anyone could use up another
        # user's limit.
        if refusal := self._refuse_too_often(socket, "user", socket.identity.user_id):
            return refusal
        # Last: from here on the socket does not count as a handshake, and no other client's handshake can abort it.
        socket.admitted()
        return None

    async def _identify(self, token: str | None) -> Identity:
        try:
            return self._admission.identify(token)
        except KeyUnknown as unknown:
            # The issuer may have begun to sign with a new key.
            if not await unknown.source.fetched():
                raise
        return self._admission.identify(token)

    def _refuse_for_now(self, socket: Socket, why: tuple[Reason, str] | None) -> Response | None:
        if why is None:
            return None
        reason, text = why
        return self._refusal(
            socket, reason, 503, text, {"Retry-After": str(max(1, round(self._retry_after)))}
        )

    def _refuse_too_often(self, socket: Socket, by: By, key: str) -> Response | None:
        if not (wait := self._rates.charge(by, key)):
            return None
        reason = Reason.ADDRESS_RATE if by == "address" else Reason.USER_RATE
        return self._refusal(
            socket,
            reason,
            429,
            f"too many connects of this {by}; try again",
            {"Retry-After": str(ceil(wait))},
        )

    def _refusal(
        self,
        socket: Socket,
        reason: Reason,
        status: int,
        text: str,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        self._count(socket, reason, status, text)
        response = socket.respond(http.HTTPStatus(status), text + "\n")
        for name, value in (headers or {}).items():
            response.headers[name] = value
        return response

    def _count(self, socket: Socket, reason: Reason, status: int, text: str) -> None:
        if reason in _LOGGED:
            self._counters[reason].add(1)
        else:
            self._logs[reason].add(
                1, reason=reason.value, status=status, address=socket.address, error=text[:300]
            )

    def select_subprotocol(
        self, connection: ServerConnection, offered: Sequence[Subprotocol]
    ) -> Subprotocol | None:
        """Our subprotocol, if any was offered: a browser sends its token in another (RFC 6455, section 4.2.2)."""
        # RFC 6455, section 4.1: a client fails the connection if the answer names a subprotocol that it did not
        # offer.
        if not offered:
            return None
        if SUBPROTOCOL in offered:
            return Subprotocol(SUBPROTOCOL)
        # The client wants a subprotocol and knows none of ours, so it would not understand one frame.
        text = f"offer the subprotocol {SUBPROTOCOL}"
        assert isinstance(connection, Socket)
        self._count(connection, Reason.SUBPROTOCOL, 400, text)
        raise NegotiationError(text)


def _path_of(target: str) -> str | None:
    """The path of a request target (RFC 9112, section 3.2); ``None`` if it cannot be parsed."""
    if not target.startswith("/"):
        try:
            # The absolute form, which section 3.2.2 demands that servers accept.
            target = urlsplit(target).path
        except ValueError:
            return None
    return target.partition("?")[0].partition("#")[0]


def _offered(request: Request) -> list[str]:
    try:
        return [
            subprotocol
            for header in request.headers.get_all("Sec-WebSocket-Protocol")
            for subprotocol in parse_subprotocol(header)
        ]
    except InvalidHeader:
        # Not refused here: the library answers 400 to it when it negotiates the subprotocol.
        return []
