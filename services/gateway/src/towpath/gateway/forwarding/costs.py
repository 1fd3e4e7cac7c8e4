"""Costs: the relative cost of each action, as services publish it in ``service.alive``.

The gateway knows no action: it reads a table ``{action: cost}`` of a domain. Guarantees: the tables are bounded, a
cost lies between 1 and 100, and a service sets only those of the domain it names. An invalid table changes nothing.
"""

from typing import Final

from pydantic import ValidationError

from towpath.protocol.envelope import Envelope
from towpath.protocol.services import MAX_COST, MIN_COST, ServiceAlive
from towpath.servicekit.runtime.error_text import describe_error
from towpath.servicekit.runtime.sampled_log import SampledLog
from towpath.servicekit.runtime.telemetry import Telemetry

#: Domains whose tables are stored: far more than a system has services, and a bound for a faulty one.
_DOMAINS: Final = 100


class Costs:
    """The costs of all actions."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._domains: dict[str, dict[str, float]] = {}
        self._refused = SampledLog(
            "costs_refused", telemetry.counter("costs_refused", "Tables of costs that cannot be used")
        )

    def of(self, domain: str, action: str) -> float:
        """The cost of an action; 1 if no service has published another."""
        table = self._domains.get(domain)
        return MIN_COST if table is None else table.get(action, MIN_COST)

    def store(self, envelope: Envelope) -> None:
        """Store the table that a service published."""
        try:
            alive = ServiceAlive.model_validate(envelope.data)
        except ValidationError as error:
            self._refused.add(error=describe_error(error, 300))
            return
        if alive.domain not in self._domains and len(self._domains) >= _DOMAINS:
            self._refused.add(error=f"more than {_DOMAINS} domains")
            return
        # Replaced and not merged: an action that the service no longer names costs 1 again.
        self._domains[alive.domain] = {
            action: min(max(cost, MIN_COST), MAX_COST)
            for action, cost in alive.costs.items()
            if action.startswith(f"{alive.domain}.") and cost == cost  # not NaN
        }
