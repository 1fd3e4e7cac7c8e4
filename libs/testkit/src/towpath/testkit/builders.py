"""Builders: messages for services, as gateways and other backends publish them.

Only the part that matters to a test has to be given; ids and times are made.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from towpath.protocol.envelope import Envelope, make
from towpath.protocol.messages import Session, encode, wrap_command
from towpath.protocol.routes import COMMANDS, EVENTS, PUSH, command_key, user_key

#: The gateway of the connections that :func:`a_command` names.
GATEWAY: Final = "gw-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One message, as another program publishes it.

    Attributes:
        item: One JSON text.
        service: The service that publishes it, if one does.
    """

    exchange: str
    routing_key: str
    item: bytes
    app_id: str | None
    service: str | None = None


def a_command(
    action: str,
    payload: Mapping[str, Any] | None = None,
    /,
    *,
    by: str = "alice",
    on: str = "c-1",
    msg_id: str | None = None,
    key: str | None = None,
    scope: str | None = None,
    **data: Any,
) -> Incoming:
    """A client's envelope as a gateway passes it on.

    Args:
        payload: The data, or a part of it: for fields that are named like an argument.
        by: The user.
        on: The connection, of gateway :data:`GATEWAY`.
        msg_id: The idempotency key; a new one by default.
        key: The ordering key; by default the user's own.
        scope: The domains that the user's token allows; ``None`` for all.
        data: The fields of the data.

    Example:
        >>> a_command("order.get", by="ana", order_id="o-1").app_id
        'gateway'
    """
    envelope = make(action, {**(payload or {}), **data}, msg_id=msg_id, key=key)
    session = Session(user_id=by, connection_id=on, gateway_id=GATEWAY, scope=scope)
    return Incoming(
        exchange=COMMANDS,
        routing_key=command_key(envelope.domain, key or by),
        item=wrap_command(encode(session), envelope.to_json()),
        app_id="gateway",
    )


def an_event(
    action: str,
    payload: Mapping[str, Any] | None = None,
    /,
    *,
    msg_id: str | None = None,
    sender: str | None = "backend",
    service: str | None = None,
    **data: Any,
) -> Incoming:
    """An event on ``towpath.events``.

    Args:
        payload: As for :func:`a_command`.
        msg_id: The same id of the same sender is the same event; a new one by default.
        sender: The ``app_id`` of the backend that publishes it.
        service: The service that publishes it, if one does.
        data: The fields of the data.

    Example:
        >>> an_event("order.paid", order_id="o-1").routing_key
        'order.paid'
    """
    item = make(action, {**(payload or {}), **data}, msg_id=msg_id).to_json()
    return Incoming(exchange=EVENTS, routing_key=action, item=item, app_id=sender, service=service)


def a_push(
    user: str,
    action: str,
    payload: Mapping[str, Any] | None = None,
    /,
    *,
    sender: str | None = "backend",
    **data: Any,
) -> Incoming:
    """A push of a backend to all connections of a user.

    Args:
        payload, sender, data: As for :func:`an_event`.

    Example:
        >>> a_push("ana", "shop.sale", percent=20).routing_key
        'user.ana'
    """
    item = make(action, {**(payload or {}), **data}).to_json()
    return Incoming(exchange=PUSH, routing_key=user_key(user), item=item, app_id=sender)


def an_envelope(
    action: str,
    payload: Mapping[str, Any] | None = None,
    /,
    *,
    msg_id: str | None = None,
    key: str | None = None,
    ack: bool | None = None,
    **data: Any,
) -> Envelope:
    """An envelope, as a client sends it.

    Args:
        payload, data: As for :func:`a_command`.
        ack: Whether the client wants ``accepted``.

    Example:
        >>> an_envelope("order.get", {"key": "o-1"}, key="k-1", order_id="o-2").data
        {'key': 'o-1', 'order_id': 'o-2'}
    """
    return make(action, {**(payload or {}), **data}, msg_id=msg_id, key=key, ack=ack)
