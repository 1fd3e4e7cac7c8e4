"""Costs: what each action costs others, as services publish it in ``service.alive``.

The gateway knows no action: it reads a table ``{action: weight}`` of a domain. Guarantees: the tables are bounded, a
weight lies between 1 and 100, and a service sets only those of the domain it names. A table that cannot be read
changes nothing.
"""

from typing import Annotated, Final

import msgspec
import structlog

from towpath.protocol.envelope import Envelope

log = structlog.get_logger(__name__)

DEFAULT: Final = 1.0
LARGEST: Final = 100.0
_DOMAINS: Final = 100
_ACTIONS: Final = 500


class _Table(msgspec.Struct):
    domain: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,63}$")]
    costs: dict[str, float] = {}


class Costs:
    """The weights of all actions."""

    def __init__(self) -> None:
        self._domains: dict[str, dict[str, float]] = {}

    def of(self, domain: str, action: str) -> float:
        """The weight of an action; 1 where nobody named another."""
        table = self._domains.get(domain)
        return DEFAULT if table is None else table.get(action, DEFAULT)

    def take(self, envelope: Envelope) -> None:
        """Take over what a service published."""
        try:
            table = msgspec.convert(envelope.data, _Table)
        except msgspec.ValidationError as error:
            log.warning("costs_refused", error=str(error))
            return
        if table.domain not in self._domains and len(self._domains) >= _DOMAINS:
            return
        self._domains[table.domain] = {
            action: min(max(weight, DEFAULT), LARGEST)
            for action, weight in list(table.costs.items())[:_ACTIONS]
            if action.startswith(f"{table.domain}.") and weight == weight  # not NaN
        }
