"""Units: what single things cost that the sums for a million connections need besides."""

import asyncio
from collections.abc import Sequence
from typing import Final

from bench.growth.axis import Axis
from bench.growth.ground import Field
from bench.growth.points import Point, faults, point

#: Members of the one room whose messages go to all of them.
_MEMBERS: Final = 200
_CROWD: Final = 3_000
_CROWD_QUICK: Final = 500
#: Seconds between the pings of a connection here: what one costs does not depend on it.
_HEARTBEAT: Final = 4.0
_NOBODY_SECONDS: Final = 2.0
#: Rooms of two in which chat is kept busy, and messages on their way in each.
_ROOMS: Final = 200
_IN_FLIGHT: Final = 4

DELIVERY: Final = "delivery to one of many"
HEARTBEAT: Final = "heartbeat"
MESSAGE: Final = "message, full load"


async def measure(field: Field, sizes: Sequence[int]) -> None:
    """One after the other."""
    await _heartbeat(field)
    await _messages(field)


async def _heartbeat(field: Field) -> None:
    async with field.ground("heartbeat") as ground:
        ground.launch_gateway(heartbeat=_HEARTBEAT)
        await ground.ready()
        await ground.calm()
        stage = ground.stage()
        before = stage.cpu()["gateway"]
        await asyncio.sleep(_NOBODY_SECONDS)
        for_nobody = (stage.cpu()["gateway"] - before) / _NOBODY_SECONDS
        crowd = _CROWD_QUICK if field.scale.quick else _CROWD
        result = await stage.generate(
            "idle", some=1, clients=crowd, settle=1.0, seconds=_HEARTBEAT * (1 if field.scale.quick else 2)
        )
        beats = crowd * result["seconds"] / _HEARTBEAT
        used = max(result["cpu"]["gateway"] - for_nobody * result["seconds"], 0.0)
        figures = {"µs gateway": used * 1e6 / beats}
        field.add(Point("units", 1, HEARTBEAT, figures, faults(result), result["elsewhere"]))


async def _messages(field: Field) -> None:
    window = (field.scale.warm_up, field.scale.seconds)
    async with field.ground("messages", postgres=True) as ground:
        ground.launch_gateway()
        ground.launch_service("chat")
        await ground.ready()
        stage = ground.stage()
        for variant, rooms, members, in_flight in (
            (DELIVERY, 1, _MEMBERS, 2),
            (MESSAGE, _ROOMS, 2, _IN_FLIGHT),
        ):
            result = await stage.generate(
                "room",
                rooms=rooms,
                members=members,
                in_flight=in_flight,
                warm_up=window[0],
                seconds=window[1],
            )
            if variant == MESSAGE:
                result["count"] /= members  # messages, not deliveries
            field.add(point("units", 1, result, variant=variant))
            await ground.calm()


AXIS: Final = Axis(
    name="units",
    title="Single things",
    about=(
        f"*{HEARTBEAT}*: a ping, its answer, and the checks of the connection meanwhile. *{DELIVERY}*: messages to "
        f"one room of {_MEMBERS}, for each receiver. *{MESSAGE}*: chat on PostgreSQL at full speed, {_ROOMS} "
        "rooms of two."
    ),
    across="",
    sizes=(1,),
    quick=(1,),
    measure=measure,
    variants=3,
)
