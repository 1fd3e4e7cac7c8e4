"""Rooms: ever more of them, for the same people and the same number of messages."""

from collections.abc import Sequence
from typing import Any, Final

from bench.generator.conversing import members_of, people, room_name
from bench.growth.axis import CPU, Axis, Drawn, Line
from bench.growth.ground import Field
from bench.growth.points import point
from bench.growth.seed import add_rooms, chat_database

_PEOPLE: Final = 200
_MEMBERS: Final = 3
#: Messages a second in all rooms together: far from what one service can do.
_RATE: Final = 200


async def measure(field: Field, sizes: Sequence[int]) -> None:
    """Put the people into so many rooms, and let them talk."""
    async with field.ground("rooms") as ground:
        ground.launch_gateway()
        ground.launch_service("chat")
        await ground.ready()
        for size in sizes:
            prefix = f"s{size}"
            users = people(prefix, _PEOPLE)
            async with chat_database(ground.file("chat")) as database:
                await add_rooms(
                    database,
                    [
                        (
                            room_name(prefix, place),
                            [users[member] for member in members_of(place, _MEMBERS, _PEOPLE)],
                        )
                        for place in range(size)
                    ],
                )

            async def at_joined(_: dict[str, Any]) -> None:
                await ground.calm()  # all presence is published

            result = await ground.stage().generate(
                "converse",
                at={"joined": at_joined},
                prefix=prefix,
                users=_PEOPLE,
                rooms=size,
                members=_MEMBERS,
                rate=_RATE,
                warm_up=field.scale.warm_up,
                seconds=field.scale.seconds,
            )
            field.add(point("rooms", size, result, also={"bytes a push": result["bytes"]}))
            await ground.calm()


AXIS: Final = Axis(
    name="rooms",
    title="Rooms",
    about=(
        f"{_PEOPLE} users in a growing number of rooms, each of which has {_MEMBERS} of them. All rooms together "
        f"have {_RATE} messages a second, in one room after the other. Each is stored first; times run until the "
        "last member has it. One gateway, and chat on SQLite."
    ),
    across="rooms",
    sizes=(1, 10, 100, 1_000, 10_000),
    quick=(1, 1_000),
    measure=measure,
    panels=(CPU, Drawn("Time until all have it, ms", [Line("p50", "p50, ms"), Line("p99", "p99, ms")])),
)
