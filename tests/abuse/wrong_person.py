"""Wrong person: users and operators do everything at random, and each frame must reach the right people only.

Two gateways and two replicas of chat without their sockets (:mod:`tests.e2e.group_world`): their publishes and
inboxes move at random too, so that changes of rooms, pushes and connections overtake each other. Every frame that a
connection gets is checked (:mod:`.right_people`). Now and then everything comes to rest: then exactly the members of
each room receive it, and a push to each user and one to everyone reach all their connections.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.e2e.group_world import GATEWAYS, REPLICAS, World
from towpath.chat.app import configured
from towpath.chat.settings import ChatSettings
from towpath.gateway.sessions.session import Session
from towpath.protocol.chat import is_direct, stream_of
from towpath.protocol.envelope import make
from towpath.protocol.messages import Directed, encode
from towpath.protocol.routes import EVERYONE, PUSH, connection_key, group_key, user_key
from towpath.servicekit.broker.interface import Binding, Broker, Inbox, Message, Subscription

from .right_people import Memberships, RightPeople

_USERS: Final = ("ana", "bob", "cyd", "dan", "eve", "fay", "gus", "hal")
_ROOMS: Final = ("den", "hall", "attic", "yard", "loft")
#: The connections: the number chooses the gateway, so that a user has two on one and one on the other.
_NAMES: Final = tuple(f"{user}-{number}" for user in _USERS for number in range(GATEWAYS + 1))
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


class BusyWorld(World):
    """A world whose replicas take what has arrived together, as their consumers do."""

    most_at_once = 10


class WrongPerson:
    """The trial; made with :meth:`running`.

    Attributes:
        steps: How often each operation was done.
        frames: Frames that were checked.
        misdelivered: Frames that reached a wrong person, and why.
        missed: Pushes that a right person did not get although everything was at rest.
    """

    def __init__(self, world: World, people: RightPeople, ops: Broker, ears: Subscription, seed: str) -> None:
        self._world = world
        self._people = people
        self._ops = ops
        self._ears = ears
        self._random = random.Random(seed)
        self._numbers = itertools.count(1)
        self._releases, self._reads = [0] * REPLICAS, [0.0] * GATEWAYS
        self.steps = Counter[str]()
        self.frames = 0
        self.misdelivered: list[str] = []
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
                for name in _NAMES:
                    trial._connect(name)
                await trial._rest()
                yield trial
            finally:
                memberships.close()

    async def run(self, steps: int) -> None:
        """Do so many operations."""
        operations = [*self._operations().items()]
        names = [name for name, _ in operations]
        weights = [weight for _, (weight, _) in operations]
        for number, name in enumerate(self._random.choices(names, weights, k=steps), 1):
            if number % _PACE_LASTS == 1:
                for lost in list(self._world.lost):
                    self._renew(lost)
                self._releases = self._random.choices(_RELEASES, k=REPLICAS)
                self._reads = self._random.choices(_READS, k=GATEWAYS)
            _, do = self._operations()[name]
            if (waits := do()) is not None:
                await waits
            self.steps[name] += 1
            await self._move()
            if number % _UNTIL_REST == 0 or number == steps:
                await self._rest()

    def _operations(self) -> dict[str, tuple[int, Callable[[], Coroutine[Any, Any, None] | None]]]:
        """The operations by name, each with how often it is done."""
        return {
            "push to a user": (4, self._push_to_a_user),
            "push to a room": (2, self._push_to_a_room),
            "push to everyone": (1, self._push_to_everyone),
            "push to a connection": (2, self._push_to_a_connection),
            "send": (6, lambda: self._in_own_room("chat.send", text=f"text {next(self._numbers)}")),
            "direct": (3, self._direct),
            "typing": (1, lambda: self._in_own_room("chat.typing")),
            "create": (2, lambda: self._in_a_room("chat.create", private=self._random.random() < 0.7)),
            "invite": (4, lambda: self._in_own_room("chat.invite", user=self._random.choice(_USERS))),
            "join": (5, lambda: self._in_a_room("chat.join")),
            "leave": (3, lambda: self._in_own_room("chat.leave")),
            "join and leave": (4, self._join_and_leave),
            "resume": (3, self._resume),
            "connect": (4, lambda: self._connect(self._random.choice(_NAMES))),
            "disconnect": (2, lambda: self._world.disconnect(self._random.choice(_NAMES))),
            "kick": (1, lambda: self._world.kick(self._random.choice(_USERS))),
            "handle events": (4, lambda: self._world.handle_events(self._random.randrange(REPLICAS))),
            "lose or renew an inbox": (1, self._lose_or_renew_an_inbox),
        }

    # Operations

    def _push_to_a_user(self) -> Coroutine[Any, Any, None]:
        return self._push(user_key(self._random.choice(_USERS)))

    def _push_to_a_room(self) -> Coroutine[Any, Any, None]:
        return self._push(group_key(stream_of(self._random.choice(_ROOMS))))

    def _push_to_everyone(self) -> Coroutine[Any, Any, None]:
        return self._push(EVERYONE)

    def _push_to_a_connection(self) -> Coroutine[Any, Any, None]:
        """To one that is open, or to one that has ended a short time ago."""
        sessions = [session for _, session in self._world.sessions.values()]
        session = self._random.choice([*sessions, *self._world.ended[-10:]])
        item = encode(Directed(session.connection_id, envelope=msgspec.Raw(self._envelope())))
        gateway = f"gw-{self._random.randrange(GATEWAYS)}"
        return self._publish(connection_key(gateway), item)

    async def _push(self, key: str) -> None:
        await self._publish(key, self._envelope())

    async def _publish(self, key: str, body: bytes) -> None:
        await self._ops.publish(PUSH, key, Message(body=body, persistent=False))

    def _envelope(self) -> bytes:
        return make("trial.push", {"number": next(self._numbers)}).to_json()

    def _in_a_room(self, action: str, **data: Any) -> None:
        if names := self._world.open():
            self._ask(self._random.choice(names), action, self._random.choice(_ROOMS), **data)

    def _in_own_room(self, action: str, **data: Any) -> None:
        """In a room that the user is in, if there is one; what others may not do is tried elsewhere too."""
        if names := self._world.open():
            name = self._random.choice(names)
            user, inside = name.partition("-")[0], self._people.memberships.inside
            own = [room for room in _ROOMS if user in inside[room]]
            self._ask(name, action, self._random.choice(own or _ROOMS), **data)

    def _join_and_leave(self) -> None:
        """Both at once, in one order: by the same connection or another one of the user, on any replica."""
        if names := self._world.open():
            name, room = self._random.choice(names), self._random.choice(_ROOMS)
            user = name.partition("-")[0]
            own = [other for other in names if other.partition("-")[0] == user]
            for action in self._random.sample(("chat.join", "chat.leave"), 2):
                self._ask(self._random.choice(own), action, room)

    def _direct(self) -> None:
        if names := self._world.open():
            to, text = self._random.choice(_USERS), f"text {next(self._numbers)}"
            self._ask_for(self._random.choice(names), "chat.direct", None, to=to, text=text)

    def _resume(self) -> None:
        if names := self._world.open():
            rooms = self._random.sample(_ROOMS, 2)
            positions = {stream_of(room): self._random.randrange(5) for room in rooms}
            self._ask_for(self._random.choice(names), "chat.resume", None, positions=positions)

    def _ask(self, name: str, action: str, room: str, **data: Any) -> None:
        """By the key of the room or without one: the partitions belong to different replicas, as a rule."""
        self._ask_for(name, action, self._random.choice([room, None]), room=room, **data)

    def _ask_for(self, name: str, action: str, key: str | None, **data: Any) -> None:
        msg_id = self._world.ask(name, action, key=key, **data)
        self._people.asked[msg_id] = self._world.sessions[name][1].connection_id

    def _connect(self, name: str) -> None:
        user, _, number = name.partition("-")
        self._world.connect(name, user, int(number) % GATEWAYS)

    def _lose_or_renew_an_inbox(self) -> None:
        """Lost inboxes are renewed at the next change of pace at the latest."""
        number = self._random.randrange(GATEWAYS)
        if number in self._world.lost:
            self._renew(number)
        else:
            self._world.gateways[number].lose()
            self._world.lost.add(number)

    def _renew(self, number: int) -> None:
        self._world.gateways[number].stand_again()
        self._world.lost.discard(number)

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

    # Checks

    def _check(self) -> list[tuple[Session, bytes]]:
        """Check what arrived since the last call; returns it."""
        for delivery in self._ears.take_waiting(_MANY):
            self._people.learn(delivery)
            delivery.ack()
        self._people.memberships.follow()
        arrived = []
        for session in [*self._world.ended, *(session for _, session in self._world.sessions.values())]:
            for text in self._world.taken_from(session):
                self.frames += 1
                arrived.append((session, text))
                if why := self._people.why_wrong(session, text):
                    self.misdelivered.append(f"{session.user_id} got {text[:200]!r}: {why}")
        return arrived

    async def _check_rooms(self) -> None:
        """Exactly the members of a room receive it."""
        sessions = {name: self._world.sessions[name][1] for name in self._world.open()}
        for room, members in self._people.memberships.inside.items():
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
        await self._push(EVERYONE)
        for user in _USERS:
            await self._push(user_key(user))
        for gateway in self._world.gateways:
            await gateway.read()
        got = Counter(session.connection_id for session, _ in self._check())
        self.missed += [
            f"{session.user_id} got {got[session.connection_id]} of 2 pushes at rest"
            for session in sessions
            if got[session.connection_id] != 2
        ]
