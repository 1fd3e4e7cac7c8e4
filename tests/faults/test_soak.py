"""Mixed load with random faults for as long as you like: ``make faults ARGS="--soak 30m"``. It stops by itself."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest

from towpath.testkit.network import Proxy
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .broker import Broker
from .conftest import StartSystem
from .resources import held
from .table import Soaked
from .trial import Trial

Fault = Callable[[], Awaitable[None]]

#: Seconds of undisturbed load before it is counted what the programs hold.
_WARM_UP = 20.0
#: Allowed growth of each kind of program between the first fault and the end.
_MORE_MIB, _MORE_FILES, _MORE_THREADS, _MORE_TASKS = 30.0, 10, 8, 10


def seconds(text: str) -> float:
    """``90s``, ``30m`` or ``2h`` in seconds."""
    match = re.fullmatch(r"(\d+)([smh])", text)
    if match is None:
        raise pytest.UsageError(f"--soak {text}: give a number and s, m or h, such as 30m")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


class Faults:
    """The random faults; each has ended when its function returns."""

    def __init__(self, system: System, rabbitmq: Rabbit, broker: Broker, proxy: Proxy, trial: Trial) -> None:
        self._system = system
        self._rabbitmq = rabbitmq
        self._broker = broker
        self._proxy = proxy
        self._chance = trial.chance
        self._all: dict[str, Fault] = {
            "gateway killed": self._gateway_killed,
            "gateway restarted": self._gateway_restarted,
            "service killed": self._service_killed,
            "service frozen": self._service_frozen,
            "RabbitMQ restarted": self._broker_restarted,
            "memory alarm": self._memory_alarm,
            "connections closed": self._connections_closed,
            "inboxes deleted": self._inboxes_deleted,
            "links reset": self._links_reset,
            "network slow": self._network_slow,
            "network cut": self._network_cut,
        }

    async def strike(self) -> str:
        """One of them; returns which."""
        name = self._chance.choice(sorted(self._all))
        await self._all[name]()
        return name

    async def _gateway_killed(self) -> None:
        number = self._chance.randrange(2)
        port = self._system.gateways[number].settings["TOWPATH_PORT"]
        await self._system.gateways[number].kill()
        self._system.gateways[number] = self._system.launch_gateway(port=port)
        await self._system.gateways[number].ready(timeout=60)

    async def _gateway_restarted(self) -> None:
        number = self._chance.randrange(2)
        port = self._system.gateways[number].settings["TOWPATH_PORT"]
        await self._system.gateways[number].terminate()
        self._system.gateways[number] = self._system.launch_gateway(port=port)
        await self._system.gateways[number].ready(timeout=60)

    async def _service_killed(self) -> None:
        name = self._chance.choice(["chat", "orders"])
        await getattr(self._system, name).kill()
        setattr(self._system, name, self._system.launch_service(name))
        await getattr(self._system, name).ready(timeout=60)

    async def _service_frozen(self) -> None:
        process = getattr(self._system, self._chance.choice(["chat", "orders"]))
        process.pause()
        await asyncio.sleep(self._chance.uniform(0.5, 5))
        process.resume()

    async def _broker_restarted(self) -> None:
        await self._rabbitmq.stop()
        await asyncio.sleep(self._chance.uniform(0, 3))
        await self._rabbitmq.start()

    async def _memory_alarm(self) -> None:
        await self._broker.set_memory_alarm(True)
        await asyncio.sleep(self._chance.uniform(1, 5))
        await self._broker.set_memory_alarm(False)

    async def _connections_closed(self) -> None:
        await self._broker.close_connections()

    async def _inboxes_deleted(self) -> None:
        for name in await self._broker.queues("gateway."):
            await self._broker.delete_queue(name)

    async def _links_reset(self) -> None:
        self._proxy.reset()

    async def _network_slow(self) -> None:
        self._proxy.to_server.delay = self._proxy.to_client.delay = self._chance.uniform(0.05, 0.3)
        await asyncio.sleep(self._chance.uniform(1, 5))
        self._proxy.heal()

    async def _network_cut(self) -> None:
        self._proxy.hold()
        await asyncio.sleep(self._chance.uniform(1, 25))
        self._proxy.heal()


@pytest.mark.soak
async def test_after_random_faults_the_system_is_in_its_initial_state(
    rabbitmq: Rabbit,
    broker: Broker,
    start_system: StartSystem,
    trial: Trial,
    soak: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loop = asyncio.get_running_loop()
    lasting = seconds(soak)
    async with Proxy.before(rabbitmq.url) as proxy:
        system = await start_system(rabbitmq, amqp_url=proxy.instead_of(rabbitmq.url))
        # Few enough that what is stored in the end can be judged as a whole.
        async with trial.of(f"random faults for {soak}", system, within=40, pause=0.15) as load:
            faults, chance = Faults(system, rabbitmq, broker, proxy, trial), trial.chance
            await asyncio.sleep(_WARM_UP)
            before, had = await broker.holdings(), await held(system)
            worst: dict[str, list[float]] = {}
            end = loop.time() + lasting
            while loop.time() < end:
                with capsys.disabled():
                    struck = await faults.strike()
                    trial.strike()
                    await trial.recovers(timeout=120)
                    assert trial.recovery is not None
                    worst.setdefault(struck, []).append(trial.recovery)
                    print(  # noqa: T201  # progress of half an hour
                        f"{end - loop.time():6.0f} s left, {len(load.journal.asked)} operations: {struck}, "
                        f"recovered in {trial.recovery:.1f} s"
                    )
                await asyncio.sleep(chance.uniform(0, 2))
            trial.strike()
            await trial.recovers()
            has = await held(system)
            await broker.returns_to(before)
            trial.soaked(Soaked(soak, worst, had, has, before, await broker.holdings()))
        for kind, now in has.items():
            then = had[kind]
            assert now.mebibytes <= then.mebibytes + _MORE_MIB, f"{kind}: {then} became {now}"
            assert now.files <= then.files + _MORE_FILES, f"{kind}: {then} became {now}"
            assert now.threads <= then.threads + _MORE_THREADS, f"{kind}: {then} became {now}"
            assert now.tasks <= then.tasks + _MORE_TASKS, f"{kind}: {then} became {now}"
