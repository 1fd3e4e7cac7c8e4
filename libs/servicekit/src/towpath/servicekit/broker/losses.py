"""The broker as an operator sees it: its state, reconnects, and the losses that stop the flow of messages (queue,
binding, consumer, channel, connection)."""

from typing import Final

import structlog

from towpath.servicekit.broker.interface import Broker, BrokerState, Lost, OnLoss
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)


def watch_broker(broker: Broker, telemetry: Telemetry) -> None:
    """Show the state of ``broker``, and how often it was connected again."""
    telemetry.gauge(
        "broker_connected",
        "1 while there is a connection to RabbitMQ",
        lambda: broker.state in (BrokerState.READY, BrokerState.BLOCKED),
    )
    telemetry.gauge(
        "broker_blocked",
        "1 while RabbitMQ takes no messages (memory or disk alarm)",
        lambda: broker.state is BrokerState.BLOCKED,
    )
    telemetry.counted(
        "broker_reconnects", "Connections to RabbitMQ after the first one", lambda: broker.reconnects
    )


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
