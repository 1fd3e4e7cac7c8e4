"""A shop with too few goods: people who order, a depot that ships, and what must agree in the end.

The promises of the saga, each a :data:`Check` from evidence to findings, a sentence each:

* every order is decided, and orders and inventory agree about it;
* the stock is what was counted, without what has left; what is reserved is reserved for orders;
* nothing is sold that was not there;
* each step of an order is stored, and pushed to its owner, once and in order;
* of each step its owner is notified once, in the app, and at most once by mail.

A further service of the saga adds its name to :data:`SERVICES`, what it stored to :class:`Found`, and a check.
"""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import aio_pika
import sqlalchemy as sa

from towpath.client import Client, TowpathError, connect
from towpath.inventory.tables import RESERVATIONS, STOCK
from towpath.notifications.tables import ITEMS
from towpath.orders.tables import ORDERS
from towpath.orders.tables import STREAMS as ORDER_STREAMS
from towpath.protocol.notifications import stream_of as notifications_of
from towpath.protocol.orders import stream_of
from towpath.testkit.eventually import eventually
from towpath.testkit.tokens import a_token

from .mails import Mails, PostOffice
from .storage import reading

#: The services that a trial kills.
SERVICES: Final = ("orders", "inventory", "notifications")
PATIENCE_SECONDS: Final = 60.0
_ATTEMPT_SECONDS: Final = 5.0
#: The newest items of the shop, which people order.
_OFFERED: Final = 4

#: Owner and order id.
Key = tuple[str, str]

#: The states of a reservation that fit the status of an order. A cancel may come before the rejection.
_FITTING: Final[Mapping[str, frozenset[str]]] = {
    "confirmed": frozenset({"reserved"}),
    "paid": frozenset({"reserved"}),
    "shipped": frozenset({"shipped"}),
    "rejected": frozenset({"rejected"}),
    "cancelled": frozenset({"released", "rejected"}),
}
#: The event of a state, where it has another name.
_EVENTS: Final[Mapping[str, str]] = {"submitted": "created"}
_DECISIONS: Final = ("order.confirmed", "order.rejected")
_SOLD: Final = frozenset({"confirmed", "paid", "shipped"})
#: Every way that an order of this load may go.
_WAYS: Final = frozenset(
    {
        ("submitted", "rejected"),
        ("submitted", "cancelled"),
        ("submitted", "confirmed"),
        ("submitted", "confirmed", "cancelled"),
        ("submitted", "confirmed", "paid", "shipped"),
    }
)


@dataclass(frozen=True, slots=True)
class Found:
    """Everything that was asked, and the state of the services in the end.

    Attributes:
        counted: How many of each item there were at the beginning.
        wanted: The quantities of each order that was answered as submitted.
        orders: The status of each order.
        stored: The states of each order in the stream of its owner.
        shown: The states of each order that its owner was shown.
        stock: How many of each item are on hand, and reserved.
        reservations: The state and the quantities of the reservation of each order.
        notified: The notifications about each order, as they are stored: the events that caused them.
        heard: The same, as the owner was shown them.
    """

    counted: Mapping[str, int]
    wanted: Mapping[Key, Mapping[str, int]]
    orders: Mapping[Key, str]
    stored: Mapping[Key, Sequence[str]]
    shown: Mapping[Key, Sequence[str]]
    stock: Mapping[str, tuple[int, int]]
    reservations: Mapping[Key, tuple[str, Mapping[str, int]]]
    notified: Mapping[Key, Sequence[str]]
    heard: Mapping[Key, Sequence[str]]
    mails: Mails

    def summary(self) -> str:
        """How the orders ended, in words."""
        ends = Counter(self.orders.values())
        return ", ".join([f"{len(self.orders)} orders", *(f"{n} {end}" for end, n in sorted(ends.items()))])


def _agreement(found: Found) -> list[str]:
    findings = [f"{_named(key)} is lost" for key in sorted(found.wanted.keys() - found.orders.keys())]
    for key, status in sorted(found.orders.items()):
        state, quantities = found.reservations.get(key, ("without a reservation", {}))
        if status == "submitted":
            findings.append(f"{_named(key)} was never decided")
        elif state not in _FITTING[status]:
            findings.append(f"{_named(key)} is {status}, and the inventory has it {state}")
        elif state in ("reserved", "shipped") and quantities != found.wanted.get(key, quantities):
            findings.append(f"{_named(key)} wanted {found.wanted[key]}, and {quantities} are {state}")
    return findings


def _stock(found: Found) -> list[str]:
    findings = []
    for sku, counted in sorted(found.counted.items()):
        held: Counter[str] = Counter()
        for state, quantities in found.reservations.values():
            held[state] += quantities.get(sku, 0)
        right = counted - held["shipped"], held["reserved"]
        if found.stock.get(sku) != right:
            findings.append(f"{sku}: on hand and reserved are {found.stock.get(sku)}, and should be {right}")
        if right[0] < right[1]:
            findings.append(f"{sku}: {right[1]} are reserved of {right[0]}")
    return findings


def _oversold(found: Found) -> list[str]:
    """Judged by the orders alone, whatever the inventory says."""
    sold: Counter[str] = Counter()
    for key, status in found.orders.items():
        if status in _SOLD:
            sold.update(found.wanted.get(key, {}))
    return [
        f"{sku}: {count} were sold of {found.counted[sku]}"
        for sku, count in sorted(sold.items())
        if count > found.counted[sku]
    ]


def _pushed_once(found: Found) -> list[str]:
    findings = []
    for key in sorted(found.orders):
        stored, shown = tuple(found.stored.get(key, ())), tuple(found.shown.get(key, ()))
        if stored not in _WAYS:
            findings.append(f"{_named(key)} went {' > '.join(stored)}")
        if shown != stored:
            findings.append(
                f"{_named(key)} is stored as {' > '.join(stored)}, and shown as {' > '.join(shown)}"
            )
    return findings


def _notified_once(found: Found) -> list[str]:
    findings = []
    for key, states in sorted(found.stored.items()):
        steps = Counter(f"order.{_EVENTS.get(state, state)}" for state in states)
        notified = Counter(found.notified.get(key, ()))
        if missing := steps - notified:
            findings.append(f"{_named(key)} is {list(states)}, without a notification of {sorted(missing)}")
        further = notified - steps
        if found.orders.get(key) == "cancelled" and _is_decided_before_the_cancel(
            found.notified.get(key, ())
        ):
            # The inventory decided at the moment of the cancel: the owner has heard it, and the order has not.
            further -= Counter(_DECISIONS)
        if further:
            findings.append(
                f"{_named(key)} is {list(states)}, and has notifications of {sorted(further)} too"
            )
        if list(found.heard.get(key, ())) != list(found.notified.get(key, ())):
            findings.append(
                f"{_named(key)} has notifications of {list(found.notified.get(key, ()))}, "
                f"and shown were {list(found.heard.get(key, ()))}"
            )
    strangers = sorted(found.notified.keys() - found.stored.keys())
    return findings + [f"{_named(key)} is unknown, and has notifications" for key in strangers]


def _is_decided_before_the_cancel(kinds: Sequence[str]) -> bool:
    decided = [kind in _DECISIONS for kind in kinds]
    if sum(decided) != 1 or "order.cancelled" not in kinds:
        return False
    return decided.index(True) < kinds.index("order.cancelled")


def _mailed(found: Found) -> list[str]:
    return list(found.mails.judge())


Check = Callable[[Found], list[str]]
CHECKS: Final[Mapping[str, Check]] = {
    "disagree": _agreement,
    "miscounted": _stock,
    "oversold": _oversold,
    "not pushed once": _pushed_once,
    "not notified once": _notified_once,
    "mails": _mailed,
}


def judge(found: Found) -> dict[str, list[str]]:
    """The findings of each check; empty lists if all holds."""
    return {name: check(found) for name, check in CHECKS.items()}


def _named(key: Key) -> str:
    return f"order {key[1]} of {key[0]}"


async def ask(
    client: Client, action: str, data: dict[str, Any], msg_id: str, may_refuse: Collection[str] = ()
) -> None:
    """Ask until there is a final answer.

    Args:
        may_refuse: Codes of errors that are as right as an answer.

    Raises:
        TowpathError: It was refused, or there was none within :data:`PATIENCE_SECONDS`.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await client.request(action, data, msg_id=msg_id, timeout=_ATTEMPT_SECONDS)
            return
        except TowpathError as error:
            if error.code in may_refuse:
                return
            if not error.retryable or time.monotonic() > deadline:
                raise
            await asyncio.sleep(min((error.retry_after_ms or 200) / 1000, 2.0))


class Depot:
    """Another backend that says by plain AMQP what was paid and shipped; an event counts once it is confirmed."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def ship(self, user: str, order_id: str) -> None:
        """Say that an order was paid, and then that it was shipped."""
        for event in ("order.paid", "order.shipped"):
            body = {
                "msg_id": f"{event}-{user}-{order_id}",
                "timestamp": int(time.time() * 1000),
                "action": event,
                "data": {"order_id": order_id, "user_id": user},
                "version": "1.0",
            }
            await eventually(partial(self._publish, body), timeout=PATIENCE_SECONDS, every=0.2)

    async def _publish(self, body: Mapping[str, Any]) -> bool:
        """Whether RabbitMQ has confirmed it."""
        with contextlib.suppress(aio_pika.exceptions.AMQPError, OSError):
            async with await aio_pika.connect(self._url, timeout=_ATTEMPT_SECONDS) as connection:
                channel = await connection.channel(on_return_raises=True)
                exchange = await channel.get_exchange("towpath.events", ensure=False)
                message = aio_pika.Message(json.dumps(body).encode(), delivery_mode=2, app_id="depot")
                await exchange.publish(message, body["action"], mandatory=True)
                return True
        return False


class Customer:
    """One user who orders one thing after the other, and cancels some of it, or has it shipped.

    Args:
        counted: The items of the shop; others may be added while it is open.

    Attributes:
        wanted: The quantities of each order that was answered as submitted.
        shown: The states of each order, as they were shown.
        heard: The notifications of each order, as they were shown.
    """

    def __init__(
        self, user: str, urls: Sequence[str], seed: str, counted: Mapping[str, int], depot: Depot
    ) -> None:
        self.user = user
        self.wanted: dict[Key, Mapping[str, int]] = {}
        self.shown: dict[Key, list[str]] = {}
        self.heard: dict[Key, list[str]] = {}
        self._chance = random.Random(f"{seed} {user}")
        self._counted = counted
        self._depot = depot
        self._news = asyncio.Event()
        self.client = connect(list(urls), token=lambda: a_token(user))
        self.client.on("order.updated", self._show)
        self.client.on("notification.new", self._hear)
        for stream in (stream_of(user), notifications_of(user)):
            self.client.track(stream, 0)

    async def live(self, over: asyncio.Event) -> None:
        """Ask for mails, and then order until it is ``over``."""
        address = {"email": f"{self.user}@example.com"}
        await ask(self.client, "notification.preferences", address, f"address-{self.user}")
        number = 0
        while not over.is_set():
            number += 1
            await self._order(f"{self.user}-{number}")

    async def _order(self, order_id: str) -> None:
        # Mostly of the newest items: the others are sold out by and by.
        skus = self._chance.sample([*self._counted][-_OFFERED:], self._chance.randint(1, 2))
        quantities = {sku: self._chance.randint(1, 3) for sku in skus}
        items = [{"sku": sku, "quantity": count, "unit_price": "1.00"} for sku, count in quantities.items()]
        kind = self._chance.random()
        await self._ask("order.submit", {"order_id": order_id, "items": items})
        self.wanted[self.user, order_id] = quantities
        if kind < 0.2:
            # At once: it may overtake the news of the order on its way to the inventory.
            await self._cancel(order_id)
            return
        status = await self._decided(order_id)
        if status == "confirmed" and kind < 0.4:
            await self._cancel(order_id)
        elif status == "confirmed" and kind < 0.8:
            await self._depot.ship(self.user, order_id)

    async def _cancel(self, order_id: str) -> None:
        await self._ask("order.cancel", {"order_id": order_id}, may_refuse={"conflict"})

    async def _decided(self, order_id: str) -> str:
        """Wait until the order is confirmed or rejected."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(states := self.shown.get((self.user, order_id), [])) < 2:
                self._news.clear()
                await self._news.wait()
        return states[1]

    async def _ask(self, action: str, data: dict[str, Any], may_refuse: Collection[str] = ()) -> None:
        await ask(self.client, action, data, f"{action}-{data['order_id']}", may_refuse)

    def _show(self, data: dict[str, Any]) -> None:
        self.shown.setdefault((self.user, data["order_id"]), []).append(data["status"])
        self._news.set()

    def _hear(self, data: dict[str, Any]) -> None:
        self.heard.setdefault((self.user, _order_of(data["link"])), []).append(data["kind"])


async def read(
    urls: Mapping[str, str], counted: Mapping[str, int], customers: Sequence[Customer], post: PostOffice
) -> Found:
    """Everything there is.

    Args:
        urls: The database of each of :data:`SERVICES`.
    """
    async with (
        reading(urls["orders"]) as orders,
        reading(urls["inventory"]) as inventory,
        reading(urls["notifications"]) as notifications,
    ):
        notified: dict[Key, list[str]] = {}
        for row in await notifications.execute(sa.select(ITEMS).order_by(ITEMS.c.user_id, ITEMS.c.seq)):
            notified.setdefault((row.user_id, _order_of(row.link)), []).append(row.kind)
        stored: dict[Key, list[str]] = {}
        entries = ORDER_STREAMS.entries
        for row in await orders.execute(sa.select(entries).order_by(entries.c.stream, entries.c.seq)):
            data = json.loads(row.envelope)["data"]
            owner = row.stream.partition(":")[2]
            stored.setdefault((owner, data["order_id"]), []).append(data["status"])
        return Found(
            counted=counted,
            wanted={key: wanted for one in customers for key, wanted in one.wanted.items()},
            orders={
                (row.user_id, row.order_id): row.status for row in await orders.execute(sa.select(ORDERS))
            },
            stored=stored,
            shown={key: list(shown) for one in customers for key, shown in one.shown.items()},
            stock={row.sku: (row.on_hand, row.reserved) for row in await inventory.execute(sa.select(STOCK))},
            reservations={
                (row.user_id, row.order_id): (row.state, json.loads(row.quantities))
                for row in await inventory.execute(sa.select(RESERVATIONS))
            },
            notified=notified,
            heard={key: list(heard) for one in customers for key, heard in one.heard.items()},
            mails=await post.read(urls["notifications"]),
        )


def _order_of(link: str) -> str:
    return link.removeprefix("order/")
