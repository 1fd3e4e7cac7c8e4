"""The descriptor share: how many connections and handshakes the open files of this process allow.

Guarantees: ``descriptors_reserve`` descriptors stay free, for the broker, the admin server and log files: without
them the gateway could not even reconnect. With too few descriptors the limits shrink, and the start logs a warning;
it does not fail, as a small machine may serve a few clients well.
"""

from dataclasses import dataclass

import structlog

from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime import descriptors

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DescriptorShare:
    """The limits that the descriptors of this process allow.

    Attributes:
        limit: Maximum number of descriptors.
        connections, handshakes, handshakes_per_address: The effective limits.
    """

    limit: int
    connections: int
    handshakes: int
    handshakes_per_address: int


def needed(settings: GatewaySettings) -> int:
    """The number of descriptors that the settings need."""
    return settings.max_connections + settings.handshakes_max + settings.descriptors_reserve


def divide(limit: int, settings: GatewaySettings) -> DescriptorShare:
    """Divide ``limit`` descriptors: first the reserve, then handshakes (a quarter at most), then connections."""
    # At least one handshake and three connections, whatever the reserve.
    free = max(4, limit - settings.descriptors_reserve)
    handshakes = min(settings.handshakes_max, free // 4)
    per_address = settings.handshakes_max_per_address * handshakes // settings.handshakes_max
    return DescriptorShare(
        limit,
        min(settings.max_connections, free - handshakes),
        handshakes,
        max(1, min(per_address, handshakes)),
    )


def claim(settings: GatewaySettings) -> DescriptorShare:
    """Raise the limit of open files to the number that the settings need; log if that is not possible."""
    limit = descriptors.raise_limit(needed(settings))
    share = divide(limit, settings)
    if share.connections < settings.max_connections or share.handshakes < settings.handshakes_max:
        log.warning(
            "too_few_descriptors",
            limit=limit,
            needed=needed(settings),
            max_connections=share.connections,
            handshakes_max=share.handshakes,
            remedy="raise the hard limit of open files (ulimit -Hn, LimitNOFILE=, ulimits: nofile)",
        )
    return share
