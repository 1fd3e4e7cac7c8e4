"""Publishing one message in a test, and waiting for its confirm."""

import asyncio
from functools import partial

from towpath.servicekit.messaging.lanes import resolve_future
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.messaging.publisher import Publisher


def published(publisher: Publisher, publication: Publication) -> "asyncio.Future[None]":
    """Queue ``publication``; the future is done once the broker has confirmed it, or has its error.

    Raises:
        BrokerError: Nothing was queued.
    """
    confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    publisher.post(publication, partial(resolve_future, confirmed))
    return confirmed
