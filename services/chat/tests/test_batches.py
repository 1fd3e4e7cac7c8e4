"""Once, in order, and not one message harmed by another; with one replica and with two."""

import asyncio
import re
from dataclasses import replace
from typing import Any

import pytest

from towpath.chat.app import CHAT
from towpath.chat.handlers import COMMANDS
from towpath.chat.repository import Rooms
from towpath.chat.tables import INBOX, MEMBERS, MESSAGES, ROOMS, STREAMS
from towpath.protocol.chat import SendMessage, is_direct
from towpath.protocol.messages import Session
from towpath.servicekit.handling.outcome import Outcome
from towpath.servicekit.handling.requests import Handler
from towpath.testkit.dispatching import (
    GATEWAY,
    Heard,
    Incoming,
    ServiceUnderTest,
    a_command,
    an_event,
    counted_statements,
)


def a_join(room: str = "weavers", **more: Any) -> Incoming:
    return a_command("chat.join", room=room, **more)


def a_send(text: str = "hello", room: str = "weavers", **more: Any) -> Incoming:
    return a_command("chat.send", room=room, text=text, **more)


class TestOnce:
    async def test_a_redelivered_message_has_one_effect_and_is_published_byte_for_byte(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(a_join(by="bob"))
        chat.forget()
        batch = [
            a_join(msg_id="m-1"),
            a_send(msg_id="m-2"),
            a_command("chat.direct", to="bob", text="psst", msg_id="m-3"),
            a_command("chat.leave", by="bob", room="weavers", msg_id="m-4"),
        ]
        await chat.dispatch(*batch)
        first = list(chat.heard)
        chat.forget()
        await chat.dispatch(*batch, redelivered=True)
        assert sorted(map(_without_number, chat.heard)) == sorted(map(_without_number, first))
        assert len(await chat.rows(MESSAGES)) == 2
        assert len(await chat.rows(STREAMS.entries)) == 5

    async def test_a_repeated_request_gets_the_same_answer_and_no_second_push(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(a_join())
        message = a_send(msg_id="m-1")
        await chat.dispatch(message, message)
        await chat.dispatch(message)
        first, second, third = chat.answers("m-1")
        assert first == second == third
        assert len(chat.pushes(action="chat.message")) == 1
        assert len(await chat.rows(MESSAGES)) == 1

    async def test_reads_and_transient_signals_store_nothing(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join())
        await chat.dispatch(
            a_command("chat.history", room="weavers"),
            a_command("chat.rooms"),
            a_command("chat.typing", room="weavers"),
            a_command("chat.resume", positions={}),
            an_event("session.started", user_id="alice", connection_id="c-7", gateway_id=GATEWAY),
        )
        assert len(await chat.rows(INBOX)) == 1


class TestAgain:
    """A repetition gets its answer; groups are changed only to what is right by then."""

    @pytest.mark.parametrize("redelivered", [False, True])
    async def test_a_repeated_join_does_not_undo_a_later_leave(
        self, chat: ServiceUnderTest, redelivered: bool
    ) -> None:
        join, create = a_join(msg_id="m-1"), a_command("chat.create", room="den", msg_id="m-2")
        await chat.dispatch(join, create, a_join("den", by="bob"), a_join(by="bob"))
        leave = [a_command("chat.leave", room=room) for room in ("weavers", "den")]
        await chat.dispatch(*leave, a_send("of others", by="bob"))
        chat.forget()
        await chat.dispatch(join, create, redelivered=redelivered)
        assert [chat.answer(m).action for m in ("m-1", "m-2")] == ["chat.join.ok", "chat.create.ok"]
        assert chat.groups("c-1", user="alice") == set()
        assert chat.replayed("c-1") == []

    async def test_a_member_gets_the_room_on_the_connection_that_repeats_the_join(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(a_join(msg_id="m-1"), a_join(by="bob"))
        await chat.dispatch(a_send(by="bob"))
        chat.forget()
        await chat.dispatch(a_join(on="c-9", msg_id="m-1"))
        assert chat.groups("c-9") == {"chat:weavers"}
        assert [push.action for push in chat.replayed("c-9")] == ["chat.joined", "chat.message"]

    async def test_a_repeated_leave_does_not_undo_a_later_join(self, chat: ServiceUnderTest) -> None:
        leave = a_command("chat.leave", room="weavers", msg_id="m-1")
        await chat.dispatch(a_join(), leave, a_join())
        await chat.dispatch(leave)
        assert [answer.action for answer in chat.answers("m-1")] == ["chat.leave.ok"] * 2
        assert chat.groups("c-1", user="alice") == {"chat:weavers"}

    async def test_a_repetition_in_a_batch_is_judged_by_the_state_after_the_batch(
        self, chat: ServiceUnderTest
    ) -> None:
        join, leave = a_join(msg_id="m-1"), a_command("chat.leave", room="weavers", msg_id="m-2")
        await chat.dispatch(join)
        await chat.dispatch(join, leave, join)
        assert chat.groups("c-1", user="alice") == set()
        await chat.dispatch(leave, a_join(), leave)
        assert chat.groups("c-1", user="alice") == {"chat:weavers"}

    async def test_a_leave_right_after_a_join_on_another_connection_unsubscribes_both(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(a_join(on="c-1"), a_command("chat.leave", room="weavers", on="c-2"))
        assert chat.groups("c-1", user="alice") == chat.groups("c-2", user="alice") == set()
        await chat.dispatch(
            a_join(on="c-1"), a_command("chat.leave", room="weavers", on="c-2"), a_join(on="c-3")
        )
        for connection in ("c-1", "c-2", "c-3"):
            assert chat.groups(connection, user="alice") == {"chat:weavers"}

    async def test_a_refused_user_is_refused_again_and_gets_no_pushes(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_command("chat.create", room="den", private=True, by="bob", on="c-2"))
        join = a_join("den", msg_id="m-1")
        await chat.dispatch(join)
        await chat.dispatch(a_command("chat.invite", room="den", user="alice", by="bob"))
        await chat.dispatch(join)
        assert [answer.data["code"] for answer in chat.answers("m-1")] == ["forbidden"] * 2
        assert chat.groups("c-1", user="alice") == set()

    async def test_repetitions_in_one_batch_cost_one_statement_more(self, chat: ServiceUnderTest) -> None:
        async def a_round(users: int) -> int:
            crowd = [a_join(f"room-{n}", by=f"user-{n}", msg_id="m-1") for n in range(users)]
            await chat.dispatch(*crowd)
            with counted_statements() as statements:
                await chat.dispatch(*crowd)
            return len([statement for statement in statements if "chat_members" in statement])

        assert [await a_round(1), await a_round(300)] == [1, 1]


class TestBatches:
    async def test_messages_are_numbered_in_order_of_arrival(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_join(), a_join(by="bob"))
        texts = [f"{number}" for number in range(50)]
        await chat.dispatch(*[a_send(text, by=("alice", "bob")[int(text) % 2]) for text in texts])
        pushes = chat.pushes(action="chat.message")
        assert [push.data["text"] for push in pushes] == texts
        assert [push.seq for push in pushes] == list(range(3, 53))

    async def test_the_number_of_statements_does_not_grow_with_the_batch(
        self, chat: ServiceUnderTest
    ) -> None:
        users = [f"user-{number}" for number in range(60)]

        async def with_people(users: list[str]) -> None:
            """Blocks, invitations and owners; afterwards all is as before, so that each round does the same."""

            async def each(action: str, *, by: str | None = None, few: bool = False, **data: Any) -> None:
                # So few drops that their cost fits one unit of work.
                commands = []
                for user in users[:10] if few else users:
                    filled = {
                        name: value.format(user) if isinstance(value, str) else value
                        for name, value in data.items()
                    }
                    commands.append(a_command(action, by=by or user, **filled))
                await chat.dispatch(*commands)

            await each("chat.block", by="yan", user="{}")
            await each("chat.direct", to="yan", text="hidden")
            await each("chat.invite", room="of-{}", user="yan")
            await each("chat.unblock", by="yan", user="{}")
            await each("chat.decline", by="yan", room="of-{}")
            for guest in ("eve", "yan"):
                await each("chat.invite", room="of-{}", user=guest)
                await each("chat.join", by=guest, room="of-{}")
            await each("chat.transfer", room="of-{}", user="eve")
            await each("chat.leave", by="eve", room="of-{}")
            await each("chat.remove", room="of-{}", user="yan")
            await each("chat.drop", few=True, room="of-{}")
            await each("chat.create", few=True, room="of-{}", private=True)
            # The leaves above are confirmed by now, and forgotten.
            await each("chat.send", room="of-{}", text="hm")

        async def a_round(users: list[str], rooms: int) -> int:
            def room(user: str) -> str:
                return f"room-{users.index(user) % rooms}"

            with counted_statements() as statements:
                await chat.dispatch(*[a_join(room(user), by=user) for user in users])
                await chat.dispatch(*[a_send(room=room(user), by=user) for user in users])
                await chat.dispatch(
                    *[a_command("chat.direct", by=user, to="zoe", text="hm") for user in users]
                )
                await chat.dispatch(*[a_command("chat.typing", by=user, room=room(user)) for user in users])
                await chat.dispatch(
                    *[a_command("chat.read", by=user, room=room(user), seq=9) for user in users]
                )
                await chat.dispatch(
                    *[a_command("chat.invite", by=user, room=room(user), user="zoe") for user in users]
                )
                await with_people(users)
                rows = await chat.rows(MESSAGES)
                mine = {row.user_id: row for row in rows if is_direct(row.room) and not row.deleted_at}
                for action, more in (("chat.edit", {"text": "well"}), ("chat.delete", {})):
                    await chat.dispatch(
                        *[
                            a_command(action, by=user, room=mine[user].room, seq=mine[user].seq, **more)
                            for user in users
                        ]
                    )
                await chat.dispatch(
                    *[
                        an_event("session.started", user_id=user, connection_id=user, gateway_id=GATEWAY)
                        for user in users
                    ]
                )
                await chat.dispatch(
                    *[a_command("chat.leave", by=user, room=room(user)) for user in users],
                    *[a_join(room(user), by=user) for user in users],
                )
            return len(statements)

        await chat.dispatch(
            *[a_command("chat.create", by=user, room=f"of-{user}", private=True) for user in users]
        )
        await a_round(users, rooms=30)
        assert await a_round(users[:1], rooms=1) == await a_round(users, rooms=30)

    async def test_one_refusal_and_one_bug_do_not_affect_the_others(self, database_url: str) -> None:
        def broken(request: SendMessage, session: Session, rooms: Rooms) -> Outcome:
            room = rooms.of_member(session.user_id, request.room)
            rooms.messages.post(room, session.user_id, request.text)
            raise ZeroDivisionError("a bug, after a change")

        service = replace(CHAT, commands={**COMMANDS, "chat.spoil": Handler(SendMessage, broken)})
        async with ServiceUnderTest.running(service, database_url) as chat:
            await chat.dispatch(a_join())
            await chat.dispatch(
                a_send("one", msg_id="m-1"),
                a_command("chat.spoil", room="weavers", text="bad", msg_id="m-2"),
                a_send("from outside", by="mallory", msg_id="m-3"),
                a_send("two", msg_id="m-4"),
            )
            assert [chat.answer(msg_id).data["seq"] for msg_id in ("m-1", "m-4")] == [2, 3]
            assert chat.error("m-3") == "forbidden"
            assert chat.error("m-2") == "internal"
            assert chat.parked() == ["ZeroDivisionError: a bug, after a change"]
            assert [row.text for row in await chat.rows(MESSAGES)] == ["one", "two"]


class TestTwoReplicas:
    async def test_a_room_created_twice_at_once_is_one_room(self, database_url: str) -> None:
        users = [f"user-{number}" for number in range(8)]
        rooms = [f"room-{number}" for number in range(12)]
        async with ServiceUnderTest.running(CHAT, database_url, replicas=2) as chat:
            await asyncio.gather(
                *[
                    chat.dispatch(
                        *[a_join(room, by=user) for room in rooms],
                        *[a_send(room=room, by=user) for room in reversed(rooms)],
                        a_command("chat.direct", by=user, to="zoe", text="hm"),
                        replica=number % 2,
                    )
                    for number, user in enumerate(users)
                ]
            )
            assert chat.retried() == chat.parked() == []
            assert len(await chat.rows(ROOMS)) == len(rooms) + len(users)
            assert len(await chat.rows(MEMBERS)) == len(rooms) * len(users) + 2 * len(users)
            for room in rooms:
                pushes = chat.pushes(f"group.chat:{room}")
                assert sorted(push.seq or 0 for push in pushes) == list(range(1, 2 * len(users) + 1))

    async def test_the_same_room_of_two_may_be_opened_twice_at_once(self, database_url: str) -> None:
        async with ServiceUnderTest.running(CHAT, database_url, replicas=2) as chat:
            await asyncio.gather(
                chat.dispatch(a_command("chat.direct", to="bob", text="hi"), replica=0),
                chat.dispatch(a_command("chat.direct", by="bob", to="alice", text="hi"), replica=1),
            )
            assert len(await chat.rows(ROOMS)) == 1
            assert sorted(push.seq or 0 for push in chat.pushes("user.bob")) == [1, 2]


def _without_number(heard: Heard) -> tuple[str, bytes]:
    """The publications, without the number of membership changes, which is higher each time."""
    return heard.routing_key, re.sub(rb',"as_of":\d+', b"", heard.item)
