"""Deafness: what a program that gets no messages any more has lost, and how often that was found."""

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from towpath.servicekit.broker.interface import Broker
    from towpath.servicekit.telemetry import Telemetry

log = structlog.get_logger(__name__)


class Lost(enum.StrEnum):
    """What was lost."""

    QUEUE = "queue"
    BINDING = "binding"
    CONSUMER = "consumer"
    CHANNEL = "channel"
    CONNECTION = "connection"


#: Called with what was lost, and how that was found, in words for the log.
OnDeaf = Callable[[Lost, str], None]


def watch_deafness(broker: "Broker", telemetry: "Telemetry") -> OnDeaf:
    """Count and log each loss that ``broker`` finds; returns what counts and logs those found elsewhere."""
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
