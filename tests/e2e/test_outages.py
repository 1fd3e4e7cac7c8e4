"""Outages and recoveries, without losses for users."""

import asyncio

from towpath.testkit.client import Frame
from towpath.testkit.eventually import eventually
from towpath.testkit.follower import Follower
from towpath.testkit.system import System

ROOM = "lobby"
STREAM = "chat:lobby"


async def join(follower: Follower) -> None:
    answer = await follower.request("chat.join", {"room": ROOM}, msg_id=f"join-{follower.user}", key=ROOM)
    follower.track(STREAM, answer["data"]["seq"])


async def say(follower: Follower, number: int) -> Frame:
    text = f"{follower.user} {number}"
    answer = await follower.request(
        "chat.send", {"room": ROOM, "text": text}, msg_id=f"{follower.user}-{number}", key=ROOM
    )
    assert answer["action"] == "chat.send.ok", answer
    return answer


def outcome(frame: Frame, msg_id: str) -> str | None:
    """The part of a frame about a request: its action, of an error the code; ``None`` if it is not about it."""
    if frame.get("correlation_id") != msg_id:
        return None
    return str(frame["data"]["code"] if frame["action"] == "error" else frame["action"])


def messages(follower: Follower) -> list[str]:
    return [frame["data"]["text"] for frame in follower.of("chat.message")]


async def test_a_killed_gateway_loses_nothing_for_its_users(system: System) -> None:
    async with system.follow("ana", 0) as ana, system.follow("ben", 0) as ben, system.follow("cyd", 1) as cyd:
        people = [ana, ben, cyd]
        for person in people:
            await join(person)

        async def talk(person: Follower) -> None:
            for number in range(40):
                await say(person, number)

        talking = asyncio.gather(*(talk(person) for person in people))
        await eventually(lambda: len(messages(cyd)) > 15, timeout=30)
        await system.gateways[0].kill()
        await talking
        await eventually(
            lambda: len(messages(ana)) == len(messages(ben)) == len(messages(cyd)) == 120, timeout=30
        )
        assert messages(ana)[-60:] == messages(cyd)[-60:]
        assert messages(ben) == [text for text in messages(ana) if text in set(messages(ben))]
        for person in people:
            heard = messages(cyd)
            assert [t for t in heard if t.startswith(person.user)] == [
                f"{person.user} {n}" for n in range(40)
            ]
            assert len(set(heard)) == len(heard)
        assert ana.resumed > 0
        assert ben.resumed > 0
        assert not ana.incomplete + ben.incomplete + cyd.incomplete


async def test_a_broker_that_is_restarted_loses_nothing_that_was_accepted(system: System) -> None:
    async with (
        system.follow("ana", 0) as ana,
        system.follow("ben", 1) as ben,
        system.connect("eve", 0) as eve,
    ):
        await join(ana)
        await join(ben)
        for number in range(5):
            await say(ana, number)
        accepted = [
            await eve.send("order.submit", {"order_id": f"O{n}", "amount": n}, ack=True) for n in range(5)
        ]
        for msg_id in accepted:
            await eve.accepted(msg_id)

        await system.rabbitmq.stop()

        async def is_unavailable() -> bool:
            answer = await eve.request("order.list")
            return bool(answer["data"].get("code") == "unavailable")

        await eventually(is_unavailable)
        late = asyncio.create_task(say(ana, 5))
        await system.rabbitmq.start()
        await late
        for number in range(6, 10):
            await say(ana, number)
        for msg_id in accepted:
            assert (await eve.answer(msg_id, timeout=30))["action"] == "order.submit.ok"
        orders = await eve.request("order.list", timeout=30)
        assert {order["order_id"] for order in orders["data"]["orders"]} == {f"O{n}" for n in range(5)}
        await eventually(lambda: len(messages(ana)) == len(messages(ben)) == 10, timeout=30)
        assert messages(ana) == messages(ben) == [f"ana {n}" for n in range(10)]


async def test_a_broker_with_an_alarm_means_busy_and_nothing_accepted_is_lost(system: System) -> None:
    async with system.connect("ana") as ana:
        await ana.request("order.submit", {"order_id": "O1", "amount": 1})
        await system.rabbitmq.block()
        # RabbitMQ reports its alarm only to publishers: this one waits in its socket.
        first = await ana.send("order.submit", {"order_id": "O2", "amount": 1}, ack=True)

        async def is_busy() -> bool:
            # One that leaves together with the first waits in the socket as well.
            answer = await ana.request("order.list", timeout=1)
            return bool(answer["data"].get("code") == "busy")

        await eventually(is_busy, timeout=30)
        await system.rabbitmq.unblock()
        await ana.find(lambda frame: outcome(frame, first) == "order.submit.ok", timeout=30)
        # On a slow machine the alarm outlasts the wait for a confirm: the outcome is then unknown, and no
        # `accepted` follows.
        told = [said for frame in ana.frames if (said := outcome(frame, first))]
        assert told in (["accepted", "order.submit.ok"], ["timeout", "order.submit.ok"])

        async def has_both() -> bool:
            orders = (await ana.request("order.list"))["data"].get("orders", [])
            return {order["order_id"] for order in orders} == {"O1", "O2"}

        await eventually(has_both)


async def test_killed_services_continue_after_their_restart(system: System) -> None:
    async with system.follow("ana", 0) as ana, system.follow("ben", 1) as ben:
        await join(ana)
        await join(ben)

        async def talk() -> None:
            for number in range(40):
                await say(ana, number)

        talking = asyncio.create_task(talk())
        await eventually(lambda: len(messages(ben)) > 5)
        await system.chat.kill()
        system.chat = system.launch_service("chat")
        await talking
        await eventually(lambda: len(messages(ben)) == 40, timeout=30)
        assert messages(ben) == [f"ana {n}" for n in range(40)]


async def test_a_stopped_replica_sends_its_clients_to_the_other(system: System) -> None:
    async with system.follow("ana", 0) as ana, system.follow("ben", 1) as ben:
        await join(ana)
        await join(ben)
        await say(ben, 0)
        assert await system.gateways[0].terminate() == 0
        await say(ben, 1)
        await say(ana, 2)
        await eventually(lambda: len(messages(ana)) == len(messages(ben)) == 3)
        assert messages(ana) == messages(ben)


async def test_a_disconnected_user_resumes_on_any_replica_and_misses_nothing(system: System) -> None:
    async with system.connect("ana", 0) as ana:
        joined = await ana.request("chat.join", {"room": ROOM}, key=ROOM)
    async with system.follow("ben", 0) as ben:
        await join(ben)
        for number in range(20):
            await say(ben, number)
    async with system.connect("ana", 1) as ana:
        position = joined["data"]["seq"]
        resumed = await ana.request("chat.resume", {"positions": {STREAM: position}})
        told = resumed["data"]["streams"][STREAM]
        assert told["complete"] is True
        replayed = [frame for frame in ana.frames if frame.get("stream") == STREAM]
        assert [frame["seq"] for frame in replayed] == list(range(position + 1, told["seq"] + 1))
        assert ana.frames.index(replayed[-1]) < ana.frames.index(resumed)
        assert [f["data"]["text"] for f in replayed if f["action"] == "chat.message"] == [
            f"ben {n}" for n in range(20)
        ]
