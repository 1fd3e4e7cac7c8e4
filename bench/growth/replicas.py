"""Replicas: ever more gateways for the same people."""

from collections.abc import Sequence
from typing import Any, Final

from bench.growth.axis import Axis, Drawn, Line
from bench.growth.ground import Field, Ground
from bench.growth.points import point
from towpath.testkit.eventually import eventually

_PEOPLE: Final = 200
_PUSHES: Final = 20  # on their way
_CALM: Final = 1.0  # seconds until a gateway is selective; ten by default
_CONVERGED_SECONDS: Final = 30.0
_FOREIGN: Final = 'pushes_for_others_total{kind="user"}'
ROUTINGS: Final = ("everything", "selective")


async def measure(field: Field, sizes: Sequence[int]) -> None:
    """Add gateways one by one; push to users, then let them ask."""
    for routing in ROUTINGS:
        async with field.ground(f"replicas-{routing}") as ground:
            ground.launch_service("echo")
            for size in sizes:
                while len(ground.gateways) < size:
                    ground.launch_gateway(routing=routing, routing_calm=_CALM)
                await ground.ready()
                if routing == "selective":
                    await _converged(ground)
                await _push(field, ground, routing)
                await _ask(field, ground, routing)


async def _converged(ground: Ground) -> None:
    """Wait until no gateway takes pushes to all users any more."""

    async def has() -> bool:
        return (await ground.metrics())["routing_everything"] == 0

    await eventually(has, timeout=_CONVERGED_SECONDS, every=0.2)


async def _push(field: Field, ground: Ground, routing: str) -> None:
    counted: list[dict[str, float]] = []

    async def count(_: dict[str, Any]) -> None:
        counted.append(await ground.metrics())

    result = await ground.stage().generate(
        "push",
        at={"begin": count, "end": count},
        amqp_url=ground.amqp_url,
        clients=_PEOPLE,
        in_flight=_PUSHES,
        warm_up=field.scale.warm_up,
        seconds=field.scale.seconds,
    )
    del result["cpu"]["service"]  # it has no part in this
    before, after = counted
    foreign = (after[_FOREIGN] - before[_FOREIGN]) / max(result["count"], 1)
    fell = after.get("routing_fallbacks_total", 0.0)
    field.add(
        point(
            "replicas",
            len(ground.gateways),
            result,
            variant=f"push, {routing}",
            also={"for others": foreign},
            wrong=f"{fell:g} fallbacks" if fell else "",
        )
    )


async def _ask(field: Field, ground: Ground, routing: str) -> None:
    result = await ground.stage().generate(
        "request",
        kind="echo",
        clients=_PEOPLE,
        warm_up=field.scale.warm_up,
        seconds=field.scale.seconds,
    )
    field.add(point("replicas", len(ground.gateways), result, variant=f"request, {routing}"))


def _both(title: str, kind: str, figure: str) -> Drawn:
    return Drawn(title, [Line(routing, figure, f"{kind}, {routing}") for routing in ROUTINGS])


AXIS: Final = Axis(
    name="replicas",
    title="Replicas",
    about=(
        f"A growing number of gateways, with {_PEOPLE} users on all of them together. *push*: another backend pushes "
        f"to one user after the other, {_PUSHES} in flight; *request*: all request an echo, one request of each at a "
        "time. Once with `TOWPATH_ROUTING=everything`, once with `selective`. CPU is that of all gateways together; "
        "*for others* are deliveries to gateways without the user, for each push."
    ),
    across="gateways",
    sizes=(1, 2, 3, 4),
    quick=(1, 2),
    measure=measure,
    panels=(
        _both("Gateways' CPU a push, µs", "push", "µs gateway"),
        _both("Broker's CPU a push, µs", "push", "µs broker"),
        _both("Gateways' CPU a request, µs", "request", "µs gateway"),
    ),
    even=True,
    variants=2 * len(ROUTINGS),
)
