"""A client as the contract wants one: keeps its positions, drops what it has, resumes after a hole or a reconnect."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence

from websockets.exceptions import InvalidHandshake

from towpath.protocol.streams import Arrival, Positions
from towpath.testkit.client import ConnectionEnded, Frame, WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.tokens import a_token

_AWAY = (OSError, ConnectionEnded, InvalidHandshake, TimeoutError, EOFError)


class Follower:
    """One user on any of several gateways, who reconnects when the connection is lost.

    Attributes:
        seen: The durable pushes a person would have been shown, in that order.
        duplicates: How many duplicates were dropped.
        resumed: How often a resume was answered.
        incomplete: Streams that a resume could not complete.
    """

    def __init__(self, user: str, gateways: Sequence[str], token: str | None = None) -> None:
        self.user = user
        self.seen: list[Frame] = []
        self.duplicates = 0
        self.resumed = 0
        self.incomplete: list[str] = []
        self._gateways = list(gateways)
        self._token = token or a_token(user)
        self._positions = Positions()
        self._client: WireClient | None = None
        self._read = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def follow(
        cls, user: str, gateways: Sequence[str], *, token: str | None = None
    ) -> AsyncIterator["Follower"]:
        """Connected from entry to exit, to the first of ``gateways`` that takes them.

        Args:
            token: The user's; by default one that gateways of tests take, for an hour.
        """
        follower = cls(user, gateways, token)
        running = asyncio.create_task(follower._run())
        try:
            await eventually(lambda: follower._client is not None)
            yield follower
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    @property
    def positions(self) -> dict[str, int]:
        return self._positions.as_dict()

    def of(self, action: str) -> list[Frame]:
        """The pushes of one action."""
        return [frame for frame in self.seen if frame["action"] == action]

    async def request(
        self, action: str, data: Frame, *, msg_id: str, timeout: float = 60, **fields: object
    ) -> Frame:
        """Ask until there is a final answer: again with the same id after each reconnect or retryable error."""
        async with asyncio.timeout(timeout):
            while True:
                client = self._client
                if client is not None:
                    try:
                        heard = len(client.frames)
                        await client.send(action, data, msg_id=msg_id, **fields)
                        answer = await client.find(
                            lambda f, c=client, n=heard: (
                                c.frames.index(f) >= n  # type: ignore[misc]
                                and f.get("correlation_id") == msg_id
                                and f["action"] != "accepted"
                            ),
                            timeout=15,
                        )
                    except (*_AWAY, AssertionError):
                        pass
                    else:
                        if answer["action"] != "error" or not answer["data"]["retryable"]:
                            return answer
                await asyncio.sleep(0.2)

    def track(self, stream: str, seq: int) -> None:
        """Take over the position that ``chat.join`` answered."""
        self._positions.set(stream, seq)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(*_AWAY):
                async with WireClient.connect(self._gateways[0], token=self._token) as client:
                    await client.next("session.welcome")
                    self._read = 0
                    if self.positions:
                        await self._resume(client)
                    self._client = client
                    await self._listen(client)
            self._client = None
            self._gateways.append(self._gateways.pop(0))
            await asyncio.sleep(random.uniform(0, 0.5))

    async def _listen(self, client: WireClient) -> None:
        while True:
            await client.find(lambda f: client.frames.index(f) >= self._read, timeout=3600)
            if self._take(client):
                await self._resume(client)

    def _take(self, client: WireClient) -> bool:
        """Judge what has come; true if something is missing."""
        missing = False
        while self._read < len(client.frames):
            frame = client.frames[self._read]
            self._read += 1
            missing = missing or frame["action"] == "session.resync"
            if "stream" not in frame:
                continue
            match self._positions.arrive(frame["stream"], frame["seq"]):
                case Arrival.NEXT:
                    self.seen.append(frame)
                case Arrival.DUPLICATE:
                    self.duplicates += 1
                case Arrival.HOLE:
                    missing = True
        return missing

    async def _resume(self, client: WireClient) -> None:
        for domain in sorted({stream.partition(":")[0] for stream in self.positions}):
            asked = {name: seq for name, seq in self.positions.items() if name.startswith(f"{domain}:")}
            answer = await client.request(f"{domain}.resume", {"positions": asked}, timeout=30)
            self._take(client)
            if answer["action"] == "error":
                raise TimeoutError(answer["data"]["message"])
            self.resumed += 1
            for stream, told in answer["data"]["streams"].items():
                if not told["complete"]:
                    self.incomplete.append(stream)
                    self._positions.restart(stream, told["seq"])
