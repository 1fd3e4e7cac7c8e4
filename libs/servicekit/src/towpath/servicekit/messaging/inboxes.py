"""Inboxes of services: every replica gets its own copy of announcements and session events.

Guarantees: a body that cannot be read is logged and skipped, and ends nothing; each delivery is acked, as an inbox
keeps only what is a few seconds old and a redelivery would repeat the same failure.
"""

from collections.abc import Callable
from typing import Final

import structlog

from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import split_batch
from towpath.servicekit.broker.interface import Broker, Inbox, Subscription

log = structlog.get_logger(__name__)

PREFETCH: Final = 100


async def listen(broker: Broker, inbox: Inbox, handle: Callable[[bytes], None]) -> None:
    """Consume ``inbox`` until cancelled or the broker is closed; see :func:`listen_on`."""
    async with broker.subscribe(inbox, prefetch=PREFETCH) as subscription:
        await listen_on(subscription, handle)


async def listen_on(subscription: Subscription, handle: Callable[[bytes], None]) -> None:
    """Pass each JSON text of each delivery to ``handle``, which may raise for one that it cannot read."""
    async for delivery in subscription:
        try:
            for item in split_batch(delivery.body):
                handle(item)
        # pydantic's, msgspec's and Python's own errors of decoding are all ValueErrors.
        except (BadEnvelope, ValueError, RecursionError) as error:
            log.warning("event_unreadable", inbox=delivery.queue, error=str(error)[:300])
        finally:
            delivery.ack()
