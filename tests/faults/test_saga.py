"""An order crosses two services, which are killed at any moment: in the end they agree, and nothing is sold twice."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from towpath.client import connect
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System
from towpath.testkit.tokens import a_token

from .oracle import Verdict
from .saga import SERVICES, Customer, Depot, Found, Key, ask, judge, read
from .storage import url_of
from .trial import Trial

#: Fewer than people want; a new item comes with each kill.
_COUNTED: Final[Mapping[str, int]] = {"anvil": 20, "bolt": 40, "crate": 1, "drill": 30}
_NEW: Final = 30
_CUSTOMERS: Final = 8
_SETTLE_SECONDS: Final = 45.0
_LATE_SECONDS: Final = 1.0


class Shop:
    """Two gateways, and the services of the saga in one or several replicas."""

    def __init__(self, system: System, database_url: str | None, replicas: int) -> None:
        self._system = system
        self._settings: dict[str, Any] = {} if database_url is None else {"database_url": database_url}
        self._names = [name for name in SERVICES for _ in range(replicas)]
        self.running: list[Process] = []

    async def start(self) -> None:
        """Start everything."""
        self._system.gateways = [self._system.launch_gateway() for _ in range(2)]
        self.running = [self._launch(name) for name in self._names]
        starting = (*self._system.gateways, *self.running)
        await asyncio.gather(*(process.ready(timeout=60) for process in starting))

    async def kill(self, place: int) -> None:
        """Kill one of the processes, and start it again."""
        await self.running[place].kill()
        self.running[place] = self._launch(self._names[place])
        await self.running[place].ready(timeout=60)

    def url(self, name: str) -> str:
        """The database of a service."""
        return url_of(self.running[self._names.index(name)])

    def _launch(self, name: str) -> Process:
        return self._system.launch_service(name, **self._settings)


@pytest.mark.timeout(600)  # it starts a program after each kill
@pytest.mark.parametrize(
    ("kills", "replicas", "database_url"),
    [
        pytest.param(4, 2, "postgresql", id="two replicas", marks=pytest.mark.faults_short),
        pytest.param(16, 2, "postgresql", id="two replicas, often"),
        pytest.param(8, 1, "sqlite", id="one of each"),
    ],
    indirect=["database_url"],
)
async def test_stock_reservations_and_orders_agree_after_any_kills(
    rabbitmq: Rabbit,
    processes: Processes,
    tmp_path: Path,
    rates: Mapping[str, Any],
    database_url: str,
    trial: Trial,
    kills: int,
    replicas: int,
) -> None:
    system = System(rabbitmq, processes, tmp_path, **rates)
    # On SQLite each service has a file of its own.
    shop = Shop(system, database_url.replace("+asyncpg", "") if replicas > 1 else None, replicas)
    each = f"{replicas} replicas each on PostgreSQL" if replicas > 1 else "one of each on SQLite"
    with trial.line(f"orders and inventory killed {kills} times (SIGKILL), {each}") as line:
        await shop.start()
        depot, counted = Depot(rabbitmq.url), dict(_COUNTED)
        customers = [
            Customer(f"user{number}", system.urls, trial.seed, counted, depot) for number in range(_CUSTOMERS)
        ]
        chance, over = trial.chance, asyncio.Event()
        clerk = connect(system.urls, token=lambda: a_token("clerk", scope="inventory inventory:write"))
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(clerk)
            for sku, on_hand in counted.items():
                await ask(clerk, "inventory.set", {"sku": sku, "on_hand": on_hand}, f"set-{sku}")
            for customer in customers:
                await stack.enter_async_context(customer.client)
            async with asyncio.TaskGroup() as tasks:
                for customer in customers:
                    tasks.create_task(customer.live(over), name=customer.user)
                for number in range(kills):
                    await asyncio.sleep(chance.uniform(0.1, 0.6))
                    # Each of them, one after the other, at any moment of its work.
                    await shop.kill(number % len(shop.running))
                    sku = f"item-{number}"
                    await ask(clerk, "inventory.set", {"sku": sku, "on_hand": _NEW}, f"set-{sku}")
                    counted[sku] = _NEW
                over.set()
            found = await _settled(shop, counted, customers)
        line.verdict = Verdict(operations=len(found.orders))
        trial.note(f"{found.summary()}, oversold {len(judge(found)['oversold'])}")
        assert judge(found) == {name: [] for name in judge(found)}, f"seed {trial.seed}"
        # Goods were short, and orders went every way: else little was tried.
        assert {"rejected", "cancelled", "shipped"} <= set(found.orders.values())


async def _settled(shop: Shop, counted: Mapping[str, int], customers: list[Customer]) -> Found:
    """The state of the services once nothing changes any more."""

    async def found() -> Found:
        return await read(shop.url("orders"), shop.url("inventory"), counted, customers)

    async def is_clean() -> bool:
        return not any(judge(await found()).values())

    # An event takes effect later: "not yet" proves nothing, until the time is over.
    with contextlib.suppress(AssertionError):
        await eventually(is_clean, timeout=_SETTLE_SECONDS, every=0.25)
    await asyncio.sleep(_LATE_SECONDS)
    return await found()


# The judge

_A: Final[Key] = ("ana", "A")
_B: Final[Key] = ("ben", "B")
_C: Final[Key] = ("ben", "C")
_SHIPPED: Final = ("submitted", "confirmed", "paid", "shipped")
_FAITHFUL: Final = Found(
    counted={"anvil": 5},
    wanted={_A: {"anvil": 2}, _B: {"anvil": 1}, _C: {"anvil": 9}},
    orders={_A: "shipped", _B: "confirmed", _C: "rejected"},
    stored={_A: _SHIPPED, _B: _SHIPPED[:2], _C: ("submitted", "rejected")},
    shown={_A: _SHIPPED, _B: _SHIPPED[:2], _C: ("submitted", "rejected")},
    stock={"anvil": (3, 1)},
    reservations={_A: ("shipped", {"anvil": 2}), _B: ("reserved", {"anvil": 1}), _C: ("rejected", {})},
)


@pytest.mark.faults_short
def test_a_faithful_shop_is_without_findings() -> None:
    assert not any(judge(_FAITHFUL).values())


@pytest.mark.faults_short
@pytest.mark.parametrize(
    ("kind", "violation"),
    [
        ("disagree", {"orders": {_A: "shipped", _B: "confirmed"}}),
        ("disagree", {"orders": {**_FAITHFUL.orders, _B: "submitted"}}),
        ("disagree", {"orders": {**_FAITHFUL.orders, _B: "cancelled"}}),
        ("disagree", {"reservations": {**_FAITHFUL.reservations, _A: ("shipped", {"anvil": 1})}}),
        ("disagree", {"reservations": {_A: _FAITHFUL.reservations[_A], _C: ("rejected", {})}}),
        ("miscounted", {"stock": {"anvil": (3, 0)}}),
        ("miscounted", {"stock": {"anvil": (4, 1)}}),
        ("miscounted", {"stock": {}}),
        ("miscounted", {"counted": {"anvil": 2}}),
        ("oversold", {"counted": {"anvil": 2}}),
        ("oversold", {"orders": {**_FAITHFUL.orders, _C: "confirmed"}}),
        ("not pushed once", {"shown": {**_FAITHFUL.shown, _B: ("submitted", "confirmed", "confirmed")}}),
        ("not pushed once", {"shown": {**_FAITHFUL.shown, _B: ("submitted",)}}),
        (
            "not pushed once",
            {"stored": {**_FAITHFUL.stored, _A: ("submitted", "paid", "confirmed", "shipped")}},
        ),
    ],
)
def test_the_judge_of_the_shop_finds_each_violation(kind: str, violation: dict[str, Any]) -> None:
    assert judge(replace(_FAITHFUL, **violation))[kind]
