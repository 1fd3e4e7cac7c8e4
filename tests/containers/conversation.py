"""Ana writes to ben, through the proxy, while something happens to the installation."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from towpath.testkit.eventually import eventually
from towpath.testkit.follower import Follower
from towpath.testkit.tokens import a_token

from .compose import GATEWAY, Compose

T = TypeVar("T")

#: Seconds until all of it works again after one container was restarted.
HEAL_SECONDS: Final = 60.0
_ROOMS = itertools.count(1)


def gateway_url(compose: Compose) -> str:
    return f"ws://{compose.address(GATEWAY)}/ws"


def token(compose: Compose, user: str) -> str:
    """A token with the secret that gateways have at this moment."""
    return a_token(user, secret=compose.secrets["TOWPATH_AUTH_SECRET"])


class Conversation:
    """Two people in a room of their own, who reconnect and resume. Created with :meth:`open`.

    Attributes:
        room: Its name.
        texts: The messages that ana has sent; each was accepted.
    """

    def __init__(self, room: str, ana: Follower, ben: Follower) -> None:
        self.room = room
        self.ana = ana
        self.ben = ben
        self.texts: list[str] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, compose: Compose) -> "AsyncIterator[Conversation]":
        room = f"harbour-{next(_ROOMS)}"
        url = [gateway_url(compose)]
        async with (
            Follower.follow("ana", url, token=token(compose, "ana")) as ana,
            Follower.follow("ben", url, token=token(compose, "ben")) as ben,
        ):
            for one in (ana, ben):
                joined = await one.request("chat.join", {"room": room}, msg_id=f"join-{room}-{one.user}")
                assert joined["action"] == "chat.join.ok", joined
                one.track(f"chat:{room}", joined["data"]["seq"])
            yield cls(room, ana, ben)

    async def say(self, text: str, *, timeout: float = HEAL_SECONDS) -> None:
        """Send one message until it is accepted."""
        sent = {"room": self.room, "text": text}
        msg_id = f"{self.room}-{len(self.texts)}"
        answer = await self.ana.request("chat.send", sent, msg_id=msg_id, timeout=timeout)
        assert answer["action"] == "chat.send.ok", answer
        self.texts.append(text)

    async def goes_on_during(self, work: Coroutine[Any, Any, T], *, timeout: float = HEAL_SECONDS) -> T:
        """Send messages until ``work`` is done, five at least; each is accepted within ``timeout`` seconds."""
        working = asyncio.ensure_future(work)
        count = 0
        try:
            while not working.done() or count < 5:
                count += 1
                await self.say(f"message {len(self.texts)}", timeout=timeout)
                await asyncio.sleep(0.1)  # people do not write faster
        finally:
            if not working.done():
                working.cancel()
        return await working

    async def is_complete(self) -> None:
        """Wait until ben has each message, once and in order."""
        await eventually(lambda: self._heard() == self.texts, timeout=HEAL_SECONDS)
        assert not self.ben.incomplete

    def _heard(self) -> list[str]:
        return [frame["data"]["text"] for frame in self.ben.of("chat.message")]
