"""The sums for a million connections: what they begin with, and what follows.

Measured figures come from a run, defaults from the settings; assumptions are marked as such.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bench.growth.load import USUAL
from bench.growth.points import Growth, Missing
from bench.growth.services import RATIO, WAIT
from bench.growth.sums import Given, Sum, work_out
from bench.growth.units import DELIVERY, HEARTBEAT, MESSAGE
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.routes import PARTITIONS

_ASSUMED: Final = "assumed"
_ADR: Final = "[ADR 11](adr/0011-selective-routing.md)"


def measured(growth: Growth) -> list[Given]:
    """The inputs of the sums from a run.

    Raises:
        Missing: It was not measured.
    """
    last, slope, us = growth.last, growth.slope, "µs"
    usual, pushed = f"at {USUAL:,} a second; load", "push, everything"
    return [
        Given("kib", last("connections", "", "KiB a connection"), "KiB", "memory of a connection; connections"),
        Given("bare", last("connections", "", "MiB a gateway without"), "MiB", "memory of a gateway without them"),
        Given("beat", last("units", HEARTBEAT, "µs gateway"), us, "gateway, a heartbeat; single things"),
        Given("ask", growth.at("load", USUAL, "µs gateway"), us, f"gateway, a request {usual}"),
        Given("ask_broker", growth.at("load", USUAL, "µs broker"), us, f"broker, a request {usual}"),
        Given("write", last("units", DELIVERY, "µs gateway"), us, "gateway, a push to one of many; single things"),
        Given("take", slope("replicas", pushed, "µs gateway"), us, "each further gateway, a push; replicas"),
        Given("push_broker", _least(growth, pushed, "µs broker"), us, "broker, a push; replicas"),
        Given("copy", slope("replicas", pushed, "µs broker"), us, "broker, a push to each further gateway; replicas"),
        Given("store", last("units", MESSAGE, "µs service"), us, "chat, a message, stored and pushed; single things"),
        Given("row", last("units", MESSAGE, "µs database"), us, "PostgreSQL, the same; single things"),
        Given("spread", _spread(growth), "of one alone", "each of several service replicas; service replicas"),
        Given("come", last("connections", "", "µs presence a connect"), us, "chat, a new connection; connections"),
        Given("frame", last("rooms", "", "bytes a push"), "bytes", "a push of chat; rooms"),
    ]  # fmt: skip


def _spread(growth: Growth) -> float:
    """The rate of each of the most replicas, relative to a single one; of waiting ones, which cores do not limit."""
    size, ratio = (
        growth.line("services", WAIT, RATIO)[-1] if growth.line("services", WAIT, RATIO) else (0, 0.0)
    )
    if not size:
        raise Missing(f"services: {WAIT} {RATIO}")
    return min(ratio / size, 1.0)


def _least(growth: Growth, variant: str, name: str) -> float:
    if not (line := growth.line("replicas", variant, name)):
        raise Missing(f"replicas: {variant} {name}")
    return line[0][1]


def settings() -> list[Given]:
    """The defaults of settings."""
    fields = GatewaySettings.model_fields

    def default(name: str) -> Given:
        return Given(name, float(fields[name].default), "", f"`TOWPATH_{name.upper()}`, by default")

    return [
        default("heartbeat"),
        default("max_connections"),
        default("routing_bindings_max"),
        Given(
            "queues",
            PARTITIONS,
            "",
            "command queues a domain, so replicas that share them; fixed by the contract",
        ),
        Given("stall", 80, "ms", f"publishers wait when a gateway with 5,000 bindings dies; {_ADR}"),
        Given("bind", 0.6, "ms", f"RabbitMQ, a binding: 3.0 s for 5,000 of them; {_ADR}"),
    ]


ASSUMED: Final = (
    Given("total", 1_000_000, "connections", _ASSUMED),
    Given("asks", 1, "a minute", f"requests of a connection; {_ASSUMED}"),
    Given("hears", 10, "a minute", f"pushes to a connection; {_ASSUMED}"),
    Given("stays", 30, "minutes", f"how long a connection lasts; {_ASSUMED}"),
    Given("busy", 0.6, "of a core", f"the highest planned load, for peaks; {_ASSUMED}"),
    Given("node", 8, "cores", f"of one RabbitMQ node; {_ASSUMED}"),
    Given("written", 3, "times", f"a request is written in a cluster of three, at most; {_ASSUMED}"),
    Given("server", 8, "cores", f"of one PostgreSQL server; {_ASSUMED}"),
    Given("around", 60, "bytes", f"WebSocket, TCP and IP around a frame; {_ASSUMED}"),
    Given("hours", 730, "hours", "a month"),
    Given("price", 25, "euros", f"**an example**: one core with 4 GiB for a month; {_ASSUMED}"),
)


@dataclass(frozen=True)
class Scenario:
    """One way to have a million connections.

    Attributes:
        about: Its load.
        given: Its own inputs.
    """

    name: str
    title: str
    about: str
    given: Mapping[str, float] = field(default_factory=dict)


#: ``cells`` are systems of their own; ``people`` hear one push; ``all`` is 1 where every gateway takes every push;
#: ``most`` connections a gateway may have.
def scenarios() -> list[Scenario]:
    """Those that the page compares."""
    known = {one.name: one.value for one in settings()}
    rooms = {"people": 10.0, "all": 1.0, "most": known["max_connections"]}
    return [
        Scenario("rooms", "rooms, one system", "every user sends messages in a room of ten", {**rooms, "cells": 1}),
        Scenario("cells", "rooms, four systems", "the same, in four parts", {**rooms, "cells": 4}),
        Scenario(
            "users",
            "users, selective",
            "other backends push to single users, with selective routing",
            {"people": 1, "all": 0, "most": known["routing_bindings_max"], "cells": 1},
        ),
    ]  # fmt: skip


SUMS: Final = (
    Sum("connections", "total ÷ cells", "a system"),
    Sum("requests", "connections × asks ÷ 60", "a second"),
    Sum("deliveries", "connections × hears ÷ 60", "a second"),
    Sum("pushes", "deliveries ÷ people", "a second"),
    Sum(
        "own",
        "beat ÷ heartbeat + ask × asks ÷ 60 + write × hears ÷ 60 + (1 − all) × take × hears ÷ 60",
        "µs a second, a connection",
    ),
    Sum("left", "busy × 1000000 − all × pushes × take", "µs a second for them, a gateway"),
    Sum("by_work", "connections × own ÷ left", "gateways"),
    Sum("by_room", "connections ÷ most", "gateways"),
    Sum("gateways", "max(by_work, by_room) + 1", "a system; one may be lost", whole=True),
    Sum("copies", "all × gateways + (1 − all)", "gateways that take a push"),
    Sum(
        "broker",
        "(requests × ask_broker × written + pushes × (push_broker + (copies − 1) × copy)) ÷ 1000000",
        "cores",
    ),
    Sum("nodes", "max(3, broker ÷ busy ÷ node)", "RabbitMQ nodes, a system", whole=True),
    Sum("service", "requests × store ÷ 1000000", "cores of the domain's service"),
    Sum("replicas", "service ÷ busy ÷ spread + 1", "of the service; one may be lost", whole=True),
    Sum("domains", "service ÷ busy ÷ spread ÷ queues", "of what one domain can do"),
    Sum("database", "requests × row ÷ 1000000", "cores of PostgreSQL"),
    Sum("back", "connections × come ÷ 1000000", "s until chat knows all, if all reconnect"),
    Sum("bound", "(1 − all) × connections × bind ÷ 1000", "s until all are bound, if all reconnect"),
    Sum("meanwhile", "pushes × take ÷ 1000000", "cores, each gateway, while every gateway takes every push"),
    Sum("memory", "cells × (connections × kib ÷ 1048576 + gateways × bare ÷ 1024)", "GiB, all gateways"),
    Sum("out", "total × hears ÷ 60 × (frame + around) × 8 ÷ 1000000000", "Gbit/s to clients"),
    Sum(
        "inside",
        "pushes × copies × (frame + around) × 8 ÷ 1000000000",
        "Gbit/s, broker to gateways, a system",
    ),
    Sum("cores", "cells × (gateways + nodes × node + replicas + database ÷ busy)", "all", whole=True),
    Sum("core_hours", "cores × hours", "a month"),
    Sum("money", "cores × price", "euros a month, **if** the price is right"),
)


@dataclass(frozen=True)
class Limit:
    """Something that has an end, and at how many connections under the same traffic."""

    name: str
    title: str
    formula: str
    remedy: str


LIMITS: Final = (
    Limit(
        "users",
        "every gateway takes every push to a user: with selective routing until all are bound, else always",
        "busy × 1000000 × 60 ÷ (hears × take)",
        "selective routing, and fewer pushes after an outage; or several systems",
    ),
    Limit(
        "rooms",
        "every gateway takes every push to a room of ten: with more, no number of gateways is enough",
        "busy × 1000000 × 60 × people ÷ (hears × take)",
        "several systems",
    ),
    Limit(
        "domain",
        "one domain has eight queues, so eight replicas share them at most, each on one core",
        "queues × busy × spread × 1000000 × 60 ÷ (asks × store)",
        "two domains, or several systems",
    ),
    Limit(
        "events",
        "session events of chat have one queue, which one replica consumes",
        "busy × 1000000 × stays × 60 ÷ come",
        "several systems; connections that last",
    ),
    Limit(
        "database",
        "one PostgreSQL server stores the messages",
        "server × busy × 1000000 × 60 ÷ (asks × row)",
        "a larger server, or several systems",
    ),
)


@dataclass(frozen=True)
class Million:
    """Everything worked out.

    Attributes:
        given: The inputs of all scenarios.
        results: Scenario → name → figure.
        limits: Each with its number of connections, the lowest first.
        parts: A message in a room of two: what its parts add up to in the gateway, in µs.
    """

    given: list[Given]
    results: dict[str, dict[str, float]]
    limits: list[tuple[Limit, float]]
    parts: float


def million(growth: Growth) -> Million:
    """Work it out.

    Raises:
        Missing: Something was not measured.
    """
    given = [*measured(growth), *settings(), *ASSUMED]
    figures = {one.name: one.value for one in given}
    results = {one.name: work_out(SUMS, figures | dict(one.given)) for one in scenarios()}
    rooms = results["rooms"]
    limits = [(one, work_out([Sum("at", one.formula, "")], rooms)["at"]) for one in LIMITS]
    known = sorted((pair for pair in limits), key=lambda pair: (pair[1] != pair[1], pair[1]))
    parts = work_out([Sum("parts", "ask + take + 2 × write", "µs")], rooms)["parts"]
    return Million(given, results, known, parts)
