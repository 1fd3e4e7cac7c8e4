"""Presence on real processes: who is online over gateways that come, go and die."""

import time
from pathlib import Path

import pytest

from towpath.chat.app import timers
from towpath.chat.settings import ChatSettings
from towpath.gateway.settings import GatewaySettings
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

ROOM = "lobby"
GRACE, SILENCE = 4.0, 5.0
#: The promise for a killed gateway, in seconds.
PROMISED = 30.0


@pytest.fixture
async def system(rabbitmq: Rabbit, processes: Processes, tmp_path: Path) -> System:
    """Everything, in a hurry: what takes seconds by default takes fewer here."""
    system = System(
        rabbitmq, processes, tmp_path, alive_interval=0.5, gateway_silence=SILENCE, presence_grace=GRACE
    )
    await system.start()
    async with system.connect("ben") as ben:
        await join(ben)
    return system


async def join(client: WireClient) -> None:
    answer = await client.request("chat.join", {"room": ROOM}, key=ROOM)
    assert answer["action"] == "chat.join.ok", answer


async def online(client: WireClient) -> set[str]:
    answer = await client.request("chat.members", {"room": ROOM}, timeout=30)
    return {member["user"] for member in answer["data"]["members"] if member["online"]}


class Watcher:
    """A member of the room, who records the presence of others from now on."""

    def __init__(self, client: WireClient) -> None:
        self.client = client
        # By time and not by number: a change that an answer shows already may be pushed a moment after the answer.
        self._began = time.time_ns() // 1_000_000

    @classmethod
    async def alone(cls, client: WireClient, user: str = "ana") -> "Watcher":
        """In the room, once ``user`` is seen there and no other user."""
        await join(client)

        async def is_alone() -> bool:
            return await online(client) == {user}

        await eventually(is_alone, timeout=PROMISED, every=0.1)
        return cls(client)

    def told(self, user: str) -> list[bool]:
        """The presence of a user as it was pushed; a repeat after a crash has the same ``msg_id``."""
        once = {push["msg_id"]: push for push in self.client.pushes("chat.presence")}
        pushes = [push["data"] for push in once.values() if push["timestamp"] > self._began]
        assert all(push["room"] == ROOM for push in pushes)
        return [push["online"] for push in pushes if push["user"] == user]


async def sees_online(client: WireClient, users: set[str]) -> None:
    """Wait until a member sees exactly these online."""

    async def sees() -> bool:
        return await online(client) == users

    await eventually(sees, timeout=PROMISED)


async def test_the_first_connect_and_the_last_disconnect_are_published_over_two_gateways(
    system: System,
) -> None:
    async with system.connect("ana", 0) as ana:
        room = await Watcher.alone(ana)
        async with system.connect("ben", 1):
            await eventually(lambda: room.told("ben") == [True], timeout=PROMISED)
            await sees_online(ana, {"ana", "ben"})
            async with system.connect("ben", 0) as phone:
                await phone.next("session.welcome")
        await eventually(lambda: room.told("ben") == [True, False], timeout=PROMISED)
        await sees_online(ana, {"ana"})


async def test_a_user_who_reconnects_in_time_never_goes_offline(system: System) -> None:
    async with system.connect("ana", 0) as ana:
        room = await Watcher.alone(ana)
        for gateway in (0, 1, 0, 1):
            async with system.connect("ben", gateway) as ben:
                await ben.next("session.welcome")
                await eventually(lambda: room.told("ben") == [True], timeout=PROMISED)
        last_seen = time.monotonic()
        await eventually(lambda: room.told("ben") == [True, False], timeout=PROMISED)
        assert time.monotonic() - last_seen > GRACE / 2


async def test_the_users_of_a_killed_gateway_go_offline(system: System) -> None:
    async with system.connect("ana", 0) as ana, system.connect("cyd", 0) as cyd:
        await join(cyd)
        await cyd.close()
        room = await Watcher.alone(ana)
        async with system.connect("ben", 1), system.connect("cyd", 1):
            await eventually(lambda: room.told("ben") == room.told("cyd") == [True], timeout=PROMISED)
            await system.gateways[1].kill()
            async with system.connect("cyd", 0):  # a user who reconnects elsewhere never went offline
                await eventually(lambda: room.told("ben") == [True, False], timeout=PROMISED)
                await sees_online(ana, {"ana", "cyd"})
                assert room.told("cyd") == [True]
                assert False not in room.told("ana")


async def test_a_chat_killed_at_the_same_time_marks_no_connected_user_offline(system: System) -> None:
    async with system.connect("ana", 0) as ana:
        room = await Watcher.alone(ana)
        async with system.connect("ben", 1):
            await eventually(lambda: room.told("ben") == [True], timeout=PROMISED)
            await system.chat.kill()
            await system.gateways[1].kill()
            system.chat = system.launch_service("chat")
            # Its start comes on top: the promise holds for a chat that runs.
            await eventually(lambda: room.told("ben") == [True, False], timeout=2 * PROMISED)
            assert False not in room.told("ana")
            await sees_online(ana, {"ana"})


def test_the_default_settings_keep_the_promises() -> None:
    gateway, chat = GatewaySettings(), ChatSettings()
    look = timers(chat)[0].every
    noticed = max(chat.gateway_silence, chat.presence_grace) + look
    assert noticed < PROMISED / 2 + 1  # and the rest is for publishing many changes
    assert chat.gateway_silence >= 2 * gateway.alive_interval + look  # one that is late is not yet silence
    assert chat.presence_grace >= 10
