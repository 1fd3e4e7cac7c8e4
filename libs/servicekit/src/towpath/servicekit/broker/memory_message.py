"""A message as the memory broker holds it, and its entry in a queue."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

#: Bytes a waiting message costs beside its body, roughly.
OVERHEAD: Final = 600


class DeadLetterReason(enum.StrEnum):
    """Why a message left its queue without an ack, in RabbitMQ's terms."""

    EXPIRED = "expired"
    REJECTED = "rejected"
    DELIVERY_LIMIT = "delivery_limit"


@dataclass(slots=True)
class HeldMessage:
    """A message as the broker holds it, shared by the queues it was routed to.

    Attributes:
        dead_lettered_in: Queues that dead-lettered it automatically since a consumer last rejected it. It never
            returns to one of them, or it would cycle for ever. https://www.rabbitmq.com/docs/dlx#routing
    """

    body: bytes
    exchange: str
    routing_key: str
    persistent: bool
    app_id: str | None
    headers: Mapping[str, Any]
    dead_lettered_in: frozenset[str] = frozenset()


@dataclass(slots=True, eq=False)
class Entry:
    """A message in this queue; ``number`` is its position."""

    number: int
    message: HeldMessage
    expires: float
    returns: int = 0

    def __lt__(self, other: "Entry") -> bool:
        return self.number < other.number
