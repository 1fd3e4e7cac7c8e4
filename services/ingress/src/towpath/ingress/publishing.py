"""Publishing: the items of one request, in their order, each with RabbitMQ's confirm.

One AMQP message for each item, on one channel for each exchange, with a window of unconfirmed ones. Not by lanes
(docs/adr/0001), which would join items of several requests into one message and keep the order only within one
routing key: here the events of one order, ``order.paid`` and then ``order.shipped``, have different ones.

Guarantees: an item is ``accepted`` once every queue that it was routed to has it. Items are published in the order of
the request; after the first that RabbitMQ did not take for the moment, no later one is tried, so that a repetition of
the request keeps the order. An item that nothing receives does not stop the others.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from towpath.ingress.items import Outgoing
from towpath.ingress.permits import Permits
from towpath.ingress.problems import Result, Status
from towpath.protocol.routes import EVENTS
from towpath.servicekit.broker.interface import (
    Broker,
    BrokerBlocked,
    BrokerError,
    BrokerUnavailable,
    Message,
    PublishRefused,
    Unpublishable,
    Unroutable,
)

#: The result of an item, and a text for the caller, for each error of a publish; others are unconfirmed.
_RESULTS: Final[Mapping[type[BrokerError], tuple[Status, str]]] = {
    Unroutable: (Status.UNROUTABLE, ""),
    PublishRefused: (Status.REFUSED, "A queue is full: send it again later."),
    Unpublishable: (Status.FORBIDDEN, "RabbitMQ does not let the ingress publish this."),
    BrokerUnavailable: (Status.UNAVAILABLE, "RabbitMQ is not reachable: send it again later."),
    BrokerBlocked: (Status.UNAVAILABLE, "RabbitMQ takes no messages for now: send it again later."),
}
_UNCONFIRMED: Final = (
    Status.UNCONFIRMED,
    "RabbitMQ did not confirm it, and may have it: send it again, with the same msg_id.",
)
_SKIPPED: Final = "Not tried, because one before it failed: send it again, with the same msg_id."
#: Later items are published after one that ended so.
_HARMLESS: Final = (Status.ACCEPTED, Status.UNROUTABLE, Status.FORBIDDEN)


async def publish(
    broker: Broker, permits: Permits, sender: str, items: Sequence[Outgoing], window: int
) -> list[Result]:
    """Publish items; one result for each, in their order.

    Args:
        permits: Which events RabbitMQ takes from the ingress.
        sender: The AMQP property ``app_id``; consumers distinguish senders by it.
        window: Items that are unconfirmed at the same time.
    """
    results = [Result(status=Status.SKIPPED, msg_id=item.msg_id, detail=_SKIPPED) for item in items]
    unconfirmed: set[asyncio.Task[None]] = set()
    stopped = False

    async def settle(position: int) -> None:
        nonlocal stopped
        results[position] = await _publish_one(broker, sender, items[position])
        stopped = stopped or results[position].status not in _HARMLESS

    try:
        for position in range(len(items)):
            if len(unconfirmed) >= window:
                await asyncio.wait(unconfirmed, return_when=asyncio.FIRST_COMPLETED)
            refused = None if stopped else await _refusal_of(items[position], permits)
            if stopped:
                break
            if refused is not None:
                results[position] = refused
                stopped = refused.status not in _HARMLESS
                continue
            # Tasks begin in the order they are made, and a channel writes in the order it is asked.
            task = asyncio.create_task(settle(position), name=f"ingress: publish for {sender}")
            unconfirmed.add(task)
            task.add_done_callback(unconfirmed.discard)
        while unconfirmed:
            await asyncio.wait(unconfirmed)
    finally:
        for task in unconfirmed:
            task.cancel()
    return results


async def _refusal_of(item: Outgoing, permits: Permits) -> Result | None:
    """The result of an item that is not tried, because of its domain."""
    try:
        if item.exchange != EVENTS or await permits.allow(item.routing_key):
            return None
    except BrokerError as error:
        # Nothing was sent, whatever the error.
        status, detail = _RESULTS.get(type(error), _RESULTS[BrokerUnavailable])
    else:
        domain = item.routing_key.partition(".")[0]
        status = Status.FORBIDDEN
        detail = (
            f"RabbitMQ does not let the ingress publish events of {domain!r}: "
            "correct the name, or give the account of the ingress this domain."
        )
    return Result(status=status, msg_id=item.msg_id, detail=detail)


async def _publish_one(broker: Broker, sender: str, item: Outgoing) -> Result:
    # Persistent and mandatory: the caller relies on the confirm, and an item without a queue is returned.
    # A push is not kept: a gateway's inbox does not survive a restart of the broker.
    message = Message(
        body=item.text, persistent=item.exchange == EVENTS, type="envelope", app_id=sender, headers={}
    )
    try:
        await broker.publish(item.exchange, item.routing_key, message, mandatory=True)
    except BrokerError as error:
        status, detail = next(
            (found for kind, found in _RESULTS.items() if isinstance(error, kind)), _UNCONFIRMED
        )
        return Result(status=status, msg_id=item.msg_id, detail=detail or _unroutable(item))
    return Result(status=Status.ACCEPTED, msg_id=item.msg_id)


def _unroutable(item: Outgoing) -> str:
    if item.exchange == EVENTS:
        return f"No service receives {item.routing_key}: check its name, or start the service."
    return "No gateway receives pushes to this user now: no connection of it is open."
