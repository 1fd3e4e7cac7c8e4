"""Private rooms, messages that change, and how far people have read; on two replicas of the gateway."""

from collections.abc import Sequence
from typing import Any

from towpath.testkit.client import Frame, WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.system import System

ROOM = "den"


async def ask(client: WireClient, action: str, **data: Any) -> Frame:
    """The data of a good answer."""
    answer = await client.request(action, data, key=data.get("room"))
    assert answer["action"] == f"{action}.ok", answer
    told: Frame = answer["data"]
    return told


async def refused(client: WireClient, action: str, **data: Any) -> str:
    """The code of an error."""
    answer = await client.request(action, data, key=data.get("room"))
    assert answer["action"] == "error", answer
    return str(answer["data"]["code"])


async def greeted(*clients: WireClient) -> None:
    for client in clients:
        await client.next("session.welcome")


def is_push(frame: Frame) -> bool:
    return "correlation_id" not in frame


def durable(pushes: Sequence[Frame]) -> list[tuple[str, int]]:
    return [(push["action"], push["seq"]) for push in pushes if "stream" in push]


async def test_a_private_room_is_open_to_invited_users_on_any_gateway(system: System) -> None:
    async with (
        system.connect("ana", 0) as ana,
        system.connect("ben", 1) as ben,
        system.connect("eve", 1) as eve,
    ):
        await greeted(ana, ben, eve)
        assert await ask(ana, "chat.create", room=ROOM, title="The den", private=True) == {"room": ROOM}
        assert await refused(ben, "chat.create", room=ROOM) == "conflict"
        assert await refused(ben, "chat.join", room=ROOM) == "forbidden"
        await ask(ana, "chat.invite", room=ROOM, user="ben")
        invited = await ben.next("chat.invited")
        assert invited["data"] == {"room": ROOM, "title": "The den", "by": "ana"}
        assert (await ask(ben, "chat.rooms"))["invitations"] == [invited["data"]]
        assert (await ask(ben, "chat.join", room=ROOM))["members"] == ["ana", "ben"]
        await ask(ana, "chat.send", room=ROOM, text="a secret")
        assert (await ben.next("chat.message"))["data"]["text"] == "a secret"
        (room,) = (await ask(ben, "chat.rooms"))["rooms"]
        assert room.items() >= {"room": ROOM, "title": "The den", "private": True, "unread": 1}.items()
        await ask(ben, "chat.leave", room=ROOM)
        for client in (ben, eve):
            assert await refused(client, "chat.join", room=ROOM) == "forbidden"
            assert await refused(client, "chat.history", room=ROOM) == "forbidden"
        await ask(ana, "chat.send", room=ROOM, text="another secret")
        assert await ask(eve, "chat.rooms") == {"rooms": []}
        assert [frame for frame in eve.frames if frame["action"].startswith("chat.") and is_push(frame)] == []
        assert [push["data"]["text"] for push in ben.pushes("chat.message")] == ["a secret"]
        await ask(ana, "chat.leave", room=ROOM)  # it has no members: it is deleted, and its name is free
        assert (await ask(eve, "chat.join", room=ROOM))["members"] == ["eve"]
        assert (await ask(eve, "chat.history", room=ROOM))["messages"] == []
        answer = await ask(eve, "chat.resume", positions={f"chat:{ROOM}": 0})
        assert answer["streams"][f"chat:{ROOM}"]["complete"] is False


async def test_a_repeated_join_does_not_undo_a_leave(system: System) -> None:
    async with system.connect("ana", 0) as ana, system.connect("ben", 1) as ben:
        await ask(ana, "chat.join", room=ROOM)
        first = await ben.request("chat.join", {"room": ROOM}, key=ROOM, msg_id="join-1")
        await ask(ben, "chat.leave", room=ROOM)
        heard = len(ben.frames)
        await ben.send("chat.join", {"room": ROOM}, key=ROOM, msg_id="join-1")
        await eventually(lambda: first in ben.frames[heard:])
        await ask(ana, "chat.send", room=ROOM, text="just us")
        await ask(ben, "chat.rooms")
        assert ben.pushes("chat.message") == []


async def test_edits_and_deletions_are_seen_at_once_and_after_a_resume(system: System) -> None:
    async with system.connect("ana", 0) as ana, system.connect("ben", 1) as ben:
        await ask(ana, "chat.join", room=ROOM)
        position = (await ask(ben, "chat.join", room=ROOM))["seq"]
        one = (await ask(ana, "chat.send", room=ROOM, text="helo"))["seq"]
        other = (await ask(ana, "chat.send", room=ROOM, text="oops"))["seq"]
        assert await refused(ben, "chat.edit", room=ROOM, seq=one, text="mine") == "forbidden"
        assert await ask(ana, "chat.edit", room=ROOM, seq=one, text="hello") == {"room": ROOM, "seq": one}
        assert await ask(ana, "chat.delete", room=ROOM, seq=other) == {"room": ROOM, "seq": other}
        assert await refused(ana, "chat.edit", room=ROOM, seq=other, text="again") == "conflict"
        for client in (ana, ben):
            edited, deleted = await client.next("chat.edited"), await client.next("chat.deleted")
            assert (edited["data"]["seq"], edited["data"]["text"]) == (one, "hello")
            assert deleted["data"]["seq"] == other
        live = durable([frame for frame in ben.frames if frame.get("seq", 0) > position])
        assert [action for action, _ in live] == ["chat.message"] * 2 + ["chat.edited", "chat.deleted"]
        async with system.connect("ben", 0) as later:
            resumed = await ask(later, "chat.resume", positions={f"chat:{ROOM}": position})
            assert resumed["streams"] == {f"chat:{ROOM}": {"seq": live[-1][1], "complete": True}}
            assert durable(later.frames) == live
            replayed = [frame["data"] for frame in later.frames if "text" in frame["data"]]
            assert [(push["text"], push.get("deleted", False)) for push in replayed] == [
                ("hello", False),
                ("", True),
                ("hello", False),
            ]
            messages = (await ask(later, "chat.history", room=ROOM))["messages"]
            assert [message["text"] for message in messages] == ["hello", ""]
            assert ["edited_at" in message for message in messages] == [True, False]
            assert ["deleted_at" in message for message in messages] == [False, True]


async def test_a_read_position_reaches_the_other_connection_of_the_user(system: System) -> None:
    async with (
        system.connect("ana", 0) as ana,
        system.connect("ben", 0) as phone,
        system.connect("ben", 1) as laptop,
    ):
        await greeted(ana, phone, laptop)
        await ask(ana, "chat.join", room=ROOM)
        await ask(phone, "chat.join", room=ROOM)
        await laptop.next("chat.joined")
        seq = [(await ask(ana, "chat.send", room=ROOM, text=text))["seq"] for text in ("one", "two")]
        assert [room["unread"] for room in (await ask(laptop, "chat.rooms"))["rooms"]] == [2]
        assert await ask(phone, "chat.read", room=ROOM, seq=seq[0]) == {"room": ROOM, "seq": seq[0]}
        told = {"room": ROOM, "user": "ben", "seq": seq[0]}
        for client in (ana, phone, laptop):
            push = await client.next("chat.read")
            assert push["data"] == told
            assert "stream" not in push
        assert await ask(laptop, "chat.read", room=ROOM, seq=1) == {"room": ROOM, "seq": seq[0]}
        (room,) = (await ask(laptop, "chat.rooms"))["rooms"]
        assert (room["read_seq"], room["unread"]) == (seq[0], 1)
