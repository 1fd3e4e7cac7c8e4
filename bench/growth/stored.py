"""Stored messages: ever more of them in one room."""

from collections.abc import Sequence
from typing import Final

from bench.generator.reading import KINDS
from bench.growth.axis import Axis, Drawn, Line
from bench.growth.ground import Field
from bench.growth.points import point
from bench.growth.seed import add_messages, add_rooms, chat_database
from bench.histogram import Histogram

_COUNT: Final = 60
_COUNT_QUICK: Final = 20

#: Kind of request → what the page calls it.
TITLES: Final = {
    "send": "send",
    "history": "history, newest 50",
    "history_middle": "history, 50 amid",
    "resume": "resume, 100 missed",
}


async def measure(field: Field, sizes: Sequence[int]) -> None:
    """Fill a room a size, and let a user write and read there."""
    async with field.ground("stored") as ground:
        ground.launch_gateway()
        ground.launch_service("chat")
        await ground.ready()
        for size in sizes:
            # Chat remembers what a user has asked: every size has its own.
            room, reader, writer = f"stored{size}", f"reader{size}", f"writer{size}"
            async with chat_database(ground.file("chat")) as database:
                await add_rooms(database, [(room, [reader, writer])])
                await add_messages(database, room, writer, size)
            await ground.calm()
            result = await ground.stage().generate(
                "read",
                room=room,
                user=reader,
                head=size,
                count=_COUNT_QUICK if field.scale.quick else _COUNT,
            )
            medians = {
                f"{TITLES[kind]}, ms": Histogram.from_json(result["kinds"][kind]).quantile(0.5) / 1000
                for kind in KINDS
            }
            field.add(point("stored", size, result, also=medians))


AXIS: Final = Axis(
    name="stored",
    title="Stored messages",
    about=(
        "One room with a growing number of messages: in chat's SQLite file, in the room's stream and in the inbox. A "
        "member sends, reads the newest page of the history and one from the middle, and resumes after a gap of "
        "100, one request at a time. The median time of each; every answer is checked."
    ),
    across="messages in the room",
    sizes=(1_000, 10_000, 100_000, 1_000_000),
    quick=(1_000, 100_000),
    measure=measure,
    panels=(Drawn("Median time, ms", [Line(title, f"{title}, ms") for title in TITLES.values()]),),
)
