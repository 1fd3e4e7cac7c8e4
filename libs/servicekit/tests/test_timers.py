"""Timers: turn after turn, whatever fails, and none when nobody could hear of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from towpath.protocol.envelope import make, parse
from towpath.protocol.messages import split_batch
from towpath.protocol.routes import EXCHANGES, PUSH
from towpath.servicekit.broker.interface import (
    Binding,
    Broker,
    BrokerBlocked,
    BrokerUnavailable,
    Exchange,
    Inbox,
    PublishUnconfirmed,
    Topology,
)
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.database import Database
from towpath.servicekit.outcome import Tell, to_group, to_user
from towpath.servicekit.publisher import Publisher
from towpath.servicekit.settings import ServiceSettings
from towpath.servicekit.telemetry import Telemetry
from towpath.servicekit.timers import Hearing, Timer, Turn, keep
from towpath.testkit.eventually import eventually

PATIENCE: Final = 5.0
SELDOM: Final = 3600.0
EARS: Final = Inbox(name="ears", bindings=[Binding(PUSH, "#")])


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    migrations = tmp_path / "migrations"
    (migrations / "versions").mkdir(parents=True)
    (migrations / "env.py").write_text("")
    url = f"sqlite+aiosqlite:///{tmp_path / 'towpath.db'}"
    async with Database.open(url, migrations=migrations, version_table="test_version") as database:
        yield database


@asynccontextmanager
async def open_publisher(broker: Broker, telemetry: Telemetry, **limits: Any) -> AsyncIterator[Publisher]:
    await broker.declare(Topology([Exchange(name) for name in EXCHANGES]))
    settings = ServiceSettings(amqp_url="memory://", **limits)
    async with Publisher.open(broker, "test", settings, telemetry) as publisher:
        yield publisher


@pytest.fixture
async def publisher(broker: Broker, telemetry: Telemetry) -> AsyncIterator[Publisher]:
    async with open_publisher(broker, telemetry) as publisher:
        yield publisher


class Kept:
    """A timer that is kept, and what became of it.

    Attributes:
        turns: How many have begun.
    """

    def __init__(self, stop: asyncio.Event, task: "asyncio.Task[None]", turns: list[Turn]) -> None:
        self.stop = stop
        self.task = task
        self.turns = turns

    async def stopped(self) -> None:
        """Tell it to stop, and wait until it has."""
        self.stop.set()
        async with asyncio.timeout(PATIENCE):
            await self.task


@pytest.fixture
async def keeping(
    database: Database, publisher: Publisher, broker: Broker
) -> AsyncIterator[Callable[..., Kept]]:
    """Keeps a timer; its turns give what is left of ``results``, and then nothing more to do."""
    kept: list[Kept] = []

    def start(
        *results: bool | Exception, every: float = SELDOM, holding: asyncio.Event | None = None
    ) -> Kept:
        left, turns = list(results), list[Turn]()

        async def run(turn: Turn) -> bool:
            turns.append(turn)
            if holding is not None:
                await holding.wait()
            result = left.pop(0) if left else False
            if isinstance(result, Exception):
                raise result
            return result

        stop = asyncio.Event()
        keeper = keep(Timer("test", every, run), database, publisher, Hearing(broker), stop)
        kept.append(Kept(stop, asyncio.create_task(keeper), turns))
        return kept[-1]

    yield start
    for one in kept:
        await one.stopped()


Keeping = Callable[..., Kept]


async def test_what_is_more_to_do_is_done_at_once(keeping: Keeping) -> None:
    kept = keeping(True, True, True, False)
    await eventually(lambda: len(kept.turns) == 4)
    await kept.stopped()
    assert len(kept.turns) == 4


async def test_turns_come_again_and_again(keeping: Keeping) -> None:
    kept = keeping(every=0.01)
    await eventually(lambda: len(kept.turns) > 3)


async def test_a_turn_that_fails_is_followed_by_another(keeping: Keeping) -> None:
    kept = keeping(ZeroDivisionError(), BrokerUnavailable("away"), OSError(), every=0.01)
    await eventually(lambda: len(kept.turns) > 4)
    assert not kept.task.done()


async def test_there_is_no_turn_while_the_broker_takes_nothing(keeping: Keeping, hub: MemoryHub) -> None:
    kept = keeping(every=0.01)
    for leave, come_back in ((hub.block, hub.unblock), (hub.stop, hub.start)):
        await eventually(lambda: kept.turns and kept.turns[-1].heard_for > 0.3)
        leave()
        held = len(kept.turns)
        await asyncio.wait([kept.task], timeout=0.1)
        assert len(kept.turns) == held
        come_back()
        await eventually(lambda count=held: len(kept.turns) > count)  # type: ignore[misc]
        assert kept.turns[held].heard_for < kept.turns[held - 1].heard_for


async def test_on_stop_a_pause_ends_at_once(keeping: Keeping) -> None:
    kept = keeping()
    await eventually(lambda: kept.turns)
    await kept.stopped()


async def test_on_stop_the_turn_in_hand_may_finish_and_is_the_last(keeping: Keeping) -> None:
    holding = asyncio.Event()
    kept = keeping(True, holding=holding)
    await eventually(lambda: kept.turns)
    kept.stop.set()
    holding.set()
    await kept.stopped()
    assert len(kept.turns) == 1


async def test_on_stop_a_turn_that_hangs_is_cut_off(keeping: Keeping) -> None:
    kept = keeping(holding=asyncio.Event())
    await eventually(lambda: kept.turns)
    await kept.stopped()


# Telling


def tells(count: int) -> list[Tell]:
    return [to_group("lobby", make("test.told", {"number": number})) for number in range(count)]


async def test_what_is_told_is_there_when_tell_returns(
    database: Database, publisher: Publisher, broker: Broker
) -> None:
    async with broker.subscribe(EARS, prefetch=100) as ears:
        await Turn(database, publisher, 1.0).tell([*tells(2), to_user("ana", make("test.told", {}))])
        heard = [delivery.routing_key for delivery in ears.take_waiting(10)]
        assert sorted(set(heard)) == ["group.lobby", "user.ana"]


async def test_more_than_a_lane_holds_is_told_in_its_order(
    database: Database, broker: Broker, telemetry: Telemetry
) -> None:
    async with (
        open_publisher(broker, telemetry, lane_max_items=3, batch_max_items=2) as publisher,
        broker.subscribe(EARS, prefetch=100) as ears,
    ):
        await Turn(database, publisher, 1.0).tell(tells(20))
        heard = [item for delivery in ears.take_waiting(100) for item in split_batch(delivery.body)]
        assert [parse(item).data["number"] for item in heard] == list(range(20))


async def test_what_the_broker_does_not_take_is_not_told(
    database: Database, publisher: Publisher, hub: MemoryHub
) -> None:
    turn = Turn(database, publisher, 1.0)
    hub.block()
    with pytest.raises(BrokerBlocked):
        await turn.tell(tells(1))
    hub.unblock()
    hub.confirming = False
    telling = asyncio.create_task(turn.tell(tells(1)))
    await asyncio.wait([telling], timeout=0.05)
    assert not telling.done()
    hub.stop()
    with pytest.raises(PublishUnconfirmed):
        await telling
