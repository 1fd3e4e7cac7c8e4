"""Presence: which users are online, and the pushes about it."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from towpath.chat.app import CHAT
from towpath.chat.presence import STEP, Presence, PresenceState, presence_at
from towpath.chat.repository import Rooms
from towpath.chat.settings import ChatSettings
from towpath.chat.tables import CONNECTIONS, GATEWAYS, INBOX, KIT, PEOPLE
from towpath.servicekit.handling.outcome import Push
from towpath.servicekit.handling.timers import TimerRun
from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command, an_event, counted_statements

GRACE, SILENCE = 10, 15
DAY = 86_400
WATCHING = "gw-0"


class Clock:
    """The time as a test wants it."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += int(seconds * 1000)


class Town:
    """Chat, its clock, and the gateways with their session events."""

    def __init__(self, chat: ServiceUnderTest, clock: Clock, presence: Presence) -> None:
        self.chat = chat
        self.clock = clock
        self.presence = presence

    @classmethod
    @asynccontextmanager
    async def running(cls, database_url: str, *, replicas: int = 1, **settings: Any) -> AsyncIterator["Town"]:
        clock = Clock()
        assert CHAT.storage is not None
        chosen = ChatSettings(presence_grace=GRACE, gateway_silence=SILENCE, **settings)
        storage = replace(CHAT.storage, unit=partial(Rooms, clock=clock, limits=chosen.limits()))
        async with ServiceUnderTest.running(
            replace(CHAT, storage=storage), database_url, replicas=replicas
        ) as chat:
            yield cls(chat, clock, Presence(chosen, clock))

    async def hear(self, *messages: Incoming) -> None:
        """Take messages as one batch, and then all the turns there are to take."""
        await self.chat.dispatch(*messages)
        await self.settle()

    async def settle(self, *, connected_for: float = DAY, replica: int = 0) -> int:
        """Take turns until there is nothing to do at once; returns how many."""
        turns = 1
        while await self.chat.turn(self.presence.round, connected_for=connected_for, replica=replica):
            turns += 1
        return turns

    async def wait(self, seconds: float) -> None:
        """Let time pass; at the end there is another gateway to be heard, and there are turns to be taken."""
        self.clock.pass_by(seconds)
        await self.hear(lives(WATCHING))

    def told(self, key: str | None = None) -> list[tuple[str, bool]]:
        """The published presence changes since the last call."""
        pushes = self.chat.pushes(key, action="chat.presence")
        self.chat.forget()
        return [(push.data["user"], push.data["online"]) for push in pushes]

    async def online(self, room: str = "weavers", by: str = "bob") -> set[str]:
        await self.chat.dispatch(a_command("chat.members", room=room, by=by, msg_id="members"))
        members = self.chat.answers("members")[-1].data["members"]
        return {member["user"] for member in members if member["online"]}


@pytest.fixture
async def town(database_url: str) -> AsyncIterator[Town]:
    """Alice and Bob are in a room, without connections."""
    async with Town.running(database_url) as town:
        await town.chat.dispatch(a_join(), a_join(by="bob"))
        town.chat.forget()
        yield town


def a_join(room: str = "weavers", **more: Any) -> Incoming:
    return a_command("chat.join", room=room, **more)


def starts(on: str = "a-1", user: str = "alice", at: str = "gw-1", run: str = "r-1", **more: Any) -> Incoming:
    return an_event("session.started", user_id=user, connection_id=on, gateway_id=at, incarnation=run, **more)


def ends(on: str = "a-1", user: str = "alice", at: str = "gw-1", run: str = "r-1") -> Incoming:
    return an_event(
        "session.ended", user_id=user, connection_id=on, gateway_id=at, incarnation=run, code=1000
    )


def lives(at: str = "gw-1", run: str = "r-1") -> Incoming:
    return an_event("session.alive", gateway_id=at, incarnation=run)


class TestConnections:
    async def test_the_first_online_and_the_last_offline_are_published_over_all_gateways(
        self, town: Town
    ) -> None:
        await town.hear(starts("a-1"))
        assert town.told("group.chat:weavers") == [("alice", True)]
        await town.hear(starts("a-2", at="gw-2"), ends("a-1"))
        await town.wait(GRACE)
        assert town.told() == []
        await town.hear(ends("a-2", at="gw-2"))
        assert town.told() == []
        await town.wait(GRACE)
        assert town.told("group.chat:weavers") == [("alice", False)]

    async def test_a_user_who_reconnects_in_time_never_goes_offline(self, town: Town) -> None:
        await town.hear(starts("a-1"))
        town.told()
        for number in range(1, 4):
            await town.hear(ends(f"a-{number}"))
            await town.wait(GRACE - 0.1)
            await town.hear(starts(f"a-{number + 1}", at="gw-2"), lives())
            await town.wait(GRACE)
        assert town.told() == []

    async def test_a_connection_between_two_rounds_is_not_published(self, town: Town) -> None:
        await town.hear(starts(), ends())
        await town.wait(GRACE)
        assert town.told() == []
        assert await town.chat.rows(PEOPLE) == []

    async def test_an_end_that_arrives_before_its_start_remains_the_end(self, town: Town) -> None:
        await town.hear(ends())
        await town.hear(starts())
        await town.wait(GRACE)
        assert town.told() == []
        assert await town.online() == set()

    async def test_doubled_presence_events_are_published_once_and_store_no_outcome(self, town: Town) -> None:
        outcomes = len(await town.chat.rows(INBOX))
        event = starts(msg_id="m-1")
        await town.hear(event, event)
        await town.chat.dispatch(event, redelivered=True)
        assert town.chat.groups("a-1") == {"chat:weavers"}
        await town.settle()
        assert town.told() == [("alice", True)]
        await town.hear(ends(), ends())
        await town.wait(GRACE / 2)
        await town.hear(ends())
        await town.wait(GRACE / 2)
        assert town.told() == [("alice", False)]
        assert len(await town.chat.rows(INBOX)) == outcomes

    async def test_a_connection_receives_the_rooms_that_it_has_after_its_batch(self, town: Town) -> None:
        await town.hear(starts("a-1"), a_command("chat.leave", room="weavers"), a_join("dyers"))
        assert town.chat.groups("a-1") == {"chat:dyers"}

    async def test_the_list_of_members_shows_online_members(self, town: Town) -> None:
        assert await town.online() == set()
        await town.chat.dispatch(starts())
        assert await town.online() == {"alice"}  # before any publish
        await town.settle()
        await town.hear(ends())
        assert await town.online() == {"alice"}
        await town.wait(GRACE)
        assert await town.online() == set()


class TestGateways:
    async def test_users_of_only_a_silent_gateway_go_offline_and_no_others(self, town: Town) -> None:
        await town.hear(starts("a-1"), starts("b-1", "bob"), starts("b-2", "bob", at="gw-2"))
        town.told()
        for _ in range(2):
            await town.wait(5)
            await town.hear(lives("gw-2"))
        await town.wait(4.9)
        assert town.told() == []
        await town.wait(0.1)
        assert town.told() == [("alice", False)]
        assert await town.online() == {"bob"}

    async def test_a_user_who_reconnects_before_the_silence_is_noticed_never_goes_offline(
        self, town: Town
    ) -> None:
        await town.hear(starts("a-1"))
        town.told()
        await town.wait(GRACE)
        await town.hear(starts("a-2", at="gw-2"))
        await town.wait(SILENCE - GRACE)
        await town.hear(lives("gw-2"))
        await town.wait(SILENCE - 1)
        assert town.told() == []

    async def test_a_gateway_that_announces_itself_again_has_its_users_online(self, town: Town) -> None:
        await town.hear(starts("a-1"), starts("b-1", "bob"))
        await town.wait(SILENCE)
        town.told()
        await town.hear(ends("b-1", "bob"), lives())
        assert town.told() == [("alice", True)]
        await town.wait(GRACE)
        assert town.told() == []

    async def test_a_restarted_gateway_has_no_connections_of_its_earlier_run(self, town: Town) -> None:
        await town.hear(starts("a-1"), starts("b-1", "bob"))
        town.told()
        await town.hear(lives(run="r-2"))
        await town.wait(GRACE - 1)
        assert town.told() == []
        await town.hear(starts("b-2", "bob", run="r-2"))
        await town.wait(1)
        assert town.told() == [("alice", False)]

    async def test_a_late_event_of_an_earlier_run_does_not_change_the_current_one(self, town: Town) -> None:
        await town.hear(lives(run="r-1"))
        await town.hear(starts("a-1", run="r-2"))
        town.told()
        await town.hear(starts("b-0", "bob", run="r-1"))
        await town.wait(5)
        await town.hear(lives(run="r-2"))
        town.told()
        await town.wait(GRACE)
        assert town.told() == [("bob", False)]

    async def test_a_replica_that_was_disconnected_draws_no_conclusion_from_silence(self, town: Town) -> None:
        await town.hear(starts())
        town.told()
        town.clock.pass_by(DAY)  # this service was down
        await town.chat.dispatch(lives(WATCHING))
        await town.settle(connected_for=SILENCE - 0.1)
        assert town.told() == []
        await town.settle(connected_for=SILENCE)
        assert town.told() == [("alice", False)]

    async def test_without_any_gateway_announcement_no_user_goes_offline(self, town: Town) -> None:
        await town.hear(starts("a-1"), starts("b-1", "bob", at="gw-2"))
        town.told()
        town.clock.pass_by(DAY)
        await town.settle()
        assert await town.online() == {"alice", "bob"}
        await town.hear(lives("gw-2"))
        assert town.told() == [("alice", False)]

    async def test_a_gateway_without_an_incarnation_counts_as_one_run(self, town: Town) -> None:
        await town.hear(
            an_event("session.started", user_id="alice", connection_id="a-1", gateway_id="old"),
        )
        assert town.told() == [("alice", True)]
        await town.wait(SILENCE)
        assert town.told() == [("alice", False)]


class TestTold:
    async def test_in_a_room_of_two_the_other_gets_the_read_position(self, town: Town) -> None:
        await town.chat.dispatch(
            a_command("chat.direct", by="cyd", to="dan", text="hi"),
            a_command("chat.direct", by="cyd", to="cyd", text="a note"),
        )
        town.chat.forget()
        await town.hear(starts(user="cyd"))
        (push,) = town.chat.pushes("user.dan")
        assert push.data == {"room": "dm:cyd:dan", "user": "cyd", "online": True}
        assert push.stream is None
        assert town.told() == [("cyd", True)]

    async def test_presence_is_pushed_to_each_room_of_the_user_except_crowds(self, database_url: str) -> None:
        async with Town.running(database_url, crowd_members=3) as town:
            await town.chat.dispatch(
                *[a_join("three", by=user) for user in ("ana", "ben", "cyd")],
                *[a_join("four", by=user) for user in ("ana", "ben", "cyd", "dan")],
                a_join("one", by="ana"),
            )
            town.chat.forget()
            await town.hear(starts(user="ana"))
            rooms = [push.data["room"] for push in town.chat.pushes(action="chat.presence")]
            assert sorted(rooms) == ["one", "three"]

    async def test_uncommitted_presence_is_published_by_the_next_round_only(self, town: Town) -> None:
        class Interrupted(TimerRun):
            async def publish(
                self, connection: AsyncConnection, pushes: Sequence[Push] = (), **more: Any
            ) -> None:
                await TimerRun.publish(self, connection, pushes, **more)
                raise InterruptedError

        async def interrupted(run: TimerRun) -> bool:
            return await town.presence.round(Interrupted(run.database, run.relay, run.connected_for))

        await town.chat.dispatch(starts())
        with pytest.raises(InterruptedError):
            await town.chat.turn(interrupted)
        await town.chat.turn(town.presence.forget)
        assert town.told() == []
        await town.settle()
        assert town.told() == [("alice", True)]

    async def test_published_presence_has_left_the_outbox(self, town: Town) -> None:
        await town.hear(starts())
        assert town.told() == [("alice", True)]
        assert await town.chat.rows(KIT.outbox.items) == []

    async def test_replicas_with_simultaneous_rounds_publish_once(self, database_url: str) -> None:
        users = [f"user-{number}" for number in range(40)]
        async with Town.running(database_url, replicas=2) as town:
            await town.chat.dispatch(*[a_join(by=user) for user in users])
            town.chat.forget()
            for come in (True, False):
                sign = starts if come else ends
                await town.chat.dispatch(*[sign(user, user) for user in users])
                await asyncio.gather(*(town.settle(replica=replica) for replica in (0, 1)))
                town.clock.pass_by(GRACE)
                await asyncio.gather(*(town.settle(replica=replica) for replica in (0, 1)))
                assert sorted(town.told()) == sorted((user, come) for user in users)

    async def test_a_user_who_reconnects_during_the_publish_ends_online(self, database_url: str) -> None:
        async with Town.running(database_url, replicas=2) as town:
            await town.chat.dispatch(a_join())
            await town.hear(starts("a-1"))
            await town.hear(ends("a-1"))
            town.told()
            returning: list[asyncio.Task[None]] = []

            class Overtaken(TimerRun):
                async def publish(
                    self, connection: AsyncConnection, pushes: Sequence[Push] = (), **more: Any
                ) -> None:
                    returning.append(asyncio.create_task(town.chat.dispatch(starts("a-2"), replica=0)))
                    await asyncio.wait(returning, timeout=0.2)  # it may wait for us, but not overtake
                    await TimerRun.publish(self, connection, pushes, **more)

            async def overtaken(run: TimerRun) -> bool:
                return await town.presence.round(Overtaken(run.database, run.relay, run.connected_for))

            town.clock.pass_by(GRACE)
            await town.chat.turn(overtaken, replica=1)
            await asyncio.gather(*returning)
            await town.settle()
            assert town.told() == [("alice", False), ("alice", True)]


class TestTogether:
    async def test_presence_ends_right_for_any_order_of_events_and_is_published_once(
        self, database_url: str
    ) -> None:
        chance = random.Random(5)
        users = [f"user-{number}" for number in range(40)]
        last_run = "r-2"
        connected: dict[str, tuple[str, str, str]] = {}
        async with Town.running(database_url, replicas=2) as town:
            await town.chat.dispatch(*[a_join(by=user) for user in users])
            town.chat.forget()
            for step in range(24):
                run, signs = f"r-{step // 8}", list[Incoming]()
                for user in chance.sample(users, 20):
                    if user in connected:
                        connection, gateway, of_run = connected.pop(user)
                        signs.append(ends(connection, user, gateway, of_run))
                    else:
                        connected[user] = (f"{user}-{step}", f"gw-{chance.randrange(4)}", run)
                        connection, gateway, _ = connected[user]
                        signs.append(starts(connection, user, gateway, run))
                signs += [lives(f"gw-{number}", run) for number in range(4) if chance.random() < 0.7]
                chance.shuffle(signs)
                await asyncio.gather(
                    town.chat.dispatch(*signs[::2], replica=0),
                    town.chat.dispatch(*signs[1::2], replica=1),
                    town.settle(replica=0),
                    town.settle(replica=1),
                )
                town.clock.pass_by(chance.choice([1, 5, 11]))
                await asyncio.gather(town.settle(replica=0), town.settle(replica=1))
            await town.hear(*[lives(f"gw-{number}", last_run) for number in range(4)])
            town.clock.pass_by(GRACE)
            await town.settle()
            assert town.chat.retried() == town.chat.parked() == []
            told = dict.fromkeys(users, False)
            for user, online in town.told():
                assert online is not told[user]
                told[user] = online
            assert {user for user, online in told.items() if online} == {
                user for user, (_, _, run) in connected.items() if run == last_run
            }


class TestManyPeople:
    async def test_the_number_of_statements_does_not_grow_with_the_batch(self, database_url: str) -> None:
        async def a_round(town: Town, users: list[str]) -> int:
            with counted_statements() as statements:
                await town.chat.dispatch(*[starts(user, user) for user in users], lives())
                await town.settle()
                await town.chat.dispatch(*[ends(user, user) for user in users])
                await town.settle()
                town.clock.pass_by(GRACE)
                await town.settle()
            return len(statements)

        users = [f"user-{number}" for number in range(60)]
        async with Town.running(database_url) as town:
            await town.chat.dispatch(*[a_join(f"room-{number % 7}", by=u) for number, u in enumerate(users)])
            few, many = await a_round(town, users[:1]), await a_round(town, users[1:])
            assert few == many

    async def test_the_users_of_a_dead_gateway_are_published_in_bounded_steps(
        self, database_url: str
    ) -> None:
        users = [f"user-{number:04}" for number in range(2 * STEP + 100)]
        async with Town.running(database_url) as town:
            for first in range(0, len(users), 100):
                part = users[first : first + 100]
                await town.chat.dispatch(*[a_join(f"room-{first}", by=user) for user in part])
                await town.chat.dispatch(*[starts(user, user) for user in part])
            await town.settle()
            town.told()
            town.clock.pass_by(SILENCE)
            await town.chat.dispatch(lives(WATCHING))
            told: list[int] = []
            more = True
            while more:
                with counted_statements() as statements:
                    more = await town.chat.turn(town.presence.round)
                assert len(statements) < 35
                told.append(len(town.told()))
            assert sum(told) == len(users)
            assert max(told) <= STEP

    async def test_users_in_many_rooms_are_published_in_steps_of_a_thousand_rooms(
        self, database_url: str
    ) -> None:
        users, rooms = ["ana", "ben", "cyd"], [f"room-{number}" for number in range(600)]
        async with Town.running(database_url) as town:
            for number, creator in enumerate(users):  # one may create 200 a day
                part = rooms[200 * number : 200 * (number + 1)]
                for user in (creator, *users):
                    await town.chat.dispatch(*[a_join(room, by=user) for room in part])
            town.told()
            await town.chat.dispatch(*[starts(user, user) for user in users])
            pushes: list[int] = []
            more = True
            while more:
                more = await town.chat.turn(town.presence.round)
                pushes.append(len(town.told()))
            assert pushes == [600, 600, 600]

    async def test_expired_presence_events_are_deleted(self, town: Town) -> None:
        await town.hear(starts("a-1"), starts("b-1", "bob", at="gw-2"))
        await town.hear(ends("a-1"))
        await town.wait(3600)
        assert len(await town.chat.rows(CONNECTIONS)) == 2
        town.clock.pass_by(1)
        await town.chat.turn(town.presence.forget)
        assert [row.connection_id for row in await town.chat.rows(CONNECTIONS)] == ["b-1"]
        await town.wait(DAY)
        await town.chat.turn(town.presence.forget)
        assert await town.chat.rows(CONNECTIONS) == await town.chat.rows(PEOPLE) == []
        assert [row.gateway_id for row in await town.chat.rows(GATEWAYS)] == [WATCHING]


class TestJudgement:
    @pytest.mark.parametrize("was_online", [True, False])
    def test_a_connected_user_is_online(self, was_online: bool) -> None:
        state = PresenceState(is_connected=True, left_at=5)
        assert presence_at(state, was_online=was_online, now=100_000, grace=10) == (True, None)

    def test_an_online_user_remains_online_for_the_grace_period(self) -> None:
        state = PresenceState(left_at=1000)
        assert presence_at(state, was_online=True, now=1009, grace=10) == (True, 1010)
        assert presence_at(state, was_online=True, now=1010, grace=10) == (False, None)
        assert presence_at(state, was_online=False, now=1009, grace=10) == (False, None)

    def test_an_unknown_user_is_offline(self) -> None:
        assert presence_at(PresenceState(), was_online=True, now=1_700_000_000_000, grace=10) == (False, None)
