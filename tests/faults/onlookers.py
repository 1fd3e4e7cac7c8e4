"""People who only stay connected, and write down how their connections end."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from websockets.exceptions import InvalidStatus

from towpath.testkit.client import ConnectionEnded, WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.tokens import a_token


@dataclass
class Onlookers:
    """People who only stay connected, and reconnect when they are closed.

    Attributes:
        urls: Where they connect, to one after the other.
        endings: Of each connection that ended: its close code, and whether it had advice when to reconnect.
        at: The gateway of each who is connected.
    """

    urls: Sequence[str]
    endings: list[tuple[int, bool]] = field(default_factory=list)
    at: dict[str, str] = field(default_factory=dict)

    @classmethod
    @contextlib.asynccontextmanager
    async def watch(cls, urls: Sequence[str], count: int) -> AsyncIterator["Onlookers"]:
        """All of them connected at entry."""
        onlookers = cls(urls)
        async with asyncio.TaskGroup() as tasks:
            watching = [tasks.create_task(onlookers._stay(number)) for number in range(count)]
            await eventually(lambda: len(onlookers.at) == count)
            yield onlookers
            for task in watching:
                task.cancel()

    async def _stay(self, number: int) -> None:
        for attempt in itertools.count(number):
            pause = 0.2
            # The proxy may not know yet that a gateway has come, or gone: a client tries again.
            with contextlib.suppress(OSError, ConnectionEnded, InvalidStatus, TimeoutError):
                pause = await self._connect(f"onlooker{number}", self.urls[attempt % len(self.urls)])
            await asyncio.sleep(pause)  # as advised, or a short while before the next attempt

    async def _connect(self, user: str, url: str) -> float:
        """Stay until the connection ends; returns the seconds after which to reconnect."""
        async with WireClient.connect(url, token=a_token(user)) as client:
            welcome = await client.next("session.welcome")
            self.at[user] = welcome["data"]["gateway_id"]
            code = await client.closed(timeout=600)
            del self.at[user]
        closing = [frame["data"] for frame in client.frames if frame["action"] == "session.closing"]
        advised = bool(closing) and "retry_after_ms" in closing[0]
        self.endings.append((code, advised))
        return closing[0]["retry_after_ms"] / 1000 if advised else 0.2
