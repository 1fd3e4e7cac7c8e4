"""One user asks a service for much: others, here and on another gateway, do not wait, and memory stays bounded."""

import asyncio

import pytest

from towpath.testkit.eventually import eventually
from towpath.testkit.system import System
from towpath.testkit.tokens import a_token

from .bounds import HUNDREDS, ONE_CONNECTION
from .messages import FULL_ROOM
from .plans import SECONDS, Flood
from .stored import enter_rooms, fill_room, invitations_of, rooms_of, size_mib
from .trial import Trial
from .wire import TEXT, Wire, text


@pytest.mark.parametrize(
    ("attack", "flood"),
    [
        ("7 resumes of a full room, one each 2 s", Flood("resume", seconds=14, pause=2.0, count=7, joins="")),
        ("20 resumes of a full room at once", Flood("resume", count=20, joins="")),
        ("resumes of a full room at full speed", Flood("resume", joins="", size=4096)),
        ("histories of a full room at full speed", Flood("history", joins="", size=4096)),
        ("resumes of a full room, and never reads", Flood("resume", joins="", reads=False, size=4096)),
    ],
)
async def test_heavy_reads_of_one_user_do_not_delay_others(
    fresh_system: System, trial: Trial, attack: str, flood: Flood
) -> None:
    fill_room(fresh_system, FULL_ROOM, ["eve0"])
    async with trial.of(attack, fresh_system, ONE_CONNECTION) as ground:
        await ground.attack(flood)


async def test_many_histories_without_readers_cost_bounded_memory(fresh_system: System, trial: Trial) -> None:
    fill_room(fresh_system, FULL_ROOM, [f"eve{number}" for number in range(200)])
    attack = "200 stalled readers, 15 histories each"
    async with trial.of(attack, fresh_system, HUNDREDS) as ground:
        await ground.attack(Flood("history", users=200, count=15, joins="", reads=False, addresses=100))


async def test_joins_of_one_user_end_at_a_thousand_rooms(fresh_system: System, trial: Trial) -> None:
    async with trial.of("2,000 joins of one user", fresh_system, ONE_CONNECTION) as ground:
        await ground.attack(Flood("join", count=2_000, joins=""))
        rooms = rooms_of(fresh_system, "eve0")
        ground.note(f"in {rooms:,} rooms in the end")
        ground.expect(rooms <= 1_000, f"one user is in {rooms:,} rooms")


async def test_rooms_created_by_one_user_end_at_two_hundred_a_day(fresh_system: System, trial: Trial) -> None:
    async with trial.of("2,000 rooms created by one user", fresh_system, ONE_CONNECTION) as ground:
        await ground.attack(Flood("create", count=2_000, joins=""))
        rooms = rooms_of(fresh_system, "eve0")
        ground.note(f"{rooms:,} rooms made")
        ground.expect(rooms <= 200, f"one user made {rooms:,} rooms")


async def test_invitations_of_one_user_to_another_are_one_at_a_time(
    fresh_system: System, trial: Trial
) -> None:
    port = int(fresh_system.gateways[0].settings["TOWPATH_PORT"])
    async with trial.of("200 invitations of one user to one user", fresh_system, ONE_CONNECTION) as ground:
        eve = await Wire.open(port, a_token("eve"))
        victim = await Wire.open(port, a_token("victim"))
        pushed = 0

        async def hear() -> None:
            nonlocal pushed
            while True:
                opcode, payload = await victim.receive()
                pushed += opcode == TEXT and b'"chat.invited"' in payload

        hearing = asyncio.create_task(hear())
        reading = asyncio.create_task(eve.discard())
        for number in range(200):
            room = f"trap-{number}"
            made = {"room": room, "private": True}
            await eve.send(text("chat.create", made, key=room, msg_id=f"c{number}"))
            await eve.send(
                text("chat.invite", {"room": room, "user": "victim"}, key=room, msg_id=f"i{number}")
            )
        await asyncio.sleep(SECONDS)
        ground.end()
        for task in (hearing, reading):
            task.cancel()
        await asyncio.gather(hearing, reading, return_exceptions=True)
        eve.abort()
        victim.abort()
        opened = invitations_of(fresh_system, "victim")
        ground.got_in(f"200 rooms and invitations; {opened} open, {pushed} pushes")
        ground.expect(opened <= 1, f"{opened} invitations of one person to one are open")
        ground.expect(pushed <= 1, f"one person was pushed {pushed} invitations of one other")


async def test_a_database_grows_by_the_bytes_sent_and_not_faster(fresh_system: System, trial: Trial) -> None:
    before = size_mib(fresh_system)
    async with trial.of(f"one user fills a room for {SECONDS:g} s", fresh_system, ONE_CONNECTION) as ground:
        await ground.attack(Flood("send"))
        ground.note(f"chat's database grew by {size_mib(fresh_system) - before:.1f} MiB")


async def test_a_user_in_too_many_rooms_connects_and_chat_continues(
    fresh_system: System, trial: Trial
) -> None:
    port = int(fresh_system.gateways[0].settings["TOWPATH_PORT"])
    enter_rooms(fresh_system, "eve", 150_000)
    async with trial.of("a user in 150,000 rooms connects", fresh_system, ONE_CONNECTION) as ground:
        eve = await Wire.open(port, a_token("eve"))
        reading = asyncio.create_task(eve.discard())
        await asyncio.sleep(SECONDS)
        ground.end()
        ground.got_in("one connection, 150,000 rooms")
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        eve.abort()
        async with fresh_system.connect("somebody") as somebody:

            async def is_answered() -> bool:
                answer = await somebody.request("chat.join", {"room": "elsewhere"}, timeout=20)
                return str(answer["action"]) == "chat.join.ok"

            await eventually(is_answered, timeout=30)
