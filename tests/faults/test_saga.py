"""An order crosses three services, which are killed at any moment.

In the end they agree, nothing is sold twice, and its owner is notified of each step once.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
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

from .mails import Mails, PostOffice
from .oracle import Verdict
from .saga import SERVICES, Customer, Depot, Found, Key, ask, judge, read
from .storage import url_of
from .trial import Trial

#: Fewer than people want; a new item comes with each kill.
_COUNTED: Final[Mapping[str, int]] = {"anvil": 20, "bolt": 40, "crate": 1, "drill": 30}
_NEW: Final = 30
_CUSTOMERS: Final = 8
#: A limit of hangs: a busy machine takes its time.
_START_SECONDS: Final = 120.0
#: A mail whose sender was killed is sent again after 35 s, and after 10 s more if the server refuses it then.
_SETTLE_SECONDS: Final = 90.0
_LATE_SECONDS: Final = 1.0


class Shop:
    """Two gateways, and the services of the saga in one or several replicas."""

    def __init__(self, system: System, database_url: str | None, replicas: int, post: PostOffice) -> None:
        self._system = system
        self._post = post
        self._settings: dict[str, Any] = {} if database_url is None else {"database_url": database_url}
        self._names = [name for name in SERVICES for _ in range(replicas)]
        self.running: list[Process] = []

    async def start(self) -> None:
        """Start everything."""
        self._system.gateways = [self._system.launch_gateway(alive_interval=60.0) for _ in range(2)]
        self.running = [self._launch(name) for name in self._names]
        starting = (*self._system.gateways, *self.running)
        await asyncio.gather(*(process.ready(timeout=_START_SECONDS) for process in starting))

    async def kill(self, place: int) -> None:
        """Kill one of the processes, and start it again."""
        if self._names[place] == "notifications":
            self._post.killed()
        await self.running[place].kill()
        self.running[place] = self._launch(self._names[place])
        await self.running[place].ready(timeout=_START_SECONDS)

    @property
    def urls(self) -> Mapping[str, str]:
        """The database of each service."""
        return {name: url_of(self.running[self._names.index(name)]) for name in SERVICES}

    def _launch(self, name: str) -> Process:
        further = self._post.settings if name == "notifications" else {}
        return self._system.launch_service(name, **self._settings, **further)


@pytest.mark.timeout(1200)  # it starts a program after each kill
@pytest.mark.parametrize(
    ("kills", "replicas", "database_url"),
    [
        pytest.param(6, 2, "postgresql", id="two replicas", marks=pytest.mark.faults_short),
        pytest.param(18, 2, "postgresql", id="two replicas, often"),
        pytest.param(9, 1, "sqlite", id="one of each"),
    ],
    indirect=["database_url"],
)
async def test_stock_orders_and_notifications_agree_after_any_kills(
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
    each = f"{replicas} replicas each on PostgreSQL" if replicas > 1 else "one of each on SQLite"
    async with contextlib.AsyncExitStack() as stack:
        line = stack.enter_context(
            trial.line(f"orders, inventory and notifications killed {kills} times (SIGKILL), {each}")
        )
        post = await stack.enter_async_context(PostOffice.open(trial.chance))
        # On SQLite each service has a file of its own.
        shared = database_url.replace("+asyncpg", "") if replicas > 1 else None
        shop = Shop(system, shared, replicas, post)
        await shop.start()
        depot, counted = Depot(rabbitmq.url), dict(_COUNTED)
        customers = [
            Customer(f"user{number}", system.urls, trial.seed, counted, depot) for number in range(_CUSTOMERS)
        ]
        chance, over = trial.chance, asyncio.Event()
        clerk = connect(system.urls, token=lambda: a_token("clerk", scope="inventory inventory:write"))
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
        found = await _settled(shop, counted, customers, post)
        line.verdict = Verdict(operations=len(found.orders))
        findings = judge(found)
        trial.note(f"{found.summary()}, oversold {len(findings['oversold'])}; {found.mails.summary()}")
        assert findings == {name: [] for name in findings}, f"seed {trial.seed}"
        # Goods were short, and orders went every way: else little was tried.
        assert {"rejected", "cancelled", "shipped"} <= set(found.orders.values())
        assert found.mails.accepted


async def _settled(
    shop: Shop, counted: Mapping[str, int], customers: list[Customer], post: PostOffice
) -> Found:
    """The state of the services once nothing changes any more."""

    async def found() -> Found:
        return await read(shop.urls, counted, customers, post)

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
_HEARD: Final[Mapping[Key, Sequence[str]]] = {
    _A: ("order.created", "order.confirmed", "order.paid", "order.shipped"),
    _B: ("order.created", "order.confirmed"),
    _C: ("order.created", "order.rejected"),
}
_MAILS: Final = Mails(
    declared={"m-1": "done", "m-2": "done"},
    accepted={"m-1": [1.0], "m-2": [5.0, 9.0]},
    titles={"m-1": frozenset({"ana: A received"}), "m-2": frozenset({"ana: A paid"})},
    kills=[5.5],
)
_FAITHFUL: Final = Found(
    counted={"anvil": 5},
    wanted={_A: {"anvil": 2}, _B: {"anvil": 1}, _C: {"anvil": 9}},
    orders={_A: "shipped", _B: "confirmed", _C: "rejected"},
    stored={_A: _SHIPPED, _B: _SHIPPED[:2], _C: ("submitted", "rejected")},
    shown={_A: _SHIPPED, _B: _SHIPPED[:2], _C: ("submitted", "rejected")},
    stock={"anvil": (3, 1)},
    reservations={_A: ("shipped", {"anvil": 2}), _B: ("reserved", {"anvil": 1}), _C: ("rejected", {})},
    notified=_HEARD,
    heard=_HEARD,
    mails=_MAILS,
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
        ("not notified once", {"notified": {**_HEARD, _B: ("order.created",)}}),
        ("not notified once", {"notified": {**_HEARD, _B: (*_HEARD[_B], "order.confirmed")}}),
        ("not notified once", {"notified": {**_HEARD, _B: (*_HEARD[_B], "order.rejected")}}),
        (
            "not notified once",
            {
                "orders": {**_FAITHFUL.orders, _B: "cancelled"},
                "stored": {**_FAITHFUL.stored, _B: ("submitted", "cancelled")},
                "notified": {**_HEARD, _B: ("order.created", "order.cancelled", "order.confirmed")},
                "heard": {**_HEARD, _B: ("order.created", "order.cancelled", "order.confirmed")},
            },
        ),
        ("not notified once", {"heard": {**_HEARD, _B: ("order.created",)}}),
        ("not notified once", {"heard": {**_HEARD, _B: ("order.confirmed", "order.created")}}),
        ("not notified once", {"notified": {**_HEARD, ("eve", "X"): ("order.paid",)}}),
        ("mails", {"mails": replace(_MAILS, kills=[4.9])}),
        ("mails", {"mails": replace(_MAILS, kills=[7.1])}),
        ("mails", {"mails": replace(_MAILS, accepted={**_MAILS.accepted, "m-1": [1.0, 2.0]})}),
        ("mails", {"mails": replace(_MAILS, accepted={"m-1": [1.0]})}),
        ("mails", {"mails": replace(_MAILS, accepted={**_MAILS.accepted, "m-3": [1.0]})}),
        ("mails", {"mails": replace(_MAILS, declared={"m-1": "done", "m-2": "parked"})}),
        ("mails", {"mails": replace(_MAILS, undecided=1)}),
        (
            "mails",
            {"mails": replace(_MAILS, titles={name: frozenset({"A paid"}) for name in ("m-1", "m-2")})},
        ),
    ],
)
def test_the_judge_of_the_shop_finds_each_violation(kind: str, violation: dict[str, Any]) -> None:
    assert judge(replace(_FAITHFUL, **violation))[kind]
