"""Inboxes of services: every replica gets its own copy of announcements and session events.

Guarantees: a body that cannot be read is skipped, and ends nothing; such bodies are logged at most once a minute.
Each delivery is acked: an inbox keeps only what is a few seconds old, and a redelivery would fail in the same way.
However many items have arrived, the event loop serves other tasks every few milliseconds.
"""

from collections.abc import Callable
from typing import Final

from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import split_batch
from towpath.servicekit.broker.interface import Broker, Inbox, Subscription
from towpath.servicekit.runtime.sampled_log import SampledLog
from towpath.servicekit.runtime.telemetry import Counter
from towpath.servicekit.runtime.time_slices import Turn

PREFETCH: Final = 100


async def listen(broker: Broker, inbox: Inbox, handle: Callable[[bytes], None]) -> None:
    """Consume ``inbox`` until cancelled or the broker is closed; see :func:`listen_on`."""
    async with broker.subscribe(inbox, prefetch=PREFETCH) as subscription:
        await listen_on(subscription, handle)


async def listen_on(subscription: Subscription, handle: Callable[[bytes], None]) -> None:
    """Pass each JSON text of each delivery to ``handle``, which may raise for one that it cannot read."""
    # Sampled: any publisher of events decides how many there are.
    unreadable = SampledLog("event_unreadable", Counter())
    turn = Turn()
    async for delivery in subscription:
        try:
            for item in split_batch(delivery.body):
                handle(item)
                if turn.is_over():
                    await turn.next()
        # pydantic's, msgspec's and Python's own errors of decoding are all ValueErrors.
        except (BadEnvelope, ValueError, RecursionError) as error:
            unreadable.add(inbox=delivery.queue, error=str(error)[:300])
        finally:
            delivery.ack()
