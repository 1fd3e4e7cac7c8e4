"""Limits of every broker, checked before anything is sent. Pure functions, the same for both brokers."""

from typing import Final

from towpath.servicekit.broker.interface import Message, Unpublishable

MAX_KEY_BYTES: Final = 255  # AMQP 0-9-1 short string
#: Properties and headers are one frame. RabbitMQ accepts 128 KiB by default, and closes the connection above that.
MAX_HEADER_BYTES: Final = 64 * 1024
_INTEGERS: Final = range(-(2**63), 2**63)


def check(exchange: str, routing_key: str, message: Message, max_bytes: int) -> None:
    """Check a message against the limits of every broker.

    Raises:
        Unpublishable: No broker will accept it.
    """
    if len(message.body) > max_bytes and not message.as_received:
        raise too_large(len(message.body), max_bytes)
    try:
        if len(routing_key.encode()) > MAX_KEY_BYTES:
            raise Unpublishable(f"the routing key {routing_key[:40]!r}… has more than {MAX_KEY_BYTES} bytes")
        if len(exchange.encode()) > MAX_KEY_BYTES:
            raise Unpublishable(f"the exchange {exchange[:40]!r}… has more than {MAX_KEY_BYTES} bytes")
        for text in (message.type, message.app_id):
            if text is not None and len(text.encode()) > MAX_KEY_BYTES:
                raise Unpublishable(f"the property {text[:40]!r}… has more than {MAX_KEY_BYTES} bytes")
        size = 0
        for name, value in message.headers.items():
            if isinstance(value, str):
                size += len(value.encode())
            elif value not in _INTEGERS:
                raise Unpublishable(f"the header {name[:40]!r} has more than 64 bits")
            length = len(name.encode())
            if length > MAX_KEY_BYTES:
                raise Unpublishable(
                    f"the header {name[:40]!r}… has a name of more than {MAX_KEY_BYTES} bytes"
                )
            size += length + 10
    except UnicodeEncodeError as error:
        raise Unpublishable(f"routing key, property or header cannot be encoded: {error.reason}") from None
    if size > MAX_HEADER_BYTES:
        raise Unpublishable(f"headers of {size} bytes, more than {MAX_HEADER_BYTES}")


def too_large(size: int, max_bytes: int) -> Unpublishable:
    """The refusal of a body by its size."""
    return Unpublishable(f"a body of {size} bytes, more than {max_bytes}", of_content=True)
