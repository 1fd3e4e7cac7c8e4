"""Reconnect storms: many users lose their connections at once, reconnect, and are subscribed again."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from functools import partial
from typing import Final

import pytest

from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System
from towpath.testkit.tokens import a_token

from .broker import Broker
from .conftest import StartSystem
from .crowd import Crowd
from .journal import now
from .postgres_server import PostgresServer
from .storage import Databases
from .trial import Trial

_ROOMS: Final = 20
#: Seconds until all are back, whatever goes on beside.
_BACK: Final = 90.0
#: Seconds until a message is heard, and until all who are back are subscribed: who misses what is said later is deaf.
_HEARD: Final = 3.0
_SUBSCRIBED: Final = 5.0
#: Seconds until chat notices a gateway that does not reconnect under its id, and some for the machine.
_EXACT: Final = 30.0

Fault = Callable[[], Awaitable[None]]


class Storms:
    """Storms over one system, one after another."""

    def __init__(
        self, system: System, rabbitmq: Rabbit, broker: Broker, crowd: Crowd, chance: random.Random
    ) -> None:
        self._database = system.chat.settings["TOWPATH_DATABASE_URL"]
        self._system = system
        self._rabbitmq = rabbitmq
        self._broker = broker
        self._crowd = crowd
        self._chance = chance
        self._words = 0
        self._databases = Databases(system.chat, system.orders)

    async def gather(self) -> None:
        """Connect every user and join their rooms."""
        await self._all_back()
        turns = asyncio.Semaphore(10)

        async def join(user: str, rooms: frozenset[str]) -> None:
            async with turns, self._somebody(user) as client:
                for room in sorted(rooms):
                    await client.request("chat.join", {"room": room}, key=room, timeout=60)

        await asyncio.gather(*(join(one.user, one.rooms) for one in self._crowd.users))
        await self._table_is_exact("at the start")

    async def strike(self, number: int) -> None:
        """One storm, of a kind that chance chooses.

        Raises:
            AssertionError: A user receives nothing, or chat's table of connections differs from the open ones.
        """
        storm = self._chance.choice([self._cut, self._kill, self._kill_for_good, self._terminate])
        beside = self._chance.choice(
            [
                self._nothing,
                self._burn,
                self._kill_chat,
                self._close_links,
                self._restart_broker,
                self._freeze,
            ]
        )
        name = f"storm {number}: {storm.__name__[1:]}, beside it {beside.__name__[1:]}"
        self._crowd.pause = self._chance.choice([0.2, 1.0, 2.0])
        self._struck = self._chance.randrange(2)
        await asyncio.gather(storm(), self._some_time_later(beside))
        await asyncio.gather(
            *(one.ready(timeout=_BACK) for one in [*self._system.gateways, self._system.chat])
        )
        await self._all_back()
        await self._all_hear(name)
        await self._table_is_exact(name)

    # The faults

    async def _cut(self) -> None:
        for user in self._crowd.users:
            user.cut()

    async def _kill(self) -> None:
        await self._system.gateways[self._struck].kill()
        self._start_again(self._system.gateways[self._struck])

    async def _kill_for_good(self) -> None:
        await self._system.gateways[self._struck].kill()
        self._start_again(
            self._system.gateways[self._struck], gateway_id=f"gw-{self._chance.getrandbits(40):x}"
        )

    async def _terminate(self) -> None:
        assert await self._system.gateways[self._struck].terminate(timeout=60) == 0
        self._start_again(self._system.gateways[self._struck])

    def _start_again(self, gateway: Process, **settings: str) -> None:
        was = {name: gateway.settings[f"TOWPATH_{name.upper()}"] for name in ("port", "gateway_id")}
        self._system.gateways[self._struck] = self._system.launch_gateway(**{**was, **settings})

    # The load beside them

    async def _some_time_later(self, fault: Fault) -> None:
        await asyncio.sleep(self._chance.uniform(0, 1.5))
        await fault()

    async def _nothing(self) -> None:
        pass

    async def _burn(self) -> None:
        with _burners(2):
            await asyncio.sleep(3)

    async def _kill_chat(self) -> None:
        await self._system.chat.kill()
        self._system.chat = self._system.launch_service("chat", database_url=self._database)

    async def _close_links(self) -> None:
        await self._broker.close_connections()

    async def _restart_broker(self) -> None:
        await self._rabbitmq.stop()
        await self._rabbitmq.start()

    async def _freeze(self) -> None:
        other = self._system.gateways[1 - self._struck]
        other.pause()
        await asyncio.sleep(6)
        other.resume()

    # The promises after them

    async def _all_back(self) -> None:
        await eventually(lambda: not self._crowd.absent, timeout=_BACK)

    async def _all_hear(self, name: str) -> None:
        """Wait until every user receives a message; a user who misses a later one receives nothing."""
        began = now()
        async with self._somebody("speaker") as speaker:
            for room in self._crowd.rooms:
                await speaker.request("chat.join", {"room": room}, key=room, timeout=60)
            while True:
                self._words += 1
                word, said = f"word {self._words}", now()
                for room in self._crowd.rooms:
                    await speaker.request("chat.send", {"room": room, "text": word}, key=room, timeout=60)
                await self._until(partial(self._is_heard, word), _HEARD)
                if not (deaf := self._crowd.deaf(word)):
                    return
                where = sorted({str(user.gateway_id) for user in deaf})
                assert said - began < _SUBSCRIBED, f"{name}: {len(deaf)} deaf on {', '.join(where)}"

    def _is_heard(self, word: str) -> bool:
        return not self._crowd.deaf(word)

    async def _until(self, holds: Callable[[], object], seconds: float) -> None:
        with suppress(AssertionError):
            await eventually(holds, timeout=seconds)

    async def _table_is_exact(self, name: str) -> None:
        async def is_exact() -> bool:
            stored, there = await self._databases.open_connections(), self._crowd.connections
            assert stored == there, f"{name}: {len(there - stored)} missing, {len(stored - there)} too many"
            return True

        await eventually(is_exact, timeout=_EXACT, every=0.1)

    def _somebody(self, user: str) -> AbstractAsyncContextManager[WireClient]:
        return WireClient.connect(self._system.urls[0], token=a_token(user))


@contextmanager
def _burners(count: int) -> Iterator[None]:
    """Processes that use a processor each."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


@pytest.mark.timeout(0)  # each step of a storm has its own time limit
async def test_after_each_of_many_storms_every_client_receives_pushes_and_chat_has_the_right_presence(
    rabbitmq: Rabbit, broker: Broker, start_system: StartSystem, trial: Trial, request: pytest.FixtureRequest
) -> None:
    storms = int(request.config.getoption("storms"))
    await _try(await _started(rabbitmq, start_system), rabbitmq, broker, trial, users=200, storms=storms)


@pytest.mark.timeout(0)  # each step of a storm has its own time limit
async def test_after_each_storm_chat_on_postgresql_has_the_right_presence(
    rabbitmq: Rabbit,
    broker: Broker,
    start_system: StartSystem,
    server: PostgresServer,
    trial: Trial,
    request: pytest.FixtureRequest,
) -> None:
    storms = int(request.config.getoption("storms_on_postgresql"))
    system = await _started(rabbitmq, start_system, chat=server.create("chat"))
    await _try(system, rabbitmq, broker, trial, users=200, storms=storms, on=", chat on PostgreSQL")


@pytest.mark.faults_short
async def test_after_a_storm_every_client_receives_pushes_and_chat_has_the_right_presence(
    rabbitmq: Rabbit, broker: Broker, start_system: StartSystem, trial: Trial
) -> None:
    await _try(await _started(rabbitmq, start_system), rabbitmq, broker, trial, users=40, storms=1)


async def _started(rabbitmq: Rabbit, start_system: StartSystem, *, chat: str | None = None) -> System:
    """Two gateways and the services.

    Args:
        chat: The URL of chat's database; the one that every system has if it is ``None``.
    """
    system = await start_system(rabbitmq, gateways=0)
    if chat is not None:
        assert await system.chat.terminate() == 0
        system.chat = system.launch_service("chat", database_url=chat)
    system.gateways = [system.launch_gateway(gateway_id=f"gw-{number}") for number in range(2)]
    for process in (*system.gateways, system.chat):
        await process.ready(timeout=60)
    return system


async def _try(
    system: System, rabbitmq: Rabbit, broker: Broker, trial: Trial, *, users: int, storms: int, on: str = ""
) -> None:
    with trial.line(f"{storms} reconnect storms of {users} users{on}"):
        async with Crowd.of(users, list(system.urls), trial.seed, rooms=_ROOMS) as crowd:
            weather = Storms(system, rabbitmq, broker, crowd, trial.chance)
            await weather.gather()
            for number in range(1, storms + 1):
                await weather.strike(number)
            trial.note(f"all users receive pushes, chat's table exact each time (seed {trial.seed})")
