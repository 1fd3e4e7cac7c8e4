"""Losses that stop the flow of messages to a program (queue, binding, consumer, channel, connection), counted."""

from typing import Final

import structlog

from towpath.servicekit.broker.interface import Broker, Lost, OnLoss
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)


def watch_losses(broker: Broker, telemetry: Telemetry) -> OnLoss:
    """Count and log each loss that ``broker`` finds.

    Returns:
        A callback that does the same for a loss found elsewhere, such as by the gateway's probe of its inbox.
    """
    counters: Final = {
        what: telemetry.counter(
            "deaf_found",
            "Losses after which no messages would have come, found and made good",
            {"what": what},
        )
        for what in Lost
    }

    def found_loss(what: Lost, how: str) -> None:
        counters[what].add(1)
        log.warning("deaf_found", what=what.value, how=how)

    broker.on_loss(found_loss)
    return found_loss
