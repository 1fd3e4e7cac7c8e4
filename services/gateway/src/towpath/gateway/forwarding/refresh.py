"""Refresh: ``session.refresh`` lets a connection continue under a new token.

Guarantees: the connection keeps its user and its issuer; another one's token is ``forbidden``. Nothing waits: a token
with an unknown key is checked again when a fetch of keys has ended, for one request of a connection and
:data:`_WAITING_MAX` in all; more are ``busy``.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from towpath.gateway.admission.credentials import Admission, Identity, KeyUnknown, TokenRefused
from towpath.gateway.sessions.session import Session
from towpath.protocol.envelope import Head, parse
from towpath.protocol.errors import Busy, ErrorCode, Forbidden, InvalidData, TowpathError, Unavailable

REFRESH: Final = "session.refresh"
#: Each keeps its token, of 8 KiB at most unless set otherwise, for as long as a fetch takes.
_WAITING_MAX: Final = 1_000
_RETRY_AFTER_MS: Final = 1000


class Refresh:
    """Handles the requests of all sessions.

    Args:
        refuse: Sends an error to a session, with the `msg_id` of its request.
    """

    def __init__(self, admission: Admission, refuse: Callable[[Session, str, TowpathError], None]) -> None:
        self._admission = admission
        self._refuse = refuse
        #: Sessions whose request waits for keys.
        self._waiting: set[Session] = set()

    def handle(self, session: Session, envelope: Head, text: bytes) -> None:
        """Answer one request.

        Raises:
            TowpathError
        """
        # The only request whose `data` the gateway reads.
        token = parse(text).data.get("token")
        if not isinstance(token, str):
            raise InvalidData("data refused: token: must be a string with the new JWT.")
        try:
            identity = self._admission.identify(token)
        except KeyUnknown as unknown:
            # The issuer may have begun to sign with a new key.
            if (fetching := unknown.source.fetch_soon()) is None:
                raise _error_of(unknown) from None
            self._wait(session, envelope.msg_id, token, fetching)
        except TokenRefused as error:
            raise _error_of(error) from None
        else:
            _go_on(session, envelope.msg_id, identity)

    def _wait(self, session: Session, msg_id: str, token: str, fetching: "asyncio.Future[None]") -> None:
        if session in self._waiting or len(self._waiting) >= _WAITING_MAX:
            raise Busy("A refresh waits for the keys of its issuer.", retry_after_ms=_RETRY_AFTER_MS)

        def fetched(_: object) -> None:
            self._waiting.discard(session)
            if session.is_over:
                return
            try:
                _go_on(session, msg_id, self._admission.identify(token))
            except TokenRefused as error:
                self._refuse(session, msg_id, _error_of(error))
            except TowpathError as error:
                self._refuse(session, msg_id, error)

        self._waiting.add(session)
        fetching.add_done_callback(fetched)


def _go_on(session: Session, msg_id: str, identity: Identity) -> None:
    # Groups, limits and bindings of this connection belong to its user.
    if identity.user_id != session.user_id:
        raise Forbidden("The new token is another user's; open a new connection for it.")
    if identity.issuer != session.identity.issuer:
        raise Forbidden("The new token is another issuer's; open a new connection for it.")
    session.use_identity(identity)
    session.send_own(f"{REFRESH}.ok", {"expires_at": int(identity.expires_at * 1000)}, correlation_id=msg_id)


def _error_of(refused: TokenRefused) -> TowpathError:
    if isinstance(refused, KeyUnknown) and not refused.source.has_keys:
        # The token may be good.
        return Unavailable(
            "The keys of the token's issuer cannot be fetched.", retry_after_ms=_RETRY_AFTER_MS
        )
    return TowpathError(f"Token refused: {refused}.", code=ErrorCode.UNAUTHORIZED)
