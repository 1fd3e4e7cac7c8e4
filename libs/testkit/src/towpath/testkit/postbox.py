"""A real SMTP server (aiosmtpd) in the test's loop: it keeps what it accepts, and fails as the test asks."""

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


class Postbox:
    """The server; made with :meth:`open`.

    Attributes:
        mails: Accepted mails, also those whose acceptance the client does not learn of.
        deliveries: The recipient of each delivery that reached RCPT.
        replies: The answers to the next deliveries at the end of their data: a reply, an event to wait for, or
            ``"close"`` to accept the mail and close without an answer.
        refused: Recipient → the reply to RCPT.
        on_accept: Called when a mail is accepted, before the client learns of it.
        logins: The names of those who logged in.
    """

    def __init__(self) -> None:
        self.port = 0
        self.mails: list[EmailMessage] = []
        self.deliveries: list[str] = []
        self.replies: list[str | asyncio.Event] = []
        self.refused: dict[str, str] = {}
        self.on_accept: Callable[[], None] = lambda: None
        self.logins: list[str] = []

    @classmethod
    @asynccontextmanager
    async def open(
        cls, *, tls: ssl.SSLContext | None = None, from_start: bool = False, password: str | None = None
    ) -> AsyncIterator["Postbox"]:
        """A running server.

        Args:
            tls: It offers STARTTLS, and requires it.
            from_start: TLS from the first byte instead.
            password: It requires a login with this password.
        """
        box = cls()

        def authenticate(_: Any, __: Any, ___: Any, mechanism: str, data: LoginPassword) -> AuthResult:
            box.logins.append(data.login.decode())
            return AuthResult(success=data.password.decode() == password, handled=False)

        def protocol() -> SMTP:
            with warnings.catch_warnings():
                # With TLS from the first byte it does not know that there is TLS.
                warnings.simplefilter("ignore", UserWarning)
                return SMTP(
                    box,
                    hostname="postbox.test",
                    tls_context=None if from_start else tls,
                    require_starttls=tls is not None and not from_start,
                    authenticator=authenticate if password else None,
                    auth_required=password is not None,
                    auth_require_tls=not from_start,
                )

        loop = asyncio.get_running_loop()
        server = await loop.create_server(protocol, "127.0.0.1", 0, ssl=tls if from_start else None)
        box.port = server.sockets[0].getsockname()[1]
        try:
            yield box
        finally:
            server.close()

    # As aiosmtpd calls them

    async def handle_RCPT(  # aiosmtpd's name
        self, _: SMTP, __: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.deliveries.append(address)
        if (refusal := self.refused.get(address)) is not None:
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, _: Session, envelope: Envelope) -> str:
        reply = self.replies.pop(0) if self.replies else "250 Accepted"
        if isinstance(reply, asyncio.Event):
            await reply.wait()
            return "451 Too late"
        if reply != "close" and not reply.startswith("250"):
            return reply
        content = envelope.content
        assert isinstance(content, bytes)
        message = message_from_bytes(content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.mails.append(message)
        self.on_accept()
        if reply == "close":
            assert isinstance(server.transport, asyncio.WriteTransport)
            server.transport.abort()
        return "250 Accepted"
