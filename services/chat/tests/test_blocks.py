"""A block is visible to its owner alone: the blocked user sees what an unblocked one sees, the owner nothing."""

import asyncio
import itertools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from sqlalchemy.ext.asyncio import create_async_engine

from towpath.chat.app import CHAT, configured
from towpath.chat.presence import Presence
from towpath.chat.settings import ChatSettings
from towpath.chat.tables import BLOCKS, KIT, MEMBERS, MESSAGES, METADATA, STREAMS
from towpath.testkit.dispatching import GATEWAY, Incoming, ServiceUnderTest, a_command, an_event

from .blocked_story import ALL_OF_IT, PAIR, STREAM, Story, stories

NUMBERS = itertools.count()


def a_block(user: str = "alice", by: str = "bob", **more: Any) -> Incoming:
    return a_command("chat.block", by=by, user=user, **more)


def an_unblock(user: str = "alice", by: str = "bob", **more: Any) -> Incoming:
    return a_command("chat.unblock", by=by, user=user, **more)


def a_direct(text: str = "hello", to: str = "bob", **more: Any) -> Incoming:
    return a_command("chat.direct", to=to, text=text, **more)


def an_invite(room: str = "den", **more: Any) -> Incoming:
    return a_command("chat.invite", room=room, user="bob", **more)


async def ask(chat: ServiceUnderTest, action: str, by: str = "bob", **data: Any) -> dict[str, Any]:
    chat.forget()
    msg_id = f"asked-{next(NUMBERS)}"
    await chat.dispatch(a_command(action, by=by, on=f"c-{by}", msg_id=msg_id, **data))
    return dict(chat.answer(msg_id).data)


async def emptied(url: str) -> None:
    """Delete all rows, so that two stories begin alike."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for table in METADATA.sorted_tables:
            if table is not KIT.group_numbers:
                await connection.execute(table.delete())
    await engine.dispose()


async def told(
    url: str, story: list[list[tuple[Any, ...]]], *, blocked: str, together: bool = False
) -> Story:
    async with ServiceUnderTest.running(CHAT, url) as chat:
        run = Story(chat)
        await run.begin(blocked=blocked)
        await (run.tell_together if together else run.tell)(story)
        run.got.append({"last": [str(await ask(chat, "chat.resume", positions={STREAM: 0})).encode()]})
        run.bob_got.append(run.heard_by("bob"))
    await emptied(url)
    return run


def check_bob_got_nothing(run: Story) -> None:
    """Nothing that alice did after the block reached bob, other than the numbers of its entries."""
    everything = b"".join(item for got in run.bob_got for items in got.values() for item in items)
    assert not [text for text in run.texts if text.encode() in everything]
    pushed = b"".join(item for got in run.bob_got for item in got.get("user.bob", ()))
    assert b'"action":"chat.typing","data":{"room":"dm:alice:bob","user":"alice"' not in pushed
    assert b'"by":"alice"' not in pushed
    assert b'"action":"chat.read","data":{"room":"dm:alice:bob","user":"alice"' not in pushed


class TestTheBlockedUser:
    @settings(
        max_examples=15,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(stories)
    async def test_a_blocked_sender_gets_the_same_bytes_in_any_story(
        self, story: list[list[tuple[Any, ...]]]
    ) -> None:
        with TemporaryDirectory() as folder:
            url = f"sqlite+aiosqlite:///{Path(folder) / 'towpath.db'}"
            free = await told(url, story, blocked="carol")
            blocked = await told(url, story, blocked="alice")
        assert blocked.got == free.got
        check_bob_got_nothing(blocked)

    @pytest.mark.parametrize("together", [False, True])
    async def test_a_blocked_sender_gets_the_same_bytes_for_every_action(
        self, database_url: str, together: bool
    ) -> None:
        free = await told(database_url, ALL_OF_IT, blocked="carol", together=together)
        blocked = await told(database_url, ALL_OF_IT, blocked="alice", together=together)
        assert blocked.got == free.got
        check_bob_got_nothing(blocked)
        assert b"text 0-0." in b"".join(
            item for got in free.bob_got for items in got.values() for item in items
        )

    async def test_a_first_message_to_a_user_who_blocks_looks_like_any_other(self, database_url: str) -> None:
        seen = []
        for blocked in ("carol", "alice"):
            async with ServiceUnderTest.running(CHAT, database_url) as chat:
                await chat.dispatch(a_block(blocked))
                for user in ("alice", "bob"):
                    started = {"user_id": user, "connection_id": f"c-{user}", "gateway_id": GATEWAY}
                    await chat.dispatch(an_event("session.started", **started))
                await chat.dispatch(a_direct(on="c-alice", msg_id="m-1"))
                presence = Presence(ChatSettings(amqp_url="memory://"))
                while await chat.turn(presence.round):
                    pass
                answers = [await ask(chat, "chat.members", "alice", room=PAIR)]
                answers += (await ask(chat, "chat.rooms", "alice"))["rooms"]
                seen.append((Story(chat).heard_by("alice").keys(), answers, len(await chat.rows(MEMBERS))))
            await emptied(database_url)
        assert seen[0] == seen[1]

    async def test_a_blocked_user_sees_the_presence_of_the_other_and_is_not_seen(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(a_block(), a_direct())
        for user in ("alice", "bob"):
            started = {"user_id": user, "connection_id": f"c-{user}", "gateway_id": GATEWAY}
            await chat.dispatch(an_event("session.started", **started))
        presence = Presence(ChatSettings(amqp_url="memory://"))
        while await chat.turn(presence.round):
            pass
        assert [push.data["user"] for push in chat.pushes("user.alice", action="chat.presence")] == ["bob"]
        assert chat.pushes("user.bob", action="chat.presence") == []


class TestTheOwner:
    async def test_a_hidden_room_is_not_listed_until_something_of_it_is_visible(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(a_block(), a_direct("hidden"))
        assert await ask(chat, "chat.rooms") == {"rooms": []}
        await chat.dispatch(an_unblock())
        assert await ask(chat, "chat.rooms") == {"rooms": []}
        await chat.dispatch(a_direct("visible"))
        (room,) = (await ask(chat, "chat.rooms"))["rooms"]
        assert room == {"room": PAIR, "title": "alice", "seq": 2, "read_seq": 0, "unread": 1}

    async def test_a_hidden_message_is_a_deleted_one_without_gaps(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_direct("before"), a_block())
        hidden = a_command("chat.send", room=PAIR, text="hidden", client_ref="hidden too")
        await chat.dispatch(hidden)
        await chat.dispatch(a_command("chat.edit", room=PAIR, seq=2, text="hidden again"), an_unblock())
        await chat.dispatch(a_direct("after"))
        answer = await ask(chat, "chat.resume", positions={STREAM: 0})
        assert answer == {"streams": {STREAM: {"seq": 4, "complete": True}}}
        replayed = chat.replayed("c-bob")
        assert [push.seq for push in replayed] == [1, 2, 3, 4]
        assert [push.data["text"] for push in replayed] == ["before", "", "", "after"]
        assert [push.data.get("deleted", False) for push in replayed] == [False, True, True, False]
        assert [push.data.get("hidden", False) for push in replayed] == [False, True, True, False]
        messages = (await ask(chat, "chat.history", room=PAIR))["messages"]
        assert [message["text"] for message in messages] == ["before", "", "after"]
        assert (messages[1]["hidden"], messages[1]["deleted_at"]) == (True, messages[1]["sent_at"])
        assert "hidden too" not in str(chat.heard)

    async def test_two_readers_of_one_batch_get_their_own_texts(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_direct("before"), a_block(), a_direct("hidden"))
        chat.forget()
        await chat.dispatch(
            *[a_command("chat.history", by=by, room=PAIR, msg_id=f"history-{by}") for by in ("alice", "bob")]
        )
        await chat.dispatch(
            *[
                a_command("chat.resume", by=by, on=by, positions={STREAM: 0}, msg_id=f"resume-{by}")
                for by in ("alice", "bob")
            ]
        )
        for by, texts in (("alice", ["before", "hidden"]), ("bob", ["before", ""])):
            messages = chat.answer(f"history-{by}").data["messages"]
            assert [message["text"] for message in messages] == texts
            assert [push.data["text"] for push in chat.replayed(by)] == texts

    async def test_an_edit_of_an_earlier_message_is_hidden(self, chat: ServiceUnderTest) -> None:
        first = a_direct("before", msg_id="m-1")
        await chat.dispatch(first)
        await chat.dispatch(a_block())
        chat.forget()
        await chat.dispatch(a_command("chat.edit", room=PAIR, seq=1, text="hidden"))
        assert chat.pushes("user.bob") == []
        # RabbitMQ delivers the first message again: its push to bob must not have the new text.
        await chat.dispatch(first, redelivered=True)
        (again,) = chat.pushes("user.bob")
        assert (again.data["text"], again.data["deleted"]) == ("", True)
        assert [push.data["text"] for push in chat.pushes("user.alice")] == ["hidden", "hidden"]

    async def test_a_deletion_of_an_earlier_message_is_pushed(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_direct("before"), a_block())
        chat.forget()
        await chat.dispatch(a_command("chat.delete", room=PAIR, seq=1))
        assert [push.action for push in chat.pushes("user.bob")] == ["chat.deleted"]

    async def test_hidden_messages_are_not_unread(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_direct("one"), a_direct("two"))
        await chat.dispatch(a_command("chat.read", by="bob", room=PAIR, seq=2), a_block())
        await chat.dispatch(a_direct("hidden"), a_direct("hidden"))
        (room,) = (await ask(chat, "chat.rooms"))["rooms"]
        assert (room["seq"], room["read_seq"], room["unread"]) == (4, 2, 0)

    async def test_a_user_cannot_write_to_a_blocked_user(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_direct("before"), a_block())
        chat.forget()
        await chat.dispatch(
            a_direct("no", to="alice", by="bob", msg_id="m-1"),
            a_command("chat.send", by="bob", room=PAIR, text="no", msg_id="m-2"),
        )
        assert [chat.error(msg_id) for msg_id in ("m-1", "m-2")] == ["conflict", "conflict"]
        assert chat.pushes() == []
        await chat.dispatch(an_unblock(), a_direct("yes", to="alice", by="bob", msg_id="m-3"))
        assert chat.answer("m-3").action == "chat.direct.ok"

    async def test_messages_in_rooms_of_several_are_not_hidden(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(
            *[a_command("chat.join", by=by, room="hall") for by in ("alice", "bob")], a_block()
        )
        chat.forget()
        await chat.dispatch(a_command("chat.send", room="hall", text="to all"))
        assert [push.data["text"] for push in chat.pushes("group.chat:hall")] == ["to all"]


class TestInvitations:
    async def test_an_invitation_of_a_blocked_user_is_not_seen_and_admits_no_user(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(a_block(), a_command("chat.create", room="den", private=True))
        chat.forget()
        await chat.dispatch(an_invite(msg_id="m-1"))
        assert chat.answer("m-1").action == "chat.invite.ok"
        assert chat.pushes() == []
        assert await ask(chat, "chat.rooms") == {"rooms": []}
        assert (await ask(chat, "chat.join", room="den"))["code"] == "forbidden"
        assert (await ask(chat, "chat.decline", room="den"))["code"] == "not_found"

    async def test_a_block_hides_an_open_invitation_and_an_unblock_shows_it(
        self, chat: ServiceUnderTest
    ) -> None:
        await chat.dispatch(a_command("chat.create", room="den", private=True), an_invite(), a_block())
        assert "invitations" not in await ask(chat, "chat.rooms")
        await chat.dispatch(an_unblock())
        assert [one["by"] for one in (await ask(chat, "chat.rooms"))["invitations"]] == ["alice"]

    @pytest.mark.parametrize("together", [False, True])
    async def test_another_member_may_invite_the_user_to_the_same_room(
        self, chat: ServiceUnderTest, together: bool
    ) -> None:
        story = [
            a_block(),
            a_command("chat.create", room="den", private=True),
            a_command("chat.invite", room="den", user="zoe"),
            a_command("chat.join", by="zoe", room="den"),
            an_invite(),
            an_invite(by="zoe"),
            an_invite(by="zoe"),
            an_invite(msg_id="m-1"),
        ]
        for batch in [story] if together else [[step] for step in story]:
            await chat.dispatch(*batch)
        (invited,) = chat.pushes("user.bob")
        assert invited.data == {"room": "den", "title": "den", "by": "zoe"}
        assert chat.answer("m-1").action == "chat.invite.ok"
        assert [one["by"] for one in (await ask(chat, "chat.rooms"))["invitations"]] == ["zoe"]
        assert (await ask(chat, "chat.join", room="den"))["members"] == ["alice", "bob", "zoe"]


class TestTheList:
    async def test_a_user_lists_the_users_who_are_blocked_by_name(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_block("zoe"), a_block("alice"), a_block("alice"), a_block("mallory", by="zoe"))
        users = (await ask(chat, "chat.blocked"))["users"]
        assert [one["user"] for one in users] == ["alice", "zoe"]
        assert all(one["since"] > 1_700_000_000_000 for one in users)
        await chat.dispatch(an_unblock(), an_unblock(), an_unblock("eve"))
        assert [one["user"] for one in (await ask(chat, "chat.blocked"))["users"]] == ["zoe"]
        assert await ask(chat, "chat.blocked", "alice") == {"users": []}

    async def test_a_block_is_pushed_to_no_user_and_leaves_no_stream(self, chat: ServiceUnderTest) -> None:
        await chat.dispatch(a_block(), an_unblock(), a_block())
        assert chat.pushes() == chat.events() == []
        assert await chat.rows(STREAMS.heads) == []
        assert len(await chat.rows(BLOCKS)) == 1

    async def test_users_cannot_block_themselves_or_too_many(self, database_url: str) -> None:
        service = configured(ChatSettings(amqp_url="memory://", blocks_per_user=2))
        async with ServiceUnderTest.running(service, database_url) as chat:
            await chat.dispatch(a_block("bob", msg_id="self"))
            assert chat.error("self") == "invalid_data"
            for msg_id, user in (("m-1", "a"), ("m-2", "b"), ("m-3", "c"), ("m-4", "b")):
                await chat.dispatch(a_block(user, msg_id=msg_id))
            assert chat.error("m-3") == "conflict"
            assert chat.answer("m-4").action == "chat.block.ok"
            await chat.dispatch(an_unblock("a"), a_block("c", msg_id="m-5"))
            assert chat.answer("m-5").action == "chat.block.ok"

    async def test_a_message_beside_a_block_is_hidden_or_before_it(self, database_url: str) -> None:
        async with ServiceUnderTest.running(CHAT, database_url, replicas=2) as chat:
            for n in range(10):
                user = f"user-{n}"
                await asyncio.gather(
                    chat.dispatch(a_direct(f"to {n}", by=user), replica=0),
                    chat.dispatch(a_block(user, msg_id=f"b-{n}"), replica=1),
                )
                assert chat.answer(f"b-{n}").action == "chat.block.ok"
            hidden = {row.user_id: row.hidden_from for row in await chat.rows(MESSAGES)}
            pushed = {push.data["user"] for push in chat.pushes("user.bob")}
            assert {user for user, reader in hidden.items() if reader is None} == pushed
            assert chat.retried() == chat.parked() == []
