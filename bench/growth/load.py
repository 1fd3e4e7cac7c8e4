"""Load: ever more requests a second, for the same people."""

from collections.abc import Sequence
from typing import Final

from bench.growth.axis import CPU, TIMES, Axis
from bench.growth.ground import Field
from bench.growth.points import point

_PEOPLE: Final = 200
#: The request rate of a full gateway whose users send one request a minute; about.
USUAL: Final = 1_000


async def measure(field: Field, sizes: Sequence[int]) -> None:
    """Let people ask at a steady rate, whatever the system does."""
    async with field.ground("load") as ground:
        ground.launch_gateway()
        ground.launch_service("echo")
        await ground.ready()
        for size in sizes:
            result = await ground.stage().generate(
                "request",
                kind="echo",
                clients=_PEOPLE,
                rate=size,
                warm_up=field.scale.warm_up,
                seconds=field.scale.seconds,
            )
            field.add(point("load", size, result))


AXIS: Final = Axis(
    name="load",
    title="Load",
    about=(
        f"{_PEOPLE} users request an echo at a steady rate, through one gateway. Requests that arrive while the "
        "broker works are published as one batch: the more messages, the cheaper each is. Times run from the moment "
        "when a request was due."
    ),
    across="requests a second",
    sizes=(250, USUAL, 4_000),
    quick=(250, USUAL),
    measure=measure,
    panels=(CPU, TIMES),
)
