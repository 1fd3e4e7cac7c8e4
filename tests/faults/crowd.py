"""Users who reconnect: each keeps one connection open, hears what is pushed, and asks for nothing.

Guarantees: a user who loses the connection opens another one after a wait with jitter, at a random gateway. No user
resumes a stream: a user who gets a push was subscribed by the service alone.
"""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, WebSocketException
from websockets.typing import Subprotocol

from towpath.testkit.tokens import a_token

_OPEN_TIMEOUT: Final = 20.0


class User:
    """One user with one connection at a time.

    Attributes:
        user: The user id.
        rooms: Where the user is a member.
        connection_id: Of the connection that is open, or ``None``.
        gateway_id: Where that is.
        heard: The rooms and texts of all messages pushed over the connection that is open.
        pause: Seconds after which a lost connection is opened again, at most.
    """

    def __init__(self, user: str, rooms: Collection[str], urls: Sequence[str], seed: str) -> None:
        self.user = user
        self.rooms = frozenset(rooms)
        self.connection_id: str | None = None
        self.gateway_id: str | None = None
        self.heard: set[tuple[str, str]] = set()
        self.pause = 1.0
        self._urls = urls
        self._token = a_token(user)
        self._chance = random.Random(f"{seed} {user}")
        self._socket: ClientConnection | None = None

    async def live(self) -> None:
        """Keep a connection open, until cancelled."""
        while True:
            with contextlib.suppress(OSError, TimeoutError, WebSocketException, InvalidHandshake):
                async with connect(
                    self._chance.choice(self._urls),
                    additional_headers={"Authorization": f"Bearer {self._token}"},
                    subprotocols=[Subprotocol("towpath.v1")],
                    compression=None,
                    proxy=None,
                    open_timeout=_OPEN_TIMEOUT,
                    close_timeout=1,
                    ping_interval=None,
                ) as self._socket:
                    await self._listen(self._socket)
            self._socket = self.connection_id = self.gateway_id = None
            await asyncio.sleep(self._chance.uniform(0, self.pause))

    def cut(self) -> None:
        """Lose the connection, as in a network failure: without a close frame."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def _listen(self, socket: ClientConnection) -> None:
        self.heard.clear()
        async for text in socket:
            envelope = json.loads(text)
            if envelope["action"] == "session.welcome":
                self.gateway_id = envelope["data"]["gateway_id"]
                self.connection_id = envelope["data"]["connection_id"]
            elif envelope["action"] == "chat.message":
                self.heard.add((envelope["data"]["room"], envelope["data"]["text"]))


class Crowd:
    """Many users in a few rooms each."""

    def __init__(self, count: int, urls: Sequence[str], seed: str, *, rooms: int) -> None:
        self.users = [
            User(f"user{number}", {"everybody", f"room{number % rooms}"}, urls, seed)
            for number in range(count)
        ]

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, count: int, urls: Sequence[str], seed: str, *, rooms: int) -> AsyncIterator["Crowd"]:
        """``count`` users, who connect from entry on."""
        crowd = cls(count, urls, seed, rooms=rooms)
        living = [asyncio.create_task(user.live(), name=user.user) for user in crowd.users]
        try:
            yield crowd
        finally:
            for task in living:
                task.cancel()
            await asyncio.gather(*living, return_exceptions=True)

    @property
    def rooms(self) -> list[str]:
        """The rooms of all users."""
        return sorted({room for user in self.users for room in user.rooms})

    @property
    def pause(self) -> float:
        """See :class:`User`; the same for all."""
        return self.users[0].pause

    @pause.setter
    def pause(self, seconds: float) -> None:
        for user in self.users:
            user.pause = seconds

    @property
    def absent(self) -> list[User]:
        """Users without an open connection."""
        return [user for user in self.users if user.connection_id is None]

    @property
    def connections(self) -> set[str]:
        """The ids of all open connections."""
        return {user.connection_id for user in self.users if user.connection_id is not None}

    def deaf(self, text: str) -> list[User]:
        """Users who have not heard a text in each of their rooms, over the connection that they have now."""
        return [user for user in self.users if any((room, text) not in user.heard for room in user.rooms)]
