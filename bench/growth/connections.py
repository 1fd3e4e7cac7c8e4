"""Connections: most of them do nothing, and some ask."""

from collections.abc import Sequence
from typing import Any, Final

from bench.growth.axis import CPU, TIMES, Axis, Drawn, Line
from bench.growth.ground import Field
from bench.growth.points import point
from bench.works.idle import memory

#: Those who ask, with one request of each in flight; they are among the connections of a size.
_ASKING: Final = 200
#: Those that are there first, so that what the first ones cost once is not counted.
_FEW: Final = 100
#: Chat, which hears of every connection.
_HEARS: Final = "presence"
_AT_CONNECT: Final = ("gateway", _HEARS, "broker")


async def measure(field: Field, sizes: Sequence[int]) -> None:
    """Let the crowd grow on one gateway, and let some ask at each size.

    Chat's cost of their events is ``presence``.
    """
    async with field.ground("connections") as ground:
        ground.launch_gateway()
        ground.launch_service("echo")
        ground.launch_service("chat", role=_HEARS)
        await ground.ready()
        stage = ground.stage()
        held: dict[str, float] = {}
        used = stage.cpu()
        came, idle = 0, 0

        async def ask() -> dict[str, Any]:
            return await stage.generate(
                "request",
                kind="echo",
                clients=_ASKING,
                warm_up=field.scale.warm_up,
                seconds=field.scale.seconds,
            )

        async def at_size(said: dict[str, Any]) -> None:
            nonlocal held, used, came, idle
            came, idle = said["size"] - idle, said["size"]
            await ground.calm()
            now, spent = memory(stage), stage.cpu()
            result = await ask()
            del result["cpu"][_HEARS]  # its share in a message is none
            if idle == _FEW:  # only now everything is there that a first message brings along
                await ground.calm()
                held = memory(stage)
            else:
                also = {
                    f"µs {role} a connect": (spent[role] - used[role]) * 1e6 / came for role in _AT_CONNECT
                }
                also["KiB a connection"] = (now["gateway"] - held["gateway"]) / (idle - _FEW)
                also["MiB a gateway without"] = held["gateway"] / 1024
                field.add(point("connections", idle + _ASKING, result, also=also))
                await ground.calm()
            used = stage.cpu()

        await stage.generate("crowd", at={"size": at_size}, sizes=[_FEW, *(size - _ASKING for size in sizes)])


AXIS: Final = Axis(
    name="connections",
    title="Connections",
    about=(
        "One gateway with a growing number of connections, 200 of which request an echo, one request of each at a "
        "time; the others only answer pings. Chat runs too, and consumes every session event."
    ),
    across="connections",
    sizes=(1_000, 2_000, 5_000, 10_000),
    quick=(1_000, 2_000),
    measure=measure,
    panels=(CPU, TIMES, Drawn("KiB a connection, gateway", [Line("KiB", "KiB a connection")])),
)
