"""Service replicas: ever more of them for the same requests, which take longer than all that moves them.

Guarantee: what is compared was measured within one round, one size right after the other. Of several rounds the one
counts in which other programs used least of the machine, whatever came out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bench.growth.axis import Axis, Drawn, Line
from bench.growth.ground import Field, Ground, metrics
from bench.growth.points import Point, point
from bench.slow import REQUEST_SECONDS
from towpath.protocol.routes import PARTITIONS
from towpath.testkit.eventually import eventually

_PEOPLE: Final = 200
_SHARED_SECONDS: Final = 30.0
_ROUNDS: Final = 3
_SECONDS: Final = 6.0
#: A unit of work is answered as a whole: were it large, the window would count many requests more or less.
_UNIT: Final = 20
#: The kinds of requests, as the generator calls them.
COMPUTE: Final = "compute"
WAIT: Final = "wait"
KINDS: Final = (COMPUTE, WAIT)
#: How many times as much as the smallest size.
RATIO: Final = "times as many"

#: Size → what the generator counted there, for one kind in one round.
Counted = Mapping[int, Mapping[str, Any]]


async def measure(field: Field, sizes: Sequence[int]) -> None:
    """In each round: add replicas, wait until they share, then let people ask for each kind."""
    rounds = [await _round(field, number, sizes) for number in range(1 if field.scale.quick else _ROUNDS)]
    for kind in KINDS:
        for found in points_of(kind, quietest([one[kind] for one in rounds])):
            field.add(found)


async def _round(field: Field, number: int, sizes: Sequence[int]) -> Mapping[str, Counted]:
    counted: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in KINDS}
    async with field.ground(f"services-{number}") as ground:
        ground.launch_gateway()
        for size in sizes:
            while len(ground.services.get("service", ())) < size:
                ground.launch_service("slow", unit_max_items=_UNIT)
            await ground.ready()
            await _shared(ground)
            for kind in KINDS:
                counted[kind][size] = await ground.stage().generate(
                    "request",
                    kind=kind,
                    clients=_PEOPLE,
                    warm_up=2 * field.scale.warm_up,
                    seconds=field.scale.seconds if field.scale.quick else _SECONDS,
                )
    return counted


async def _shared(ground: Ground) -> None:
    """Wait until each replica consumes its share of the command queues."""

    async def is_shared() -> bool:
        held = [(await metrics(replica))["queues_consumed"] for replica in ground.services["service"]]
        return sum(held) == PARTITIONS and max(held) - min(held) <= 1

    await eventually(is_shared, timeout=_SHARED_SECONDS, every=0.2)


def quietest(rounds: Sequence[Counted]) -> Counted:
    """The round in which other programs took least of the machine when they took most."""
    return min(rounds, key=lambda one: max(float(result["elsewhere"]) for result in one.values()))


def points_of(kind: str, one: Counted) -> Iterator[Point]:
    """The counts of one round, each size beside the smallest."""
    rates = {size: result["count"] / result["seconds"] for size, result in one.items()}
    least = rates[min(rates)]
    for size, result in one.items():
        also = {RATIO: rates[size] / least} if least else {}
        yield point("services", size, result, variant=kind, also=also)


AXIS: Final = Axis(
    name="services",
    title="Service replicas",
    about=(
        f"A growing number of replicas of one service, which share its {PARTITIONS} command queues. {_PEOPLE} users "
        f"send, one request of each at a time, through one gateway. A request takes {REQUEST_SECONDS * 1000:g} ms: "
        f"of a core (*{COMPUTE}*), or of waiting (*{WAIT}*). A unit of work has {_UNIT} requests at most "
        f"(`TOWPATH_UNIT_MAX_ITEMS`). Measured in {_ROUNDS} rounds of all sizes; the round counts in which other "
        "programs used least of the machine."
    ),
    across="service replicas",
    sizes=(1, 2, 4),
    quick=(1, 2),
    measure=measure,
    panels=(
        Drawn("Requests a second", [Line(kind, "a second", kind) for kind in KINDS]),
        Drawn("Median time to the answer, ms", [Line(kind, "p50, ms", kind) for kind in KINDS]),
    ),
    even=True,
    variants=len(KINDS),
)
