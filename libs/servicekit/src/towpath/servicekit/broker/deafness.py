"""Losses that stop the flow of messages to a program (queue, binding, consumer, channel, connection), counted."""

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from towpath.servicekit.broker.interface import Broker
    from towpath.servicekit.telemetry import Telemetry

log = structlog.get_logger(__name__)


class Lost(enum.StrEnum):
    """The kind of thing that was lost."""

    QUEUE = "queue"
    BINDING = "binding"
    CONSUMER = "consumer"
    CHANNEL = "channel"
    CONNECTION = "connection"


#: Called with the kind of loss and a description for the log of how it was found.
OnDeaf = Callable[[Lost, str], None]


def watch_deafness(broker: "Broker", telemetry: "Telemetry") -> OnDeaf:
    """Count and log each loss that ``broker`` finds; returns a callback that does the same for losses found
    elsewhere."""
    found: Final = {
        what: telemetry.counter(
            "deaf_found",
            "Losses after which no messages would have come, found and made good",
            {"what": what},
        )
        for what in Lost
    }

    def tell(what: Lost, how: str) -> None:
        found[what].add(1)
        log.warning("deaf_found", what=what.value, how=how)

    broker.on_deaf(tell)
    return tell
