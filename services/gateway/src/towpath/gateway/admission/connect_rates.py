"""Connect rates: how often one user, and one address, may open a connection.

Guarantee: the rates are token buckets, and only those of active users and addresses are stored
(:mod:`towpath.servicekit.runtime.buckets`). A TLS handshake that leads nowhere costs its address several connects.
"""

import asyncio
from typing import Final, Literal

from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.buckets import Buckets, Rate
from towpath.servicekit.runtime.sampled_log import SampledLog
from towpath.servicekit.runtime.telemetry import Telemetry

By = Literal["user", "address"]

#: Connects that a failed TLS handshake costs: it takes a signature, and no request follows whose rate is limited.
FAILED_TLS_COST: Final = 20


class ConnectRates:
    """The connect rates of this replica."""

    def __init__(self, settings: GatewaySettings, telemetry: Telemetry) -> None:
        self._now = asyncio.get_running_loop().time
        self._abuse_cost = settings.connects_after_abuse
        self._buckets: dict[By, Buckets[str]] = {
            "user": Buckets(Rate(settings.connects_per_user, settings.connects_per_user_burst)),
            "address": Buckets(Rate(settings.connects_per_address, settings.connects_per_address_burst)),
        }
        self._refused = {
            by: SampledLog(
                "connects_refused",
                telemetry.counter("connects_refused", "Handshakes refused with 429", {"by": by}),
            )
            for by in self._buckets
        }

    def charge(self, by: By, key: str) -> float:
        """Charge one connect; returns 0, or the seconds after which to retry. A refusal costs nothing."""
        now = self._now()
        wait = self._buckets[by].of(key, now).take(1, now)
        if wait:
            self._refused[by].add(by=by, key=key)
        return wait

    def charge_abuse(self, user_id: str) -> None:
        """Charge a user for a connection that was closed for abuse."""
        now = self._now()
        # Leaves a debt if need be: a user with tokens to spare has to wait as well.
        self._buckets["user"].of(user_id, now).spend(self._abuse_cost, now)

    def charge_failed_tls(self, address: str) -> None:
        """Charge an address for a TLS handshake that failed, or was given up."""
        now = self._now()
        self._buckets["address"].of(address, now).spend(FAILED_TLS_COST, now)

    def owes(self, address: str) -> bool:
        """Whether an address has used up its connects, and more than those."""
        now = self._now()
        return self._buckets["address"].of(address, now).take(0, now) > 0
