"""Refusals by RabbitMQ (login, virtual host, permissions), as one line for the operator.

A refusal at the start ends the program: a retry would fail until an operator changes a setting or grants a
permission. Temporary limits (a connection limit, a virtual host that is down) do not count as refusals and are
retried: https://www.rabbitmq.com/docs/access-control
"""

import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Self

from yarl import URL

from towpath.servicekit.broker.interface import BrokerRefused
from towpath.servicekit.broker.rabbitmq.driver import (
    AuthenticationError,
    ChannelAccessRefused,
    ConnectionNotAllowed,
    ProbableAuthenticationError,
)
from towpath.servicekit.runtime.amqp_url import shown

_SETTING: Final = "TOWPATH_AMQP_URL"
_ACCESS_REFUSED: Final = 403
_NOT_ALLOWED: Final = 530
#: Temporary conditions that RabbitMQ also reports as "not allowed".
_PASSES: Final = re.compile(r"limit .*is reached|is down", re.DOTALL)
#: RabbitMQ 4: "configure access to queue 'q' in vhost 'v' refused for user 'u'"; 3 leaves out the first word.
_PERMISSION: Final = re.compile(
    r"(?:(configure|read|write) )?access to (\w+) '(.*?)' (?:in exchange '(.*?)' )?in vhost '(.*?)' "
    r"refused for user '(.*?)'",
    re.DOTALL,
)


class ClosedByBroker(ConnectionError):
    """RabbitMQ closed a connection during the handshake and gave a reason.

    Attributes:
        code: AMQP's reply code.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Untrusted(ConnectionError):
    """The TLS handshake failed because one side does not trust the other's certificate."""

    @classmethod
    def within(cls, error: BaseException) -> Self | None:
        """The distrust that caused ``error``, if one did."""
        seen: list[BaseException] = []  # Chains of the driver's errors may be circles.
        cause: BaseException | None = error
        while cause is not None and cause not in seen:
            seen.append(cause)
            if isinstance(cause, ssl.SSLCertVerificationError):
                return cls(f"its certificate is not trusted: {cause.verify_message}")
            # With TLS 1.3 RabbitMQ judges our certificate after the handshake, and its alert is read later.
            if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
                return cls(f"it does not accept this program's certificate: {cause.reason}")
            cause = cause.__cause__ or cause.__context__
        return None


def is_refusal(error: BaseException) -> bool:
    """Whether the broker answered and refused this client, or is not trusted."""
    if isinstance(error, ClosedByBroker):
        # 530 is also sent for limits that pass; only the text distinguishes them.
        return error.code in (_ACCESS_REFUSED, _NOT_ALLOWED) and not _PASSES.search(str(error))
    return isinstance(
        error, ProbableAuthenticationError | AuthenticationError | ConnectionNotAllowed | Untrusted
    )


def refused_connection(url: URL, error: BaseException) -> BrokerRefused:
    """The error for a refusal by all hosts at the first connect."""
    if isinstance(error, Untrusted):
        return BrokerRefused(f"{_SETTING}: no TLS connection to RabbitMQ at {shown(url)}: {error}")
    refused = (
        f"the virtual host {url.path.removeprefix('/') or '/'!r}"
        if isinstance(error, ClosedByBroker) and error.code == _NOT_ALLOWED
        else f"user {url.user or 'guest'!r} or the password"
    )
    return BrokerRefused(f"{_SETTING}: RabbitMQ at {shown(url)} refused {refused}: {error}")


def is_of_account(text: str) -> bool:
    """Whether RabbitMQ refused a message because it names another account than that of its connection."""
    return "user_id property" in text


def wrong_account(text: str) -> str:
    """The line for the operator about such a refusal."""
    return (
        f"TOWPATH_AMQP_USER_ID: RabbitMQ knows this connection under another name: {text}; set its account, "
        "or none"
    )


@contextmanager
def needs(**permissions: str) -> Iterator[None]:
    """Around one request to the broker: a missing permission is raised as :class:`BrokerRefused`.

    Args:
        permissions: Kind of resource → the permission needed. RabbitMQ 3 does not say which permission is missing.
    """
    try:
        yield
    except ChannelAccessRefused as error:
        raise BrokerRefused(_missing_permission(str(error), permissions)) from None


def _missing_permission(text: str, permissions: Mapping[str, str]) -> str:
    missing = _PERMISSION.search(text)
    if missing is None:
        return f"{_SETTING}: RabbitMQ refused access: {text}"
    verb, kind, name, exchange, vhost, user = missing.groups()
    verb = verb or permissions.get(kind, "use")
    where = f" of the exchange {exchange!r}" if exchange else ""
    return (
        f"{_SETTING}: user {user!r} lacks the permission to {verb} the {kind} {name!r}{where} "
        f"in virtual host {vhost!r}: grant it (`towpath broker setup`, `rabbitmqctl set_permissions`), "
        "or name another user"
    )
