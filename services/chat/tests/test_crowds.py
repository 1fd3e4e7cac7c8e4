"""Crowds: in a room of many members, changes are counted and not pushed one by one."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from towpath.chat.app import CHAT, STORAGE
from towpath.chat.crowds import STEP, Crowds
from towpath.chat.presence import Presence
from towpath.chat.repository import Rooms
from towpath.chat.settings import ChatSettings
from towpath.chat.tables import CROWDS, INBOX, MEMBERS, ROOMS, STREAMS
from towpath.protocol.chat import CrowdCounted
from towpath.servicekit.handling.timers import TimerRun
from towpath.testkit.dispatching import (
    GATEWAY,
    Incoming,
    ServiceUnderTest,
    a_command,
    an_event,
    counted_statements,
)

ROOM = "arena"
GROUP = "group.chat:arena"


class Arena:
    """Chat with a clock that a test moves, and the timers of crowds and presence."""

    def __init__(self, chat: ServiceUnderTest, settings: ChatSettings) -> None:
        self.chat = chat
        self.now = 1_700_000_000_000
        self.crowds = Crowds(self.clock)
        self.presence = Presence(settings, self.clock)

    def clock(self) -> int:
        return self.now

    @classmethod
    @asynccontextmanager
    async def running(
        cls, database_url: str, *, replicas: int = 1, **settings: Any
    ) -> AsyncIterator["Arena"]:
        chosen = ChatSettings(**settings)
        arena: list[Arena] = []
        unit = partial(Rooms, clock=lambda: arena[0].now, limits=chosen.limits())
        service = replace(CHAT, storage=replace(STORAGE, unit=unit))
        async with ServiceUnderTest.running(service, database_url, replicas=replicas) as chat:
            arena.append(cls(chat, chosen))
            yield arena[0]

    async def execute(self, statement: sa.Executable) -> None:
        """Change the database as another version would."""

        async def run(run: TimerRun) -> bool:
            async with run.database.transaction() as connection:
                await connection.execute(statement)
            return False

        await self.chat.turn(run)

    async def turn(self, replica: int = 0) -> list[dict[str, Any]]:
        """Take the turns there are; returns the data of what crowds were pushed."""
        before = len(self.chat.pushes(action="chat.crowd"))
        while await self.chat.turn(self.crowds.round, replica=replica):
            pass
        return [push.data for push in self.chat.pushes(action="chat.crowd")[before:]]


@pytest.fixture
async def arena(database_url: str) -> AsyncIterator[Arena]:
    """A crowd is more than three."""
    async with Arena.running(database_url, crowd_members=3) as arena:
        yield arena


def joins(*numbers: int, room: str = ROOM) -> list[Incoming]:
    return [a_join(f"user-{number:04}", room) for number in numbers]


def a_join(user: str, room: str = ROOM, **more: Any) -> Incoming:
    return a_command("chat.join", by=user, on=user, room=room, **more)


def a_leave(user: str, room: str = ROOM, **more: Any) -> Incoming:
    return a_command("chat.leave", by=user, on=user, room=room, **more)


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "several batches"])
async def test_a_room_becomes_a_crowd_and_an_ordinary_room_again(arena: Arena, together: bool) -> None:
    chat = arena.chat

    async def dispatch(*messages: Incoming) -> list[str]:
        chat.forget()
        for batch in [messages] if together else [[message] for message in messages]:
            await chat.dispatch(*batch)
        return [push.action for push in chat.pushes(GROUP)]

    assert await dispatch(*joins(0, 1, 2)) == ["chat.joined"] * 3
    assert await arena.turn() == []
    assert await dispatch(*joins(3, 4), a_leave("user-0004"), a_leave("user-0003")) == []
    assert await arena.turn() == [{"room": ROOM, "members": 3, "online": 0, "seq": 3}]
    assert await dispatch(a_leave("user-0002"), *joins(2)) == ["chat.left", "chat.joined"]
    arena.now += 1000
    assert await arena.turn() == []
    (row,) = await chat.rows(ROOMS)
    assert (row.members, len(await chat.rows(MEMBERS))) == (3, 3)


async def test_a_join_and_a_leave_in_a_crowd_reach_the_users_own_connections_only(arena: Arena) -> None:
    await arena.chat.dispatch(*joins(0, 1, 2))
    arena.chat.forget()
    await arena.chat.dispatch(*joins(3), a_leave("user-0000"))
    assert [(push.action, push.stream, push.data["seq"]) for push in arena.chat.pushes()] == [
        ("chat.joined", None, 3),
        ("chat.left", None, 3),
    ]
    assert [push.data["user"] for push in arena.chat.pushes("user.user-0003")] == ["user-0003"]
    assert [push.data["user"] for push in arena.chat.pushes("user.user-0000")] == ["user-0000"]
    assert [row.seq for row in await arena.chat.rows(STREAMS.entries)] == [1, 2, 3]
    assert {row.user_id for row in await arena.chat.rows(MEMBERS)} == {f"user-000{n}" for n in (1, 2, 3)}


async def test_in_a_crowd_typing_is_not_pushed_and_reading_only_to_the_reader(arena: Arena) -> None:
    await arena.chat.dispatch(*joins(0, 1, 2, 3))
    await arena.chat.dispatch(a_command("chat.send", by="user-0000", room=ROOM, text="hello", msg_id="m-1"))
    assert arena.chat.answer("m-1").data["seq"] == 4
    assert [push.action for push in arena.chat.pushes(GROUP)][-1] == "chat.message"
    arena.chat.forget()
    await arena.chat.dispatch(
        a_command("chat.typing", by="user-0001", room=ROOM, msg_id="m-2"),
        a_command("chat.read", by="user-0001", room=ROOM, seq=4, msg_id="m-3"),
    )
    assert [arena.chat.answer(m).action for m in ("m-2", "m-3")] == ["chat.typing.ok", "chat.read.ok"]
    (push,) = arena.chat.pushes()
    assert push.action == "chat.read"
    assert arena.chat.pushes("user.user-0001") == [push]


async def test_answers_name_the_first_members_of_a_crowd_and_count_all(arena: Arena) -> None:
    chat = arena.chat
    await chat.dispatch(*joins(2, 3, 4), a_join("user-0001", msg_id="m-1"))
    assert chat.answer("m-1").data == {
        "room": ROOM,
        "seq": 3,
        "members": ["user-0001", "user-0002", "user-0003"],
        "count": 4,
    }
    await chat.dispatch(
        a_leave("user-0001"),
        a_join("user-0009", msg_id="m-2"),
        a_leave("user-0002"),
        a_join("user-0003", msg_id="m-3"),
    )
    assert chat.answer("m-2").data["members"] == ["user-0002", "user-0003", "user-0004"]
    assert chat.answer("m-2").data["count"] == 4
    assert chat.answer("m-3").data == {
        "room": ROOM,
        "seq": 3,
        "members": ["user-0003", "user-0004", "user-0009"],
    }
    await chat.dispatch(*joins(5))
    await chat.dispatch(a_command("chat.members", by="user-0003", room=ROOM, msg_id="m-4"))
    answer = chat.answer("m-4").data
    assert [member["user"] for member in answer["members"]] == ["user-0003", "user-0004", "user-0005"]
    assert answer["count"] == 4


class TestPushes:
    async def test_a_crowd_is_pushed_once_a_second_while_it_changes(self, arena: Arena) -> None:
        await arena.chat.dispatch(*joins(*range(10)))
        assert await arena.turn() == [{"room": ROOM, "members": 10, "online": 0, "seq": 3}]
        for number in range(10, 20):
            await arena.chat.dispatch(*joins(number))
            assert await arena.turn() == []
            arena.now += 99
        arena.now += 10
        (push,) = await arena.turn()
        assert push["members"] == 20
        assert CrowdCounted.model_validate(push).model_dump() == push
        arena.now += 5000
        assert await arena.turn() == []

    async def test_presence_in_a_crowd_is_counted_and_not_pushed_one_by_one(self, arena: Arena) -> None:
        chat = arena.chat
        await chat.dispatch(*joins(*range(6)), *joins(0, 1, room="small"))
        await arena.turn()
        arena.now += 1000
        signs = [
            an_event(
                "session.started",
                user_id=f"user-{number:04}",
                connection_id=f"c-{number}",
                gateway_id=GATEWAY,
                incarnation="r-1",
            )
            for number in range(4)
        ]
        chat.forget()
        await chat.dispatch(*signs)
        await chat.turn(arena.presence.round)
        assert {push.data["room"] for push in chat.pushes(action="chat.presence")} == {"small"}
        assert await arena.turn() == [{"room": ROOM, "members": 6, "online": 4, "seq": 3}]

    async def test_replicas_push_a_crowd_once(self, database_url: str) -> None:
        async with Arena.running(database_url, crowd_members=2, replicas=2) as arena:
            rooms = [f"room-{number}" for number in range(STEP + 10)]
            for first in range(3):
                await arena.chat.dispatch(*[a_join(f"user-{first}", room) for room in rooms])
            await asyncio.gather(arena.turn(0), arena.turn(1))
            pushed = [push.data["room"] for push in arena.chat.pushes(action="chat.crowd")]
            assert sorted(pushed) == sorted(rooms)

    async def test_a_timer_run_is_bounded_in_rooms_and_statements(self, arena: Arena) -> None:
        async def a_turn(rooms: int) -> int:
            for user in range(4):
                await arena.chat.dispatch(*[a_join(f"u-{rooms}-{user}", f"r-{n}") for n in range(rooms)])
            arena.now += 1000
            with counted_statements() as statements:
                await arena.chat.turn(arena.crowds.round)
            return len(statements)

        few = await a_turn(2)
        assert await a_turn(STEP + 10) == few
        assert len([row for row in await arena.chat.rows(CROWDS) if row.changed_at is not None]) == 10

    async def test_rows_of_quiet_crowds_are_deleted(self, arena: Arena) -> None:
        await arena.chat.dispatch(*joins(0, 1, 2, 3), *joins(0, 1, 2, 3, room="other"))
        await arena.turn()
        arena.now += 599_000
        await arena.chat.dispatch(*joins(4, room="other"))
        arena.now += 2000
        await arena.chat.turn(arena.crowds.forget)
        assert [row.room for row in await arena.chat.rows(CROWDS)] == ["other"]
        assert [push["members"] for push in await arena.turn()] == [5]


class TestCost:
    async def test_twice_as_many_joins_cause_twice_as_many_pushes(self, database_url: str) -> None:
        async with Arena.running(database_url) as arena:

            async def crowd(size: int) -> tuple[int, int]:
                room = f"of-{size}"
                arena.chat.forget()
                for first in range(0, size, 50):
                    await arena.chat.dispatch(*joins(*range(first, first + 50), room=room))
                    await arena.turn()
                    arena.now += 500
                arena.now += 1000
                await arena.turn()
                assert arena.chat.pushes(action="chat.crowd")[-1].data["members"] == size
                pushes = arena.chat.pushes()
                to_all = [push for push in pushes if push in arena.chat.pushes(f"group.chat:{room}")]
                return len(pushes), len(to_all)

            (few, few_to_all), (many, many_to_all) = await crowd(300), await crowd(600)
            assert few_to_all <= 100 + 4
            assert many_to_all <= 100 + 7
            assert many <= 2 * few

    async def test_a_join_costs_the_same_in_a_small_room_and_in_a_crowd(self, database_url: str) -> None:
        async with Arena.running(database_url) as arena:
            for first in range(0, 1500, 500):
                await arena.chat.dispatch(*joins(*range(first, first + 500)))
            await arena.chat.dispatch(*joins(*range(10), room="small"))

            async def a_join_alone(user: str, room: str) -> tuple[int, int]:
                with counted_statements() as statements:
                    await arena.chat.dispatch(a_join(user, room, msg_id=f"in-{room}"))
                (row,) = [row for row in await arena.chat.rows(INBOX) if row.msg_id == f"in-{room}"]
                return len(statements), len(row.outcome)

            small, _ = await a_join_alone("zoe", "small")
            crowd, stored = await a_join_alone("zoe", ROOM)
            # A crowd is marked, and has no stream entry, which takes two.
            assert crowd <= small
            assert stored < 3000
            assert len(arena.chat.answer(f"in-{ROOM}").data["members"]) == 100


async def test_a_join_corrects_the_count_of_an_ordinary_room(arena: Arena) -> None:
    await arena.chat.dispatch(*joins(0, 1, 2))
    await arena.execute(ROOMS.update().values(members=0))
    await arena.chat.dispatch(*joins(3))
    assert [row.members for row in await arena.chat.rows(ROOMS)] == [4]


async def test_the_count_is_right_after_any_events(database_url: str) -> None:
    chance = random.Random(7)
    users = [f"user-{number}" for number in range(12)]
    async with Arena.running(database_url, replicas=2, crowd_members=4) as arena:
        for _ in range(12):
            batches = [
                [
                    chance.choice([a_join, a_join, a_leave])(chance.choice(users), chance.choice(["a", "b"]))
                    for _ in range(15)
                ]
                for _ in range(2)
            ]
            await asyncio.gather(
                *(arena.chat.dispatch(*batch, replica=number) for number, batch in enumerate(batches)),
                *(arena.turn(replica) for replica in (0, 1)),
            )
            arena.now += 400
        arena.now += 1000
        await arena.turn()
        assert arena.chat.retried() == arena.chat.parked() == []
        members = [row.room for row in await arena.chat.rows(MEMBERS)]
        counts = {row.room: row.members for row in await arena.chat.rows(ROOMS)}
        assert counts == {room: members.count(room) for room in counts}
        heads = {row.stream: row.head for row in await arena.chat.rows(STREAMS.heads)}
        for room, count in counts.items():
            last = [p.data for p in arena.chat.pushes(action="chat.crowd") if p.data["room"] == room]
            if count > 4:
                assert last[-1]["members"] == count
            entries = [
                row.seq for row in await arena.chat.rows(STREAMS.entries) if row.stream == f"chat:{room}"
            ]
            assert sorted(entries) == list(range(1, heads[f"chat:{room}"] + 1))
