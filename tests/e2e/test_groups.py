"""Groups are state: the members receive a room, and no other user receives a private one, not for one message.

Two gateways and two replicas of chat (:mod:`group_world`), whose publishes and inboxes move in any interleaving.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from towpath.chat.app import CHAT
from towpath.protocol.chat import stream_of
from towpath.testkit.dispatching import ServiceUnderTest
from towpath.testkit.eventually import eventually

from .group_world import GATEWAYS, REPLICAS, ROOM, World

OWNER: Final = "ana"
GUESTS: Final = ("bob", "eve")
NAMES: Final = tuple(f"{user}-{gateway}" for user in (OWNER, *GUESTS) for gateway in range(GATEWAYS))
_KEYS = st.sampled_from([None, ROOM])
_REPLICAS = st.integers(0, REPLICAS - 1)
_GATEWAYS = st.integers(0, GATEWAYS - 1)
_MANY: Final = 20


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with chat's schema, to be copied."""
    path = tmp_path_factory.mktemp("schema") / "chat.sqlite"

    async def migrate() -> None:
        async with ServiceUnderTest.running(CHAT, f"sqlite+aiosqlite:///{path}"):
            pass

    asyncio.run(migrate())
    return path


class Interleavings(RuleBasedStateMachine):
    """The steps of users, operators and faults, one after the other."""

    migrated: Path

    def __init__(self) -> None:
        super().__init__()
        self._folder = TemporaryDirectory()
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        path = Path(self._folder.name) / "chat.sqlite"
        shutil.copy(self.migrated, path)
        self.world = self._run(self._stack.enter_async_context(World.running(f"sqlite+aiosqlite:///{path}")))

    @initialize()
    def a_private_room(self) -> None:
        for name in NAMES:
            user, gateway = name.split("-")
            self._do(partial(self.world.connect, name, user, int(gateway)))
        self._ask(OWNER, "chat.create", key=ROOM, room=ROOM, private=True)
        for user in GUESTS:
            self._ask(OWNER, "chat.invite", key=ROOM, room=ROOM, user=user)
            self._ask(user, "chat.join", key=ROOM, room=ROOM)
        self._run(self.world.rest())

    # No rule depends on what is under way: that is not the same each time.

    @rule(name=st.sampled_from(NAMES[1:]), how=st.sampled_from(["connect", "disconnect", "kick"]))
    def come_or_go(self, name: str, how: str) -> None:
        user, gateway = name.split("-")
        match how:
            case "connect":
                self._do(partial(self.world.connect, name, user, int(gateway)))
            case "disconnect":
                self._do(partial(self.world.disconnect, name))
            case _ if user != OWNER:
                self._run(self.world.kick(user))

    @rule(name=st.sampled_from(NAMES), key=_KEYS)
    def join(self, name: str, key: str | None) -> None:
        self._ask(OWNER, "chat.invite", key=key, room=ROOM, user=name.split("-")[0])
        self._ask(name, "chat.join", key=key, room=ROOM)

    @rule(user=st.sampled_from(GUESTS), key=_KEYS)
    def leave(self, user: str, key: str | None) -> None:
        self._ask(user, "chat.leave", key=key, room=ROOM)

    @rule(name=st.sampled_from(NAMES), key=_KEYS)
    def resume(self, name: str, key: str | None) -> None:
        self._ask(name, "chat.resume", key=key, positions={stream_of(ROOM): 1})

    @rule()
    def say(self) -> None:
        self._ask(OWNER, "chat.send", key=ROOM, room=ROOM, text="between us")

    @rule(replica=_REPLICAS)
    def handle_events(self, replica: int) -> None:
        self._do(partial(self.world.handle_events, replica))

    @rule(replica=_REPLICAS, places=st.lists(st.integers(0, 3), min_size=1, max_size=3))
    def publish(self, replica: int, places: list[int]) -> None:
        for place in places:
            self._do(partial(self.world.let_go, replica, place))

    @rule(replica=_REPLICAS)
    def publish_all(self, replica: int) -> None:
        self._run(self.world.let_all_go(replica))

    @rule(gateway=_GATEWAYS, most=st.sampled_from([1, 2, 3, _MANY]))
    def read(self, gateway: int, most: int) -> None:
        self._run(self.world.gateways[gateway].read(most))
        self._run(self._check_news())

    @rule(gateway=_GATEWAYS)
    def lose_or_renew_inbox(self, gateway: int) -> None:
        replica = self.world.gateways[gateway]
        self._do(replica.stand_again if gateway in self.world.lost else replica.lose)
        self.world.lost ^= {gateway}

    def teardown(self) -> None:
        try:
            self._run(self._check_at_rest())
        finally:
            self._run(self._stack.aclose())
            self._runner.close()
            self._folder.cleanup()

    async def _check_at_rest(self) -> None:
        world = self.world
        await world.rest()
        members = await world.who_is_in()
        assert world.who_hears() == {name for name in world.open() if name.split("-")[0] in members}
        await self._check_news()

    async def _check_news(self) -> None:
        """Those who heard a message were in the room when it was committed, or came since."""
        if news := self.world.news():
            was_in = await self.world.members_by_place()
            for user, place in news:
                since = [members for at, members in was_in.items() if at >= place]
                assert any(user in members for members in since), f"{user} heard the message at {place}"

    def _ask(self, by: str, action: str, **data: Any) -> None:
        """Ask over a connection, or the first one of a user; nothing where it is not open."""
        name = next((name for name in self.world.open() if name.startswith(by)), None)
        if name is not None:
            self._do(partial(self.world.ask, name, action, **data))

    def _do(self, work: Callable[[], object]) -> None:
        async def step() -> None:
            work()
            await self.world.step()

        self._run(step())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)


@pytest.fixture
async def world(migrated: Path, tmp_path: Path) -> AsyncIterator[World]:
    """Ana, bob and eve are in the room, each by both gateways, and nothing is under way."""
    path = tmp_path / "chat.sqlite"
    shutil.copy(migrated, path)
    async with World.running(f"sqlite+aiosqlite:///{path}") as world:
        for name in NAMES:
            user, gateway = name.split("-")
            world.connect(name, user, int(gateway))
        world.ask("ana-0", "chat.create", key=ROOM, room=ROOM, private=True)
        for user in GUESTS:
            world.ask("ana-0", "chat.invite", key=ROOM, room=ROOM, user=user)
            world.ask(f"{user}-0", "chat.join", key=ROOM, room=ROOM)
        await world.rest()
        assert world.who_hears() == set(NAMES)
        yield world


async def held(world: World, replica: int) -> None:
    """Wait until a replica has committed and would publish."""
    await eventually(lambda: world.hub.held[f"chat-{replica}"])


async def done(world: World, replica: int) -> None:
    """Let a replica publish until it has nothing to do."""

    async def is_done() -> bool:
        await world.let_all_go(replica)
        return not world.is_busy(replica)

    await eventually(is_done)
    for gateway in world.gateways:
        await gateway.read()


# Bob's key without a name is handled by replica 0, the room's key by replica 1.


async def test_a_message_committed_after_a_leave_does_not_reach_the_leaver(world: World) -> None:
    world.ask("bob-0", "chat.leave", room=ROOM)
    await held(world, 0)
    world.ask("ana-0", "chat.send", key=ROOM, room=ROOM, text="between us")
    await done(world, 1)
    heard = {user for user, _ in world.news()}
    assert heard == {"ana", "eve"}
    await world.rest()
    assert {user for user, _ in world.news()} == set()


async def test_an_older_subscription_that_is_published_later_does_not_count(world: World) -> None:
    world.ask("bob-0", "chat.leave", key=ROOM, room=ROOM)
    world.ask("ana-0", "chat.invite", key=ROOM, room=ROOM, user="bob")
    await done(world, 1)
    world.ask("bob-0", "chat.join", room=ROOM)
    await held(world, 0)
    world.ask("bob-1", "chat.leave", key=ROOM, room=ROOM)
    await done(world, 1)
    await done(world, 0)
    assert world.who_hears() == {name for name in NAMES if not name.startswith("bob")}


async def test_a_resume_that_read_before_a_leave_does_not_subscribe_the_connection(world: World) -> None:
    world.ask("bob-1", "chat.resume", positions={stream_of(ROOM): 1})
    await held(world, 0)
    world.ask("bob-0", "chat.leave", key=ROOM, room=ROOM)
    await done(world, 1)
    await done(world, 0)
    assert world.who_hears() == {name for name in NAMES if not name.startswith("bob")}


async def test_a_replay_that_is_read_after_a_leave_has_no_entry(world: World) -> None:
    world.ask("bob-1", "chat.resume", positions={stream_of(ROOM): 1})
    await held(world, 0)
    world.ask("bob-0", "chat.leave", key=ROOM, room=ROOM)
    world.ask("ana-0", "chat.send", key=ROOM, room=ROOM, text="between us")
    await done(world, 1)
    await done(world, 0)
    assert not any(b"between us" in frame for frame in world.taken_from(world.sessions["bob-1"][1]))


async def test_a_replay_of_a_join_that_is_read_after_a_leave_has_no_entry(world: World) -> None:
    world.ask("bob-0", "chat.leave", key=ROOM, room=ROOM)
    world.ask("ana-0", "chat.invite", key=ROOM, room=ROOM, user="bob")
    await done(world, 1)
    world.ask("bob-1", "chat.join", room=ROOM)
    await held(world, 0)
    world.ask("bob-0", "chat.leave", key=ROOM, room=ROOM)
    world.ask("ana-0", "chat.send", key=ROOM, room=ROOM, text="between us")
    await done(world, 1)
    await done(world, 0)
    assert not any(b"between us" in frame for frame in world.taken_from(world.sessions["bob-1"][1]))


async def test_a_leave_lost_with_an_inbox_is_applied_with_the_next_inbox(world: World) -> None:
    away = world.gateways[1]
    away.lose()
    world.ask("bob-0", "chat.leave", key=ROOM, room=ROOM)
    await done(world, 1)
    away.stand_again()
    world.ask("ana-0", "chat.send", key=ROOM, room=ROOM, text="between us")
    await done(world, 1)
    assert "bob" not in {user for user, _ in world.news()}
    await world.rest()
    assert world.who_hears() == {name for name in NAMES if not name.startswith("bob")}


async def test_a_subscribe_from_before_the_new_inbox_waits_for_a_complete_list(world: World) -> None:
    world.ask("bob-0", "chat.leave", key=ROOM, room=ROOM)
    world.ask("ana-0", "chat.invite", key=ROOM, room=ROOM, user="bob")
    await done(world, 1)
    away = world.gateways[1]
    world.ask("bob-1", "chat.join", room=ROOM)  # bob-1 is at this gateway
    await held(world, 0)
    away.lose()
    world.ask("bob-0", "chat.leave", key=ROOM, room=ROOM)
    await done(world, 1)  # this unsubscribe is lost
    away.stand_again()
    await done(world, 0)  # and the older subscribe comes by the fresh inbox
    assert "bob-1" not in world.who_hears()
    world.ask("ana-0", "chat.send", key=ROOM, room=ROOM, text="between us")
    await done(world, 1)
    assert "bob" not in {user for user, _ in world.news()}
    await world.rest()
    assert world.who_hears() == {name for name in NAMES if not name.startswith("bob")}


def test_at_rest_exactly_the_members_receive_a_room(migrated: Path) -> None:
    machine = type("Machine", (Interleavings,), {"migrated": migrated})
    run_state_machine_as_test(machine, settings=settings(max_examples=30, stateful_step_count=25))
