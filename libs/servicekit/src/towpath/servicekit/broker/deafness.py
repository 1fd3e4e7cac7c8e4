"""Losses that stop the flow of messages to a program (queue, binding, consumer, channel, connection), counted."""

from typing import Final

import structlog

from towpath.servicekit.broker.interface import Broker, Lost, OnDeaf
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)


def watch_deafness(broker: Broker, telemetry: Telemetry) -> OnDeaf:
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
