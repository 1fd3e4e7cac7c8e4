"""Findings of ``towpath doctor``: each check is a function of what is known, and returns problems with remedies.

No I/O. Guarantee: findings are ordered by their kind, so that the first one is the one to mend first: what keeps
everything from working comes before what follows from it.
"""

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from towpath.gateway.admission.secret_strength import weakness
from towpath.protocol.operators import GatewayReport
from towpath.servicekit.runtime import spelling
from towpath.tools.ops.admin import AdminPage
from towpath.tools.ops.listening import Programs
from towpath.tools.ops.picture import Picture

#: The oldest version that Towpath is tested with.
OLDEST: Final = (3, 10)
#: A version that asks for a permission where others ask for none (docs/operations/broker-accounts.md).
_ASKS_TOO_MUCH: Final = "4.3.0"
#: The default `max_message_size` of RabbitMQ from 4.0 on.
_LARGEST_OF_4: Final = 16 * 1024 * 1024
#: Clocks that differ by less are not worth a finding: an announcement may wait that long on a busy machine.
CLOCK_SECONDS: Final = 5.0
#: Open files that a program needs for itself, see TOWPATH_DESCRIPTORS_RESERVE.
_FEW_DESCRIPTORS: Final = 1024
#: A gateway with more than this share of the connections that its descriptors allow is nearly full.
_FULL: Final = 0.8


class Kind(enum.IntEnum):
    """The kind of a finding, in the order in which to mend them."""

    SETTING = 1
    UNREACHABLE = 2
    OLD_BROKER = 3
    REFUSED = 4
    BLOCKED = 5
    SECRET = 6
    PERMISSION = 7
    GATEWAY = 8
    SERVICE = 9
    NOT_READY = 10
    DESCRIPTORS = 11
    CLOCK = 12
    PARKED = 13
    LIMIT = 14
    UNKNOWN_SETTING = 15


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        problem: With its value.
        remedy: The thing to do.
        is_error: Whether something does not work, or is not safe; else it is advice.
    """

    kind: Kind
    problem: str
    remedy: str
    is_error: bool = True

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "level": "error" if self.is_error else "warning",
            "check": self.kind.name.lower(),
            "problem": self.problem,
            "remedy": self.remedy,
        }


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, the most important first: errors, then advice, each by kind."""
    return sorted(findings, key=lambda one: (not one.is_error, one.kind))


def of_environment(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Settings that no program reads, and secrets that others know."""
    for name, nearest, is_near in spelling.unknown(environment):
        if is_near:
            yield Finding(
                Kind.SETTING, f"{name} is not a setting, and no program starts with it", f"write {nearest}"
            )
        else:
            near = f"; the most similar setting is {nearest}" if nearest else ""
            yield Finding(
                Kind.UNKNOWN_SETTING,
                f"{name} is not a setting: no program reads it{near}",
                "remove it",
                False,
            )
    if environment.get("TOWPATH_DEVELOPMENT", "").lower() in ("1", "true", "yes", "on"):
        yield Finding(
            Kind.SECRET,
            "TOWPATH_DEVELOPMENT is set here: gateways accept a secret that others know",
            "unset it, and set TOWPATH_AUTH_SECRET to what `openssl rand -base64 48` prints",
        )
        return
    if (secret := environment.get("TOWPATH_AUTH_SECRET")) and (reason := weakness(secret)):
        yield Finding(
            Kind.SECRET,
            f"TOWPATH_AUTH_SECRET {reason}",
            "set it to what `openssl rand -base64 48` prints, for gateways and for the issuer of tokens",
        )
    if (secret := environment.get("TOWPATH_AUTH_SECRET_PREVIOUS")) and (reason := weakness(secret)):
        yield Finding(
            Kind.SECRET, f"TOWPATH_AUTH_SECRET_PREVIOUS {reason}", "unset it: its tokens are accepted as well"
        )


def of_limits(hard_limit: int | None, environment: Mapping[str, str], version: str) -> Iterator[Finding]:
    """The limits of this machine, and of messages.

    Args:
        hard_limit: Open files of a process here; ``None`` for no limit.
        version: Of RabbitMQ; empty if it is not known.
    """
    if hard_limit is not None and hard_limit < _FEW_DESCRIPTORS:
        yield Finding(
            Kind.DESCRIPTORS,
            f"a process may open {hard_limit} files here; a gateway needs one for each connection",
            "raise the hard limit: ulimit -Hn, LimitNOFILE= of systemd, ulimits: nofile of Compose",
        )
    largest = environment.get("TOWPATH_MESSAGE_MAX_BYTES", "")
    if largest.isdigit() and int(largest) > _LARGEST_OF_4 and _numbers(version)[:1] >= (4,):
        yield Finding(
            Kind.LIMIT,
            f"TOWPATH_MESSAGE_MAX_BYTES={largest} is more than RabbitMQ 4 takes by default ({_LARGEST_OF_4})",
            "raise max_message_size in rabbitmq.conf, or lower the setting",
            False,
        )


def of_version(product: str, version: str) -> Iterator[Finding]:
    """The broker itself. No plug-in has to be enabled: all that is needed is part of RabbitMQ."""
    if product and product != "RabbitMQ":
        yield Finding(
            Kind.OLD_BROKER,
            f"the broker is {product} {version}; Towpath needs RabbitMQ (quorum queues, streams)",
            "name a RabbitMQ in TOWPATH_AMQP_URL",
        )
    elif version and _numbers(version)[:2] < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        yield Finding(
            Kind.OLD_BROKER,
            f"RabbitMQ {version} is too old: it lacks what queues of Towpath need; the oldest is {oldest}",
            f"upgrade it to {oldest} or later; 4.x is the one to choose today",
        )
    elif version == _ASKS_TOO_MUCH:
        yield Finding(
            Kind.OLD_BROKER,
            f"RabbitMQ {version} asks for a permission to look at queues that accounts of programs lack",
            "upgrade it to 4.3.1 or later",
        )


def of_picture(picture: Picture, expected: Iterable[str]) -> Iterator[Finding]:
    """Gateways and services."""
    if picture.is_blocked:
        yield Finding(
            Kind.BLOCKED,
            "RabbitMQ accepts no messages: a memory or disk alarm",
            "see `rabbitmq-diagnostics alarms`: free disk space or memory, or raise disk_free_limit or "
            "vm_memory_high_watermark; gateways answer `busy` until then",
        )
    elif not picture.gateways:
        yield Finding(
            Kind.GATEWAY,
            "no gateway answers on this broker",
            "start towpath-gateway with this TOWPATH_AMQP_URL (host and virtual host); its log and its exit status "
            "name the reason if it does not start",
        )
    for gateway in picture.silent:
        yield Finding(
            Kind.GATEWAY,
            f"gateway {gateway} announces itself and does not answer",
            "it is of an earlier version, or overloaded: see its log and /health/ready",
        )
    names = [report.gateway_id for report in picture.gateways]
    for name in sorted({one for one in names if names.count(one) > 1}):
        yield Finding(
            Kind.GATEWAY,
            f"{names.count(name)} gateways have the id {name}: each gets what is meant for the other",
            "give each its own TOWPATH_GATEWAY_ID, or leave it out",
        )
    for report in picture.gateways:
        yield from _of_gateway(report)
    yield from _of_services(picture, set(expected))


def _of_gateway(report: GatewayReport) -> Iterator[Finding]:
    name = f"gateway {report.gateway_id}"
    if report.failing:
        yield Finding(
            Kind.NOT_READY,
            f"{name} is not ready: {', '.join(report.failing)}",
            "docs/operations/start-and-health.md has what each check follows",
        )
    if report.development:
        yield Finding(
            Kind.SECRET,
            f"{name} runs in development mode: it accepts a secret that others know",
            "unset TOWPATH_DEVELOPMENT, and set TOWPATH_AUTH_SECRET to what `openssl rand -base64 48` prints",
        )
    if report.connections_max < report.connections_wanted:
        yield Finding(
            Kind.DESCRIPTORS,
            f"{name} may open {report.descriptors} files, enough for {report.connections_max} connections of the "
            f"{report.connections_wanted} that TOWPATH_MAX_CONNECTIONS allows",
            "raise its hard limit (LimitNOFILE= of systemd, ulimits: nofile of Compose), or lower the setting",
            report.connections_max < _FEW_DESCRIPTORS or report.connections > _FULL * report.connections_max,
        )


def _of_services(picture: Picture, expected: set[str]) -> Iterator[Finding]:
    owners: dict[str, list[str]] = {}
    for service in picture.services:
        for domain in service.domains:
            owners.setdefault(domain, []).append(service.name)
        problem = service.problem()
        if problem is not None and not (picture.is_blocked and service.has_run and not service.unheld):
            yield Finding(
                Kind.SERVICE,
                f"service {service.name} {problem}",
                f"start towpath-{service.name}; its log and its exit status name the reason if it does not start"
                if len(service.unheld) == len(service.queues)
                else "a replica takes it within some seconds; if none does, see the logs of the replicas",
                service.has_run or service.name in expected,
            )
        if len(service.domains) > 1:
            yield Finding(
                Kind.SERVICE,
                f"two services have the name {service.name}: domains {', '.join(service.domains)}",
                "stop one of them, and give it another name",
            )
        if service.parked:
            yield Finding(
                Kind.PARKED,
                f"{service.parked} messages of {service.name} are parked",
                f"`towpath dead-letters list {service.name}`; replay them once the cause is mended",
                False,
            )
    for domain, names in owners.items():
        if len(names) > 1:
            yield Finding(
                Kind.SERVICE,
                f"the domain {domain} has {len(names)} owners, and each handles every request: {', '.join(names)}",
                "stop one of them",
            )


def of_clocks(programs: Programs) -> Iterator[Finding]:
    """Clocks that differ from this machine's; if all do, it is this machine's that is wrong."""
    announced = {name for name, _ in programs.replicas}
    heard = {
        **{f"gateway {name}": one.ahead_seconds for (name, _), one in programs.gateways.items()},
        **{f"gateway {name}": one.ahead_seconds for (name, _), (_, one) in programs.reports.items()},
        **{
            f"service {name}": one.ahead_seconds
            for (name, _), one in programs.services.items()
            if name not in announced
        },
        **{
            f"service {name} (replica {replica[:8]})": one.ahead_seconds
            for (name, replica), (_, one) in programs.replicas.items()
        },
    }
    wrong = {name: ahead for name, ahead in heard.items() if abs(ahead) > CLOCK_SECONDS}
    if len(wrong) == len(heard) > 1 and max(wrong.values()) - min(wrong.values()) < CLOCK_SECONDS:
        ahead = next(iter(wrong.values()))
        yield Finding(
            Kind.CLOCK,
            f"the clock of this machine is {_by(-ahead)} those of all programs",
            "let it follow a time server: chrony, systemd-timesyncd",
        )
        return
    for name, ahead in sorted(wrong.items()):
        yield Finding(
            Kind.CLOCK,
            f"the clock of {name} is {_by(ahead)} that of this machine",
            "let its machine follow a time server (chrony, systemd-timesyncd): tokens expire too early or too late, "
            "and revocations do not hold, where a gateway's clock is wrong",
        )


def of_admin(pages: Iterable[AdminPage]) -> Iterator[Finding]:
    """Programs whose admin pages were given."""
    for page in pages:
        if (problem := page.problem()) is not None:
            yield Finding(
                Kind.NOT_READY, problem, "docs/operations/start-and-health.md has what each check follows"
            )


def _by(ahead: float) -> str:
    return f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'}"


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
