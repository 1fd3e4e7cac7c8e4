"""Publish events and pushes to Towpath from any Python program.

::

    from towpath.publisher import Publisher

    async with Publisher("amqp://shop:…@broker/", app_id="shop") as publisher:
        await publisher.publish("order.paid", {"order_id": "o-1", "user_id": "ana"})
        await publisher.push("ana", "shop.greeting", {"text": "Welcome!"})

``SyncPublisher`` has the same calls for programs without an event loop. Events that belong to a database transaction
are written to an outbox in it: :mod:`towpath.publisher.outbox` for SQLAlchemy, ``towpath_publish`` for SQL; the
program ``towpath-relay`` publishes them.
"""

from towpath.protocol.envelope import Envelope, make
from towpath.publisher.errors import (
    BadEvent,
    BrokerBlocked,
    BrokerRefused,
    BrokerUnreachable,
    BufferFull,
    ExchangeMissing,
    NotConfirmed,
    PublisherClosed,
    PublisherError,
    QueueFull,
    Refused,
    Unroutable,
)
from towpath.publisher.message import Event
from towpath.publisher.publisher import Publisher, Result
from towpath.publisher.sync import SyncPublisher

__all__ = [
    "BadEvent",
    "BrokerBlocked",
    "BrokerRefused",
    "BrokerUnreachable",
    "BufferFull",
    "Envelope",
    "Event",
    "ExchangeMissing",
    "NotConfirmed",
    "Publisher",
    "PublisherClosed",
    "PublisherError",
    "QueueFull",
    "Refused",
    "Result",
    "SyncPublisher",
    "Unroutable",
    "make",
]
