"""``towpath topology``: the exchanges and queues of installed services, compared with those of the broker.

Guarantees: ``check`` and ``diff`` change nothing, and need no permission but to connect; ``apply`` makes what is
missing, and changes nothing that exists. RabbitMQ shows no bindings over AMQP: ``apply`` makes them all again.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from towpath.servicekit.broker.interface import Broker, Topology
from towpath.servicekit.installed import installed_services
from towpath.servicekit.runtime.settings import ServiceSettings, load
from towpath.servicekit.service import topology
from towpath.tools.operating import Reached, operate
from towpath.tools.ops import screen
from towpath.tools.ops.screen import plain
from towpath.tools.trouble import Trouble

_LETTERS: Final = 200


class NoSuchService(Trouble):
    """A service that is not installed here."""

    status = 2


@dataclass(frozen=True, slots=True)
class Difference:
    """One exchange or queue that is not as a service needs it.

    Attributes:
        kind: ``exchange`` or ``queue``.
        state: ``missing``, ``differs``, ``unknown`` (this account may not compare) or ``made``.
        detail: The difference.
    """

    service: str
    kind: str
    name: str
    state: str
    detail: str = ""

    def __str__(self) -> str:
        sign = {"missing": "-", "differs": "~", "unknown": "?", "made": "+"}[self.state]
        return f"{sign} {self.kind} {self.name}: {self.state}" + (f": {self.detail}" if self.detail else "")


def check(services: Sequence[str], *, as_json: bool, data: Path) -> bool:
    """Print what is missing; returns whether nothing is."""

    async def work(reached: Reached) -> bool:
        found: list[Difference] = []
        for name, wanted in _wanted(services):
            found += await _missing(reached.broker, name, wanted)
        _report(found, services, as_json=as_json)
        return not found

    return operate(work, data, "topology")


def diff(services: Sequence[str], *, as_json: bool, data: Path) -> bool:
    """Print what is missing, and what has other arguments; returns whether nothing is and nothing has."""

    async def work(reached: Reached) -> bool:
        found: list[Difference] = []
        for name, wanted in _wanted(services):
            found += await _missing(reached.broker, name, wanted)
            found += await _compared(reached.broker, name, wanted)
        _report(found, services, as_json=as_json)
        return not any(one.state in ("missing", "differs") for one in found)

    return operate(work, data, "topology")


def apply(services: Sequence[str], *, as_json: bool, data: Path) -> None:
    """Make what is missing, and all bindings.

    Raises:
        BrokerRefused: The account may not: use that of the service.
        TopologyMismatch: Something exists with other arguments.
    """

    async def work(reached: Reached) -> None:
        made: list[Difference] = []
        for name, wanted in _wanted(services):
            missing = await _missing(reached.broker, name, wanted)
            # Without `writes`: the permission to publish is the service's concern.
            await reached.broker.declare(dataclasses.replace(wanted, writes=()))
            made += [dataclasses.replace(one, state="made") for one in missing]
        _report(made, services, as_json=as_json)

    operate(work, data, "topology")


def _wanted(services: Sequence[str]) -> list[tuple[str, Topology]]:
    installed = {one.name: one for one in installed_services()}
    if unknown := next((name for name in services if name not in installed), None):
        raise NoSuchService(
            f"the service {unknown[:70]!a} is not installed here; installed are {', '.join(installed)}"
        )
    length = load(ServiceSettings).queue_max_length
    return [(name, topology(installed[name].definition(), length)) for name in services or installed]


async def _missing(broker: Broker, service: str, wanted: Topology) -> list[Difference]:
    missing = (await broker.look(wanted)).missing(wanted)
    return [
        *(Difference(service, "exchange", one.name, "missing") for one in missing.exchanges),
        *(Difference(service, "queue", one.name, "missing") for one in missing.queues),
    ]


async def _compared(broker: Broker, service: str, wanted: Topology) -> list[Difference]:
    """The parts that exist with other arguments."""
    found = await broker.look(wanted)
    exchanges = Topology([one for one in wanted.exchanges if one.name in found.exchanges])
    queues = Topology(queues=[one for one in wanted.queues if one.name in found.queues])
    return [
        Difference(service, kind, one.name, "differs" if one.is_known else "unknown", one.detail[:_LETTERS])
        for kind, there in (("exchange", exchanges), ("queue", queues))
        for one in await broker.compare(there)
    ]


def _report(found: Sequence[Difference], services: Sequence[str], *, as_json: bool) -> None:
    console = screen.console()
    for one in found:
        if as_json:
            screen.print_json(_as_dict(one))
        else:
            console.print(plain(str(one)))
    if not found and not as_json:
        console.print(plain(f"All exchanges and queues of {', '.join(services) or 'all services'} exist."))


def _as_dict(one: Difference) -> dict[str, Any]:
    return dataclasses.asdict(one)
