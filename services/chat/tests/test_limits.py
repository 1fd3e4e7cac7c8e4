"""Limits: rooms, invitations and rooms made, for one user; within one batch, and over several."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from towpath.chat.app import CHAT, STORAGE, configured
from towpath.chat.limits import DAY_MS, MOST_ROOMS, Limits
from towpath.chat.repository import Rooms
from towpath.chat.settings import ChatSettings
from towpath.chat.tables import INVITATIONS, MEMBERS, ROOMS, STREAMS
from towpath.servicekit.handling.timers import TimerRun
from towpath.servicekit.storage import bulk
from towpath.testkit.dispatching import (
    GATEWAY,
    Incoming,
    ServiceUnderTest,
    a_command,
    an_event,
    counted_statements,
)


class Clock:
    """Unix milliseconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


@asynccontextmanager
async def running(
    database_url: str, clock: Clock | None = None, **limits: int
) -> AsyncIterator[ServiceUnderTest]:
    """Chat with some limits lower than by default."""
    unit = partial(Rooms, clock=clock or Clock(), limits=Limits(**limits))
    service = replace(CHAT, storage=replace(STORAGE, unit=unit))
    async with ServiceUnderTest.running(service, database_url) as chat:
        yield chat


def a_join(room: str, msg_id: str | None = None, **more: Any) -> Incoming:
    return a_command("chat.join", room=room, msg_id=msg_id, **more)


def a_direct(to: str, msg_id: str | None = None, **more: Any) -> Incoming:
    return a_command("chat.direct", to=to, text="hello", msg_id=msg_id, **more)


def an_invite(user: str, room: str, msg_id: str | None = None, **more: Any) -> Incoming:
    return a_command("chat.invite", user=user, room=room, msg_id=msg_id, **more)


async def dispatch(chat: ServiceUnderTest, together: bool, *messages: Incoming) -> None:
    for batch in [messages] if together else [[message] for message in messages]:
        await chat.dispatch(*batch)


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "several batches"])
class TestRooms:
    async def test_a_join_over_the_limit_is_a_conflict_and_changes_nothing(
        self, database_url: str, together: bool
    ) -> None:
        async with running(database_url, rooms_per_user=2) as chat:
            joins = [a_join(f"room-{number}", f"m-{number}") for number in range(4)]
            await dispatch(chat, together, *joins, a_join("room-1", by="bob"))
            actions = [chat.answer(f"m-{number}").action for number in range(4)]
            assert actions == ["chat.join.ok", "chat.join.ok", "error", "error"]
            assert chat.error("m-2") == "conflict"
            assert "limit" in chat.answer("m-2").data["message"]
            assert {(row.room, row.user_id) for row in await chat.rows(MEMBERS)} == {
                ("room-0", "alice"),
                ("room-1", "alice"),
                ("room-1", "bob"),
            }
            assert {row.room for row in await chat.rows(ROOMS)} == {"room-0", "room-1"}
            assert len(await chat.rows(STREAMS.heads)) == 2

    async def test_a_user_at_the_limit_may_rejoin_and_may_replace_a_room(
        self, database_url: str, together: bool
    ) -> None:
        async with running(database_url, rooms_per_user=1) as chat:
            await dispatch(
                chat,
                together,
                a_join("one"),
                a_join("one", "m-1"),
                a_join("two", "m-2"),
                a_command("chat.leave", room="one"),
                a_join("two", "m-3"),
                a_join("one", "m-4"),
            )
            assert chat.answer("m-1").action == chat.answer("m-3").action == "chat.join.ok"
            assert [chat.error("m-2"), chat.error("m-4")] == ["conflict", "conflict"]

    async def test_rooms_of_two_are_counted_separately_and_for_both(
        self, database_url: str, together: bool
    ) -> None:
        async with running(database_url, rooms_per_user=1, direct_rooms_per_user=2) as chat:
            await dispatch(
                chat,
                together,
                a_direct("bob", by="eve"),
                a_direct("bob", by="mallory"),
                a_direct("bob", "m-1"),
                a_direct("bob", "m-2", by="eve"),
                a_join("weavers", "m-3", by="bob"),
                a_direct("zoe", "m-4", by="bob"),
            )
            assert chat.error("m-1") == chat.error("m-4") == "conflict"
            assert "'bob' is in 2 rooms of two" in chat.answer("m-1").data["message"]
            assert "You are in 2 rooms of two" in chat.answer("m-4").data["message"]
            assert chat.answer("m-2").action == "chat.direct.ok"
            assert chat.answer("m-3").action == "chat.join.ok"


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "several batches"])
class TestRoomsMade:
    async def test_create_join_and_direct_share_one_limit_of_24_hours(
        self, database_url: str, together: bool
    ) -> None:
        clock = Clock()
        async with running(database_url, clock, rooms_made_per_day=3) as chat:
            makes = [
                a_command("chat.create", room="one"),
                a_join("two"),
                a_direct("bob"),
                a_command("chat.create", room="three", msg_id="m-1"),
                a_join("four", "m-2"),
                a_direct("zoe", "m-3"),
                a_join("five", by="bob"),
                a_join("five", "m-4"),
                a_direct("bob", "m-5"),
                a_command("chat.create", room="one", msg_id="m-6"),
            ]
            await dispatch(chat, together, *makes)
            assert [chat.error(f"m-{number}") for number in (1, 2, 3)] == ["rate_limited"] * 3
            assert chat.answer("m-1").data["retry_after_ms"] == DAY_MS
            assert chat.answer("m-4").action == "chat.join.ok"
            assert chat.answer("m-5").action == "chat.direct.ok"
            assert chat.error("m-6") == "conflict"
            assert len(await chat.rows(ROOMS)) == 4

    async def test_the_same_request_succeeds_after_retry_after_ms(
        self, database_url: str, together: bool
    ) -> None:
        clock = Clock()
        async with running(database_url, clock, rooms_made_per_day=2) as chat:
            await chat.dispatch(a_join("one"))
            clock.now += 1000
            refused = a_join("three", "m-1")
            await dispatch(chat, together, a_join("two"), refused)
            wait = chat.answer("m-1").data["retry_after_ms"]
            assert wait == DAY_MS - 1000
            chat.forget()
            clock.now += wait - 1
            await chat.dispatch(refused)
            assert chat.error("m-1") == "rate_limited"
            chat.forget()
            clock.now += 1
            await chat.dispatch(refused)
            assert chat.answer("m-1").action == "chat.join.ok"


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "several batches"])
class TestInvitations:
    async def test_one_invitation_from_one_user_to_another_is_open_at_a_time(
        self, database_url: str, together: bool
    ) -> None:
        async with running(database_url) as chat:
            await chat.dispatch(*[a_command("chat.create", room=room, private=True) for room in ("a", "b")])
            await dispatch(
                chat,
                together,
                an_invite("bob", "a"),
                an_invite("bob", "b", "m-1"),
                an_invite("zoe", "b", "m-2"),
                a_join("a", by="bob"),
                an_invite("bob", "b", "m-3"),
            )
            assert chat.error("m-1") == "conflict"
            assert chat.answer("m-2").action == chat.answer("m-3").action == "chat.invite.ok"
            assert [push.data["room"] for push in chat.pushes("user.bob", action="chat.invited")] == [
                "a",
                "b",
            ]

    async def test_an_open_invitation_is_pushed_once(self, database_url: str, together: bool) -> None:
        async with running(database_url) as chat:
            await chat.dispatch(a_command("chat.create", room="den"), a_join("den", by="zoe"))
            await dispatch(
                chat,
                together,
                *[
                    an_invite("bob", "den", f"m-{number}", by=by)
                    for number, by in enumerate(["alice", "zoe"] * 3)
                ],
            )
            assert [chat.answer(f"m-{number}").action for number in range(6)] == ["chat.invite.ok"] * 6
            assert len(chat.pushes("user.bob")) == 1
            assert [row.invited_by for row in await chat.rows(INVITATIONS)] == ["alice"]

    async def test_a_user_has_a_limited_number_of_open_invitations(
        self, database_url: str, together: bool
    ) -> None:
        async with running(database_url, invitations_per_user=3) as chat:
            users = [f"user-{number}" for number in range(5)]
            await chat.dispatch(*[a_command("chat.create", room=f"of-{user}", by=user) for user in users])
            chat.forget()
            await dispatch(chat, together, *[an_invite("bob", f"of-{user}", user, by=user) for user in users])
            assert [chat.answer(user).action for user in users[:3]] == ["chat.invite.ok"] * 3
            assert [chat.error(user) for user in users[3:]] == ["conflict"] * 2
            assert len(chat.pushes("user.bob")) == 3


async def test_the_statements_of_refused_requests_do_not_grow_with_the_batch(database_url: str) -> None:
    async with running(database_url, rooms_per_user=1, rooms_made_per_day=1) as chat:
        users = [f"user-{number}" for number in range(50)]
        await chat.dispatch(*[a_join("weavers", by=user) for user in users])

        async def a_round(users: list[str]) -> int:
            with counted_statements() as statements:
                await chat.dispatch(*[a_join(f"of-{user}", by=user) for user in users])
                await chat.dispatch(*[an_invite("zoe", "weavers", by=user) for user in users])
            return len(statements)

        await chat.dispatch(an_invite("zoe", "weavers", by="user-0"))
        assert await a_round(users[:1]) == await a_round(users[1:])
        assert [row.stream for row in await chat.rows(STREAMS.heads)] == ["chat:weavers"]


async def test_a_user_in_more_rooms_than_any_limit_starts_and_resumes_with_a_bounded_list(
    database_url: str,
) -> None:
    many = MOST_ROOMS + 5000
    async with running(database_url) as chat:
        await chat.dispatch(a_direct("bob"), a_join("zzz"), a_command("chat.send", room="zzz", text="hello"))

        async def fill(run: TimerRun) -> bool:
            rows = [{"room": f"r-{n:06}", "user_id": "alice", "read_seq": 0} for n in range(many)]
            async with run.database.transaction() as connection:
                await bulk.insert(connection, MEMBERS, rows)
            return False

        await chat.turn(fill)
        chat.forget()
        started = an_event("session.started", user_id="alice", connection_id="c-7", gateway_id=GATEWAY)
        with counted_statements() as statements:
            await chat.dispatch(started)
        assert len(chat.groups("c-7")) == MOST_ROOMS
        assert not any("dm:" in group for group in chat.groups("c-7"))
        assert len(statements) < 15
        positions = {"chat:zzz": 1, "chat:dm:alice:bob": 0, "chat:elsewhere": 0}
        await chat.dispatch(a_command("chat.resume", positions=positions, msg_id="m-1"))
        answer = chat.answer("m-1").data["streams"]
        assert {name: told["complete"] for name, told in answer.items()} == {
            "chat:zzz": True,
            "chat:dm:alice:bob": True,
            "chat:elsewhere": False,
        }
        await chat.dispatch(a_join("one-more", "m-2"))
        assert chat.error("m-2") == "conflict"


def test_the_settings_are_the_limits_of_the_service() -> None:
    settings = ChatSettings(rooms_per_user=7, invitations_per_pair=2)
    storage = configured(settings).storage
    assert storage is not None
    assert isinstance(storage.unit, partial)
    assert storage.unit.keywords["limits"] == Limits(rooms_per_user=7, invitations_per_pair=2)
