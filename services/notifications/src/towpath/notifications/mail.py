"""Mails: an effect that gives one message to an SMTP server.

Guarantees: a mail is accepted once as far as SMTP allows. It is given to the server again only after a failure that
the server reported as temporary, or whose outcome is unknown (no answer, a lost connection, a dead process); then it
has the same ``Message-ID``, by which many servers and programs drop the second one. A permanent refusal (5xx) is not
tried again; a refused login is, since it is the operator's to correct. Nothing of a user can add a header: the
address is checked when it is set, and values are one line. A connection that should be encrypted is, and the server's
certificate is verified.
"""

import contextlib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import localtime
from typing import Final
from urllib.parse import urljoin

import aiosmtplib
from pydantic import BaseModel

from towpath.notifications import texts
from towpath.notifications.repository import Desk
from towpath.notifications.settings import NotificationsSettings
from towpath.protocol.envelope import make
from towpath.protocol.notifications import NotificationsMailed, NotificationsNotMailed
from towpath.servicekit import (
    BadSetting,
    EffectCall,
    EffectHandler,
    EffectParked,
    EffectRefused,
    Handler,
    Outcome,
)

SEND_MAIL: Final = "send_mail"
#: Commands of one delivery, each with its own time limit: connect, two EHLO, STARTTLS, AUTH in two steps, MAIL, RCPT,
#: DATA, the end of the data.
_COMMANDS: Final = 10
_FIRST_WAIT: Final = 10.0


class MailItem(BaseModel):
    """One notification in a mail."""

    title: str
    text: str
    link: str | None = None


class SendMail(BaseModel):
    """The data of the effect ``send_mail``.

    Attributes:
        items: Oldest first.
        more: The number of notifications that are not in it.
        last_seq: The last of them all.
    """

    user_id: str
    to: str
    language: str
    items: list[MailItem]
    more: int
    last_seq: int


class Mailer:
    """Gives mails to the SMTP server of the settings.

    Raises:
        BadSetting: The file of certificate authorities cannot be used.
    """

    def __init__(self, settings: NotificationsSettings) -> None:
        self._settings = settings
        self._sender = settings.smtp_from or ""
        self._tls = None if settings.smtp_tls == "none" else _tls(settings.smtp_ca)

    def effect(self) -> EffectHandler:
        """The row of the service's table of effects."""
        settings = self._settings
        return EffectHandler(
            model=SendMail,
            perform=self.send,
            done=Handler(NotificationsMailed, on_mailed),
            parked=Handler(EffectParked, on_parked),
            time_limit=min(_COMMANDS * settings.smtp_timeout, 3600.0),
            attempts=settings.mail_attempts,
            first_wait=_FIRST_WAIT,
            concurrency=settings.mails_at_once,
        )

    async def send(self, mail: SendMail, call: EffectCall) -> NotificationsMailed:
        """Give one mail to the server.

        Raises:
            EffectRefused: The server refuses it for good.
            SMTPException, OSError: It may be accepted later, or was accepted without an answer.
        """
        settings, message = self._settings, self.message(mail, call.id)
        client = aiosmtplib.SMTP(
            hostname=settings.smtp_host,
            port=settings.smtp_port,
            timeout=settings.smtp_timeout,
            use_tls=settings.smtp_tls == "tls",
            start_tls=settings.smtp_tls == "starttls",
            tls_context=self._tls,
            username=settings.smtp_user,
            password=settings.smtp_password,
        )
        try:
            await client.connect()
            try:
                await client.send_message(message, sender=self._sender, recipients=[mail.to])
            except aiosmtplib.SMTPRecipientsRefused as error:
                raise _judged(error.recipients[0]) from error
            except aiosmtplib.SMTPResponseException as error:
                raise _judged(error) from error
            # Without waiting for the answer: the mail is accepted, and nothing that happens now may send it again.
            with contextlib.suppress(Exception):
                if client.transport is not None:
                    client.transport.write(b"QUIT\r\n")  # type: ignore[attr-defined]
        finally:
            client.close()
        count = len(mail.items) + mail.more
        return NotificationsMailed(user_id=mail.user_id, count=count, seq=mail.last_seq)

    def message(self, mail: SendMail, message_id: str) -> EmailMessage:
        """The message; equal mails and ids give equal messages, except for their date."""
        subject, plain, html = texts.mail(mail.language, self._shown(mail.items), mail.more)
        message = EmailMessage(policy=SMTP_POLICY)
        message["From"] = self._sender
        message["To"] = mail.to
        message["Subject"] = subject
        message["Date"] = localtime()
        message["Message-ID"] = f"<{message_id}@{self._sender.rpartition('@')[2]}>"
        # No out-of-office reply to it: https://www.rfc-editor.org/rfc/rfc3834#section-5
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(plain)
        message.add_alternative(html, subtype="html")
        return message

    def _shown(self, items: Sequence[MailItem]) -> list[dict[str, str]]:
        base = self._settings.link_base
        return [
            {
                "title": item.title,
                "text": item.text,
                "url": urljoin(base, item.link) if base and item.link else "",
            }
            for item in items
        ]


def on_mailed(mailed: NotificationsMailed, _: Desk) -> Outcome:
    """Publish that a server has accepted the mail."""
    return Outcome(events=[make("notification.mailed", mailed.model_dump())])


def on_parked(effect: EffectParked, _: Desk) -> Outcome:
    """Publish that the mail could not be sent."""
    mail = SendMail.model_validate(effect.data)
    failed = NotificationsNotMailed(user_id=mail.user_id, seq=mail.last_seq, error=effect.error)
    return Outcome(events=[make("notification.mail_failed", failed.model_dump())])


def _judged(error: aiosmtplib.SMTPResponseException) -> Exception:
    """``error``, or a refusal for good."""
    # https://www.rfc-editor.org/rfc/rfc5321#section-4.2.1
    if 500 <= error.code <= 599 and not isinstance(error, aiosmtplib.SMTPAuthenticationError):
        return EffectRefused(f"{error.code} {texts.one_line(error.message)}")
    return error


def _tls(ca: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise BadSetting("TOWPATH_SMTP_CA", ca, f"cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
