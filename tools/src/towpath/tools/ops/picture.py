"""The picture of an installation at one moment: gateways, services, who holds which partition, what waits. No I/O."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from towpath.protocol.operators import GatewayReport
from towpath.protocol.routes import (
    PARTITIONS,
    RETRY_DELAYS,
    command_queue,
    dead_queue,
    events_queue,
    retry_queue,
)
from towpath.servicekit.broker.interface import Found, QueueCounts
from towpath.tools.ops.listening import Programs


@dataclass(frozen=True, slots=True)
class QueuePicture:
    """A queue that a service consumes.

    Attributes:
        name: Its last word for a partition of commands, else ``events``.
        waiting: Messages that no replica has taken yet.
        consumers: Replicas that consume it, as RabbitMQ counts.
        holders: Replicas that say so.
    """

    name: str
    waiting: int
    consumers: int
    holders: Sequence[str]


@dataclass(frozen=True, slots=True)
class ServicePicture:
    """A service.

    Attributes:
        domains: That its replicas announce; one, unless two services share a name.
        replicas: Replica → the number of queues that it says it consumes.
        queues: Those that exist, the partitions of commands first.
        retrying: Messages that wait for another try.
        parked: Messages that wait for an operator.
        has_run: Whether its queues exist.
    """

    name: str
    domains: Sequence[str]
    replicas: Mapping[str, int]
    queues: Sequence[QueuePicture]
    retrying: int
    parked: int
    has_run: bool

    @property
    def waiting(self) -> int:
        """Messages that no replica has taken yet."""
        return sum(queue.waiting for queue in self.queues)

    @property
    def unheld(self) -> list[str]:
        """Queues without a consumer."""
        return [queue.name for queue in self.queues if not queue.consumers]

    def problem(self) -> str | None:
        """The problem in a few words; ``None`` if all its queues are consumed."""
        if not self.has_run:
            return "has never run on this broker"
        if self.queues and len(self.unheld) == len(self.queues):
            return "does not run: no replica consumes its queues"
        if self.unheld:
            return f"no replica consumes {', '.join(self.unheld)}"
        return None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "service": self.name,
            "domains": list(self.domains),
            "has_run": self.has_run,
            "replicas": dict(self.replicas),
            "waiting": self.waiting,
            "retrying": self.retrying,
            "parked": self.parked,
            "unheld": self.unheld,
            "queues": [
                {
                    "name": one.name,
                    "waiting": one.waiting,
                    "consumers": one.consumers,
                    "holders": list(one.holders),
                }
                for one in self.queues
            ],
        }


@dataclass(frozen=True, slots=True)
class Picture:
    """All of it.

    Attributes:
        broker: Product and version.
        is_blocked: RabbitMQ accepts no messages; then no program could be heard.
        silent: Gateways that announce themselves and do not answer.
    """

    broker: str
    is_blocked: bool
    gateways: Sequence[GatewayReport]
    silent: Sequence[str]
    services: Sequence[ServicePicture]

    def problems(self, expected: Iterable[str] = ()) -> Iterator[str]:
        """The problems, the most important first.

        Args:
            expected: Services that must run; others count only if they have run on this broker.
        """
        if self.is_blocked:
            yield "RabbitMQ accepts no messages (memory or disk alarm); programs cannot be heard"
        elif not self.gateways:
            yield "no gateway answers"
        for gateway in self.gateways:
            if gateway.failing:
                yield f"gateway {gateway.gateway_id} is not ready: {', '.join(gateway.failing)}"
        for name in self.silent:
            yield f"gateway {name} announces itself and does not answer"
        wanted = set(expected)
        for service in self.services:
            problem = service.problem()
            if problem is not None and (service.has_run or service.name in wanted):
                yield f"service {service.name}: {problem}"

    def as_dict(self, expected: Iterable[str] = ()) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "broker": self.broker,
            "blocked": self.is_blocked,
            "problems": list(self.problems(expected)),
            "gateways": [gateway_dict(one) for one in self.gateways],
            "silent_gateways": list(self.silent),
            "services": [one.as_dict() for one in self.services],
        }


def queue_names(service: str) -> list[str]:
    """The queues that a service of this name has; one without events has no queue of events."""
    return [
        *(command_queue(service, number) for number in range(PARTITIONS)),
        events_queue(service),
        *(retry_queue(service, delay) for delay in RETRY_DELAYS),
        dead_queue(service),
    ]


def draw(
    broker: str, programs: Programs, found: Found, services: Iterable[str], *, is_blocked: bool
) -> Picture:
    """The picture, from what was heard and what exists."""
    announced = {name for name, _ in programs.services} | {name for name, _ in programs.replicas}
    names = sorted(announced | set(services))
    answered = {gateway for gateway, _ in programs.reports}
    return Picture(
        broker,
        is_blocked,
        sorted((report for report, _ in programs.reports.values()), key=lambda one: one.gateway_id),
        sorted({gateway for gateway, _ in programs.gateways} - answered),
        [_service(name, programs, found.queues) for name in names],
    )


def gateway_dict(report: GatewayReport) -> dict[str, Any]:
    """A report for ``--json``, without its lists of connections."""
    return {
        "gateway": report.gateway_id,
        "incarnation": report.incarnation,
        "version": report.version,
        "ready": not report.failing,
        "failing": report.failing,
        "connections": report.connections,
        "connections_max": report.connections_max,
        "users": report.users,
        "groups": report.groups,
        "waiting": report.waiting,
        "backlog_bytes": report.backlog_bytes,
        "backlogged": report.backlogged,
        "routing": "selective" if report.is_selective else "everything",
        "up_seconds": report.up_seconds,
    }


def _service(name: str, programs: Programs, queues: Mapping[str, QueueCounts]) -> ServicePicture:
    holders: dict[str, list[str]] = {}
    replicas: dict[str, int] = {}
    for (service, replica), (held, _) in programs.replicas.items():
        if service == name:
            replicas[replica] = len(held)
            for queue in held:
                holders.setdefault(queue, []).append(replica)
    labels = {command_queue(name, number): str(number) for number in range(PARTITIONS)}
    labels[events_queue(name)] = "events"
    return ServicePicture(
        name,
        sorted({domain for service, domain in programs.services if service == name}),
        replicas,
        [
            QueuePicture(
                label, queues[queue].waiting, queues[queue].consumers, sorted(holders.get(queue, ()))
            )
            for queue, label in labels.items()
            if queue in queues
        ],
        sum(queues[one].waiting for delay in RETRY_DELAYS if (one := retry_queue(name, delay)) in queues),
        queues[dead_queue(name)].waiting if dead_queue(name) in queues else 0,
        command_queue(name, 0) in queues,
    )
