"""Another backend that speaks HTTP: it sends the events of its orders in their order, each until it is accepted."""

import asyncio
import contextlib
import itertools
import json
import random
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Self

import httpx

from towpath.testkit.processes import Process, Processes, free_port

USER = "ana"


class HttpBackend:
    """Sends to one ingress, however often that or the broker is away.

    Attributes:
        accepted: Events that were accepted.
        repeated: Requests that had to be sent again.
    """

    def __init__(self, http: httpx.AsyncClient, chance: random.Random) -> None:
        self._http = http
        self._chance = chance
        self.accepted = 0
        self.repeated = 0

    @classmethod
    @asynccontextmanager
    async def of(cls, port: int, key: str, chance: random.Random) -> AsyncIterator[Self]:
        """A backend with an API key."""
        headers = {"Authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
            yield cls(http, chance)

    async def tell(self, orders: list[str], events: int, *, at_once: int) -> None:
        """The stories of some orders, one order after the other, so many events in one request."""
        for order in orders:
            story = story_of(order, events)
            for start in range(0, events, at_once):
                await self._send(story[start : start + at_once], f"{order}-{start}")

    async def _send(self, events: list[dict[str, Any]], idempotency_key: str) -> None:
        """Send a request, the same again and again, until all of its events are accepted."""
        for attempt in itertools.count(1):
            answer: httpx.Response | None = None
            with contextlib.suppress(httpx.TransportError):  # the outcome is unknown
                answer = await self._http.post(
                    "/v1/events", json=events, headers={"Idempotency-Key": idempotency_key}
                )
            if answer is not None and answer.status_code == 202:
                self.accepted += len(events)
                return
            if answer is not None:
                assert answer.status_code in (207, 409, 503), answer.text
            self.repeated += 1
            await asyncio.sleep(self._chance.random() * min(2.0, 0.05 * 2**attempt))


def story_of(order: str, events: int) -> list[dict[str, Any]]:
    """One order: created, paid, then refunded by 0.01 again and again. The events are numbered in their detail."""
    data = {"order_id": order, "user_id": USER, "currency": "EUR"}
    actions = ["order.created", "order.paid", *["order.refunded"] * (events - 2)]
    amounts = ["1000.00", None, *["0.01"] * (events - 2)]
    return [
        {"action": action, "data": {**data, "detail": {"n": n}} | ({"amount": amount} if amount else {})}
        for n, (action, amount) in enumerate(zip(actions, amounts, strict=True))
    ]


def applied(database: Path) -> dict[str, list[int]]:
    """The state of the orders service: of each order, the numbers of the events that changed it, in its order."""
    found: dict[str, list[int]] = defaultdict(list)
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT envelope FROM orders_stream_entries WHERE stream = ? ORDER BY seq", (f"order:{USER}",)
        )
        for (text,) in rows:
            data = json.loads(text)["data"]
            found[data["order_id"]].append(data["detail"]["n"])
    return dict(found)


class RestartedIngress:
    """An ingress on one port, to be killed and started again.

    Attributes:
        process: The present one.
    """

    def __init__(self, processes: Processes, **settings: Any) -> None:
        self.port = free_port()
        self._processes = processes
        self._settings = settings
        self.process: Process | None = None

    async def start(self) -> None:
        """Start it."""
        self.process = await self._processes.start(
            "towpath-ingress", port=self.port, **self._settings, timeout=120
        )

    async def kill_and_start(self) -> None:
        """Kill it, and start it again with nothing but its settings."""
        assert self.process is not None
        await self.process.kill()
        await self.start()
