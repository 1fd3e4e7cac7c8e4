"""Wrong person: users and operators do everything at random, and each frame must reach the right people only.

Two gateways and two replicas of chat without their sockets (:mod:`tests.e2e.group_world`): their publishes and
inboxes move at random too, so that changes of rooms, pushes and connections overtake each other. Every frame that a
connection gets is checked (:mod:`.right_people`). Now and then everything comes to rest: then exactly the members of
each room receive it, and a push to each user and one to everyone reach all their connections.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.e2e.group_world import GATEWAYS, REPLICAS
from towpath.chat.app import configured
from towpath.chat.settings import ChatSettings
from towpath.gateway.sessions.session import Session
from towpath.protocol.chat import is_direct, stream_of
from towpath.protocol.routes import EVERYONE, PUSH, group_key, user_key
from towpath.servicekit.broker.interface import Binding, Broker, Inbox, Subscription

from .busy_world import BusyWorld
from .operations import NAMES, USERS, Operations
from .right_people import Memberships, RightPeople

_MANY: Final = 1_000_000
#: Steps until everything comes to rest, and until each replica and each gateway becomes faster or slower.
_UNTIL_REST: Final = 400
_PACE_LASTS: Final = 20
#: Publishes of a replica that reach the broker in a step at most; how often a gateway reads its inbox.
_RELEASES: Final = (0, 1, 2, 5)
_READS: Final = (0.0, 0.2, 0.9)
#: The limits of chat, which would refuse most of so many requests.
_SETTINGS: Final = ChatSettings(
    amqp_url="memory://",
    rooms_made_per_day=100_000,
    invitations_per_user=1_000,
    invitations_per_pair=1_000,
    deliveries_per_user=0.0,
)


class WrongPerson:
    """The trial; made with :meth:`running`.

    Attributes:
        steps: How often each operation was done.
        frames: Frames that were checked.
        misdelivered: Frames and tokens of a wrong person, and why.
        missed: Pushes that a right person did not get although everything was at rest.
    """

    def __init__(
        self, world: BusyWorld, people: RightPeople, ops: Broker, ears: Subscription, seed: str
    ) -> None:
        self._world = world
        self._people = people
        self._ears = ears
        self._random = random.Random(seed)
        self._operations = Operations(world, people, ops, self._random)
        self._releases, self._reads = [0] * REPLICAS, [0.0] * GATEWAYS
        self.steps = Counter[str]()
        self.frames = 0
        self.misdelivered = self._operations.wrong
        self.missed: list[str] = []

    @classmethod
    @asynccontextmanager
    async def running(cls, path: Path, seed: str) -> AsyncIterator["WrongPerson"]:
        """The world, with every user connected.

        Args:
            path: An SQLite file that is made.
        """
        every_push = Inbox(name="ears", bindings=[Binding(PUSH, "#")], max_length=_MANY)
        async with (
            BusyWorld.running(f"sqlite+aiosqlite:///{path}", configured(_SETTINGS)) as world,
            world.hub.connect(name="ops") as ops,
            ops.subscribe(every_push, prefetch=_MANY) as ears,
        ):
            memberships = Memberships(path)
            trial = cls(world, RightPeople(memberships), ops, ears, seed)
            try:
                for name in NAMES:
                    trial._operations.connect(name)
                await trial._rest()
                yield trial
            finally:
                memberships.close()

    async def run(self, steps: int) -> None:
        """Do so many operations."""
        operations = self._operations.table()
        weights = [weight for weight, _ in operations.values()]
        for number, name in enumerate(self._random.choices(list(operations), weights, k=steps), 1):
            if number % _PACE_LASTS == 1:
                self._operations.renew_inboxes()
                self._releases = self._random.choices(_RELEASES, k=REPLICAS)
                self._reads = self._random.choices(_READS, k=GATEWAYS)
            self._operations.now = number
            _, do = operations[name]
            if (waits := do()) is not None:
                await waits
            self.steps[name] += 1
            await self._move()
            if number % _UNTIL_REST == 0 or number == steps:
                await self._rest()

    # Changes beside the operations

    async def _move(self) -> None:
        """Let some publishes of chat go, in any order, and let the gateways read some of their inboxes."""
        chance = self._random
        for replica, most in enumerate(self._releases):
            for _ in range(chance.randint(0, most)):
                self._world.let_go(replica, chance.randrange(4))
        for _ in range(4):
            await asyncio.sleep(0)
        for gateway, often in zip(self._world.gateways, self._reads, strict=True):
            if chance.random() < often:
                await gateway.read(chance.choice([1, 2, 5, _MANY]))
        self._check()

    async def _rest(self) -> None:
        """Wait until nothing is under way; then no push is missed, and old ones are forgotten."""
        await self._world.rest()
        self._check()
        await self._check_rooms()
        await self._check_nothing_missed()
        self._people.forget()
        self._world.chat.forget()
        self._world.ended.clear()
        self._operations.renew_private_rooms()

    # Checks

    def _check(self) -> list[tuple[Session, bytes]]:
        """Check what arrived since the last call; returns it. No connection of a revoked token is open any more."""
        for delivery in self._ears.take_waiting(_MANY):
            self._people.learn(delivery)
            delivery.ack()
        self._people.memberships.follow()
        for name in self._world.open():
            session = self._world.sessions[name][1]
            if self._operations.is_out(session.identity.token_id) and not session._socket.closing:
                self.misdelivered.append(f"{name} is open with a revoked token")
        arrived = []
        for session in [*self._world.ended, *(session for _, session in self._world.sessions.values())]:
            for text in self._world.taken_from(session):
                self.frames += 1
                arrived.append((session, text))
                if why := self._people.why_wrong(session, text):
                    self.misdelivered.append(f"{session.user_id} got {text[:200]!r}: {why}")
        return arrived

    async def _check_rooms(self) -> None:
        """Exactly the members of a room receive it, and no connection a room without members."""
        sessions = {name: self._world.sessions[name][1] for name in self._world.open()}
        memberships = self._people.memberships
        rooms = {*memberships.inside}
        memberships.settle()
        for room in sorted(rooms | {*memberships.inside}):
            members = memberships.inside[room]
            if is_direct(room):
                continue
            hearing = {
                session
                for gateway in self._world.gateways
                for session in gateway.members.receivers_of(group_key(stream_of(room)))
            }
            for name, session in sessions.items():
                if (session in hearing) > (session.user_id in members):
                    self.misdelivered.append(f"{name} receives {room} at rest, and is not a member")
                elif (session in hearing) < (session.user_id in members):
                    self.missed.append(f"{name} does not receive {room} at rest")

    async def _check_nothing_missed(self) -> None:
        """A push to everyone and one to each user reach each of their connections."""
        sessions = [self._world.sessions[name][1] for name in self._world.open()]
        await self._operations.push(EVERYONE)
        for user in USERS:
            await self._operations.push(user_key(user))
        for gateway in self._world.gateways:
            await gateway.read()
        got = Counter(session.connection_id for session, _ in self._check())
        self.missed += [
            f"{session.user_id} got {got[session.connection_id]} of 2 pushes at rest"
            for session in sessions
            if got[session.connection_id] != 2
        ]
