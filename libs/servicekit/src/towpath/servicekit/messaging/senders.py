"""Senders: the identity of a request's sender, so that the ids of different senders never collide.

Guarantees:

* Users, backends and services are different kinds: their ids do not collide, whatever their names.
* A backend is identified by the account that RabbitMQ validated (``user_id``,
  https://www.rabbitmq.com/docs/validated-user-id), if it is set, and by its ``app_id``. Without both, its events are
  distinguished by exchange, action and subject, and a warning is logged once for each exchange and action.
* An event that is redelivered from a retry queue, or is replayed, keeps its sender.
* A sender has at most :data:`MAX_LENGTH` characters.
"""

import hashlib
from typing import Final
from urllib.parse import quote

import structlog

from towpath.servicekit.broker.interface import Delivery

log = structlog.get_logger(__name__)

#: The header with the service's name on everything that services publish.
SERVICE: Final = "x-service"
#: The header that keeps the sender of an event while it waits in a retry queue or is parked.
SENDER: Final = "x-sender"

MAX_LENGTH: Final = 300
_WARNED_MOST: Final = 1_000
_warned: set[tuple[str, str]] = set()


def user(user_id: str) -> str:
    """A user, identified by the token."""
    return f"user:{user_id}"


def publisher(
    delivery: Delivery, action: str, subject: str, *, service: str | None, was_deferred: bool
) -> str:
    """The publisher of an event.

    Args:
        subject: The subject of the event, defined by its service; only used if the sender is not known.
        service: The service that published it, if it was one (:mod:`towpath.servicekit.messaging.sources`).
        was_deferred: Whether it comes from a retry queue, or was replayed by an operator.
    """
    if was_deferred and isinstance(known := delivery.headers.get(SENDER), str) and known:
        return _bounded(known)
    if service:
        return _bounded(f"service:{_word(service)}")
    account, app_id = delivery.user_id, delivery.app_id
    if account or app_id:
        name = _word(app_id) if app_id else ""
        return _bounded(f"backend:{name}@{_word(account)}" if account else f"backend:{name}")
    _warn(delivery.exchange, action)
    return _bounded(f"anonymous:{_word(delivery.exchange)}/{action}/{subject}")


def _word(name: str) -> str:
    return quote(name, safe="", errors="surrogatepass")


def _bounded(sender: str) -> str:
    if len(sender) <= MAX_LENGTH:
        return sender
    kind = sender.partition(":")[0]
    return f"{kind}:~{hashlib.sha256(sender.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _warn(exchange: str, action: str) -> None:
    kind = exchange, action
    if kind not in _warned and len(_warned) < _WARNED_MOST:
        _warned.add(kind)
        log.warning(
            "sender_unknown",
            exchange=exchange,
            action=action,
            remedy="set the AMQP property app_id: else equal ids of two backends may be taken for one",
        )
