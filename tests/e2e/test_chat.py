"""Chat between people on different replicas."""

import asyncio

from towpath.testkit.client import Frame, WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.system import System


def texts(client: WireClient) -> list[str]:
    return [push["data"]["text"] for push in client.pushes("chat.message")]


async def join(client: WireClient, room: str) -> Frame:
    answer = await client.request("chat.join", {"room": room}, key=room)
    assert answer["action"] == "chat.join.ok", answer
    data: Frame = answer["data"]
    return data


async def test_messages_of_two_users_on_two_replicas_reach_both_in_one_order(system: System) -> None:
    async with system.connect("ana", 0) as ana, system.connect("ben", 1) as ben:
        await join(ana, "lobby")
        joined = await join(ben, "lobby")
        assert joined["members"] == ["ana", "ben"]
        await asyncio.gather(
            *(
                client.request("chat.send", {"room": "lobby", "text": f"{name} {n}"}, key="lobby")
                for n in range(50)
                for name, client in (("ana", ana), ("ben", ben))
            )
        )
        await eventually(lambda: len(texts(ana)) == len(texts(ben)) == 100)
        assert texts(ana) == texts(ben)
        for name in ("ana", "ben"):  # and each in the order it was said
            assert [t for t in texts(ana) if t.startswith(name)] == [f"{name} {n}" for n in range(50)]
        seqs = [push["seq"] for push in ben.pushes("chat.message")]
        assert seqs == list(range(joined["seq"] + 1, joined["seq"] + 101))


async def test_another_connection_of_a_member_receives_the_room_automatically(system: System) -> None:
    async with system.connect("ana", 0) as phone:
        await join(phone, "lobby")
        async with system.connect("ana", 1) as laptop, system.connect("eve", 1) as eve:
            await laptop.next("session.welcome")

            async def laptop_hears() -> bool:
                await phone.request("chat.send", {"room": "lobby", "text": "hi"}, key="lobby")
                return bool(texts(laptop))

            await eventually(laptop_hears, every=0.1)
            await eve.request("chat.rooms")
            assert texts(eve) == []


async def test_a_direct_message_reaches_every_connection_of_both(system: System) -> None:
    async with (
        system.connect("ana", 0) as ana,
        system.connect("ana", 1) as laptop,
        system.connect("ben", 1) as ben,
        system.connect("eve", 0) as eve,
    ):
        for client in (ana, laptop, ben, eve):
            await client.next("session.welcome")
        answer = await ana.request("chat.direct", {"to": "ben", "text": "psst"})
        assert answer["data"]["room"] == "dm:ana:ben"
        for client in (ana, laptop, ben):
            assert (await client.next("chat.message"))["data"]["text"] == "psst"
        await eve.request("chat.rooms")
        assert texts(eve) == []


async def test_a_non_member_can_neither_send_nor_read(system: System) -> None:
    async with system.connect("ana", 0) as ana, system.connect("eve", 1) as eve:
        await join(ana, "lobby")
        for action, data in (
            ("chat.send", {"room": "lobby", "text": "hi"}),
            ("chat.history", {"room": "lobby"}),
            ("chat.typing", {"room": "lobby"}),
            ("chat.leave", {"room": "lobby"}),
        ):
            error = await eve.request(action, data)
            assert error["data"]["code"] == "forbidden", action
        resumed = await eve.request("chat.resume", {"positions": {"chat:lobby": 0}})
        assert resumed["data"]["streams"] == {"chat:lobby": {"seq": 0, "complete": False}}
        await ana.request("chat.send", {"room": "lobby", "text": "secret"}, key="lobby")
        await eve.request("ping")
        assert texts(eve) == []


async def test_history_rooms_and_leaving(system: System) -> None:
    async with system.connect("ana", 0) as ana, system.connect("ben", 1) as ben:
        await join(ana, "lobby")
        await join(ben, "lobby")
        for n in range(5):
            await ana.request("chat.send", {"room": "lobby", "text": str(n)}, key="lobby")
        page = (await ben.request("chat.history", {"room": "lobby", "limit": 2}))["data"]
        assert [message["text"] for message in page["messages"]] == ["3", "4"]
        assert page["has_more"] is True
        rest = await ben.request("chat.history", {"room": "lobby", "before_seq": page["messages"][0]["seq"]})
        assert [message["text"] for message in rest["data"]["messages"]] == ["0", "1", "2"]
        rooms = (await ben.request("chat.rooms"))["data"]["rooms"]
        assert [(room["room"], room["unread"]) for room in rooms] == [("lobby", 5)]
        await ben.request("chat.leave", {"room": "lobby"}, key="lobby")
        assert (await ana.next("chat.left"))["data"]["user"] == "ben"
        await ana.request("chat.send", {"room": "lobby", "text": "gone"}, key="lobby")
        await ben.request("ping")
        assert "gone" not in texts(ben)


async def test_typing_is_pushed_and_not_stored(system: System) -> None:
    async with system.connect("ana", 0) as ana, system.connect("ben", 1) as ben:
        await join(ana, "lobby")
        await join(ben, "lobby")
        assert (await ana.request("chat.typing", {"room": "lobby"}))["action"] == "chat.typing.ok"
        push = await ben.next("chat.typing")
        assert push["data"] == {"room": "lobby", "user": "ana"}
        assert "seq" not in push
