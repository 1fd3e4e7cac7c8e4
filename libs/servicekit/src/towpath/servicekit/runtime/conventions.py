"""Names of spans and of their attributes, in this one place: OpenTelemetry's conventions for messaging, and our own.

Sources, in the version of 2025, whose names for messaging are not declared stable yet:
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/

Guarantees: a span's name has few values (no id, no action that a client can invent), and no attribute has a payload,
a token or the name of a user.
"""

from typing import Any, Final

from opentelemetry.trace import SpanKind

# Names of spans

#: A client's request, from its frame to its answer: the root of its trace.
REQUEST: Final = "request"
#: One transaction of a service, with the handlers that run in it.
TRANSACTION: Final = "transaction"


def publish(exchange: str) -> str:
    """The span of one AMQP message, from its publish to its confirm."""
    return f"publish {exchange}"


def process(service: str) -> str:
    """The span of a unit of work, from its first query to its commit."""
    return f"process {service}"


def handle(action: str) -> str:
    """The span of one handler; ``action`` is one that the service declares."""
    return f"handle {action}"


def effect(name: str) -> str:
    """The span of one call to the outside."""
    return f"effect {name}"


def deliver(exchange: str) -> str:
    """The span of one AMQP message at a gateway, until all its receivers have it in their sockets."""
    return f"deliver {exchange}"


# Kinds: https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/#span-kind

SERVER: Final = SpanKind.SERVER
PRODUCER: Final = SpanKind.PRODUCER
CONSUMER: Final = SpanKind.CONSUMER
INTERNAL: Final = SpanKind.INTERNAL
CLIENT: Final = SpanKind.CLIENT

# Attributes of OpenTelemetry

SYSTEM: Final = "messaging.system"
OPERATION: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
CONSUMER_GROUP: Final = "messaging.consumer.group.name"
MESSAGE_ID: Final = "messaging.message.id"
BATCH: Final = "messaging.batch.message_count"
BODY_SIZE: Final = "messaging.message.body.size"
DATABASE: Final = "db.system.name"
PROTOCOL: Final = "network.protocol.name"
ERROR: Final = "error.type"

# Attributes of our own

#: The action of an envelope.
ACTION: Final = "towpath.action"
#: The connection of a client, by which the log has it.
CONNECTION: Final = "towpath.connection_id"
#: Of a push: ``user``, ``group``, ``connection``, ``control`` or ``everyone``.
ADDRESSED: Final = "towpath.addressed"
#: Connections that got it.
RECEIVERS: Final = "towpath.receivers"
#: The key of an effect.
EFFECT_KEY: Final = "towpath.effect.key"

_RABBITMQ: Final = "rabbitmq"


def sending(exchange: str, count: int, size: int) -> dict[str, Any]:
    """The attributes of a ``publish`` span.

    Args:
        count: The envelopes in the AMQP message.
        size: The bytes of its body.
    """
    return _messaging("publish", "send", exchange) | {BATCH: count, BODY_SIZE: size}


def processing(service: str, count: int) -> dict[str, Any]:
    """The attributes of a ``process`` span of ``count`` requests and events."""
    return _messaging("process", "process") | {CONSUMER_GROUP: service, BATCH: count}


def delivering(exchange: str, addressed: str, count: int, receivers: int) -> dict[str, Any]:
    """The attributes of a ``deliver`` span of ``count`` envelopes."""
    return _messaging("deliver", "process", exchange) | {
        ADDRESSED: addressed,
        BATCH: count,
        RECEIVERS: receivers,
    }


def _messaging(operation: str, kind: str, destination: str | None = None) -> dict[str, Any]:
    found = {SYSTEM: _RABBITMQ, OPERATION: operation, OPERATION_TYPE: kind}
    return found if destination is None else found | {DESTINATION: destination}
