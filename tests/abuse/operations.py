"""Operations: everything that users and operators do in the wrong-person trial, each at random."""

import itertools
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from tests.e2e.group_world import GATEWAYS, REPLICAS
from towpath.protocol.chat import stream_of
from towpath.protocol.envelope import make
from towpath.protocol.messages import Directed, encode
from towpath.protocol.routes import EVERYONE, PUSH, connection_key, group_key, user_key
from towpath.servicekit.broker.interface import Broker, Message

from .busy_world import BusyWorld, Tokens, publish_revocation
from .right_people import RightPeople

USERS: Final = ("ana", "bob", "cyd", "dan", "eve", "fay", "gus", "hal")
#: The connections: the number chooses the gateway, so that a user has two on one and one on the other.
NAMES: Final = tuple(f"{user}-{number}" for user in USERS for number in range(GATEWAYS + 1))
_PUBLIC: Final = ("hall", "yard")
_PRIVATE_ROOMS: Final = 3
#: Steps within which a revocation has reached each gateway: its reader needs some iterations of the event loop.
_REVOKED_AFTER: Final = 10

Operation = Callable[[], Coroutine[Any, Any, None] | None]


class Operations:
    """All operations on one world; :meth:`table` has them by name.

    Args:
        ops: The connection of operators and of other backends.

    Attributes:
        now: The number of the step.
        wrong: Tokens that let in whom they should not have, and why.
    """

    def __init__(self, world: BusyWorld, people: RightPeople, ops: Broker, chance: random.Random) -> None:
        self._world = world
        self._people = people
        self._ops = ops
        self._chance = chance
        self._numbers = itertools.count(1)
        self._private = ["none"] * _PRIVATE_ROOMS
        self._tokens = Tokens()
        self._held: dict[str, tuple[str, str]] = {}
        self.now = 0
        self.wrong: list[str] = []

    def table(self) -> dict[str, tuple[int, Operation]]:
        """The operations by name, each with how often it is done."""
        return {
            "push to a user": (4, self._push_to_a_user),
            "push to a room": (2, self._push_to_a_room),
            "push to everyone": (1, self._push_to_everyone),
            "push to a connection": (2, self._push_to_a_connection),
            "send": (6, lambda: self._in_own_room("chat.send", text=f"text {next(self._numbers)}")),
            "direct": (4, lambda: self._to_a_user("chat.direct", "to", text=f"text {next(self._numbers)}")),
            "typing": (1, lambda: self._in_own_room("chat.typing")),
            "create": (1, self._create),
            "invite and join": (6, self._invite_and_join),
            "invite": (2, lambda: self._in_own_room("chat.invite", user=self._chance.choice(USERS))),
            "join": (5, lambda: self._in_a_room("chat.join")),
            "leave": (3, lambda: self._in_own_room("chat.leave")),
            "join and leave": (7, self._join_and_leave),
            "remove": (4, lambda: self._with_a_member("chat.remove")),
            "transfer": (1, lambda: self._with_a_member("chat.transfer")),
            "drop": (1, lambda: self._in_own_room("chat.drop")),
            "decline": (1, lambda: self._in_a_room("chat.decline")),
            "block": (1, lambda: self._to_a_user("chat.block", "user")),
            "unblock": (1, lambda: self._to_a_user("chat.unblock", "user")),
            "resume": (3, self._resume),
            "connect": (9, lambda: self.connect(self._chance.choice(NAMES))),
            "refresh": (2, self._refresh),
            "revoke a token": (1, self._revoke_a_token),
            "revoke a user": (1, self._revoke_a_user),
            "disconnect": (2, lambda: self._world.disconnect(self._chance.choice(NAMES))),
            "kick": (1, lambda: self._world.kick(self._chance.choice(USERS))),
            "handle events": (4, lambda: self._world.handle_events(self._chance.randrange(REPLICAS))),
            "lose or renew an inbox": (1, self._lose_or_renew_an_inbox),
        }

    @property
    def _rooms(self) -> list[str]:
        return [*self._private, *_PUBLIC]

    def _push_to_a_user(self) -> Coroutine[Any, Any, None]:
        return self.push(user_key(self._chance.choice(USERS)))

    def _push_to_a_room(self) -> Coroutine[Any, Any, None]:
        return self.push(group_key(stream_of(self._chance.choice(self._rooms))))

    def _push_to_everyone(self) -> Coroutine[Any, Any, None]:
        return self.push(EVERYONE)

    def _push_to_a_connection(self) -> Coroutine[Any, Any, None]:
        """To one that is open, or to one that has ended a short time ago."""
        sessions = [session for _, session in self._world.sessions.values()]
        session = self._chance.choice([*sessions, *self._world.ended[-10:]])
        item = encode(Directed(session.connection_id, envelope=msgspec.Raw(self._envelope())))
        gateway = f"gw-{self._chance.randrange(GATEWAYS)}"
        return self._publish(connection_key(gateway), item)

    async def push(self, key: str) -> None:
        await self._publish(key, self._envelope())

    async def _publish(self, key: str, body: bytes) -> None:
        await self._ops.publish(PUSH, key, Message(body=body, persistent=False))

    def _envelope(self) -> bytes:
        return make("trial.push", {"number": next(self._numbers)}).to_json()

    def _in_a_room(self, action: str, **data: Any) -> None:
        if names := self._world.open():
            self._ask(self._chance.choice(names), action, self._chance.choice(self._rooms), **data)

    def _create(self) -> None:
        room = self._chance.choice(self._rooms)
        self._in_a_room("chat.create", private=room not in _PUBLIC)

    def renew_private_rooms(self) -> None:
        """New rooms in place of those that are gone: the join of a name that is free makes a public room."""
        for place, room in enumerate(self._private):
            if self._people.memberships.is_private(room) or not (names := self._world.open()):
                continue
            self._private[place] = new = f"den-{next(self._numbers)}"
            self._ask_for(self._chance.choice(names), "chat.create", new, room=new, private=True)

    def _in_own_room(self, action: str, **data: Any) -> None:
        """In a room that the user is in, if there is one; what others may not do is tried elsewhere too."""
        if names := self._world.open():
            name = self._chance.choice(names)
            user, inside = name.partition("-")[0], self._people.memberships.inside
            own = [room for room in self._rooms if user in inside[room]]
            self._ask(name, action, self._chance.choice(own or self._rooms), **data)

    def _with_a_member(self, action: str) -> None:
        """A member asks about another one; only the owner of the room may."""
        room = self._chance.choice(self._private)
        members = sorted(self._people.memberships.inside[room])
        names = [name for name in self._world.open() if name.partition("-")[0] in members]
        if names:
            self._ask(self._chance.choice(names), action, room, user=self._chance.choice(members))

    def _invite_and_join(self) -> None:
        room = self._chance.choice(self._private)
        names, members = self._world.open(), self._people.memberships.inside[room]
        hosts = [name for name in names if name.partition("-")[0] in members]
        guests = [name for name in names if name.partition("-")[0] not in members]
        if hosts and guests:
            guest = self._chance.choice(guests)
            self._ask_for(
                self._chance.choice(hosts), "chat.invite", room, room=room, user=guest.partition("-")[0]
            )
            self._ask_for(guest, "chat.join", room, room=room)

    def _join_and_leave(self) -> None:
        """Both at once, in one order: by the same connection or another one of the user, on any replica."""
        if names := self._world.open():
            rooms = [room for room in self._rooms if self._people.memberships.inside[room]]
            name, room = self._chance.choice(names), self._chance.choice(rooms or ["hall"])
            user = name.partition("-")[0]
            own = [other for other in names if other.partition("-")[0] == user]
            for action in self._chance.sample(("chat.join", "chat.leave"), 2):
                self._ask(self._chance.choice(own), action, room)

    def _to_a_user(self, action: str, field: str, **data: Any) -> None:
        if names := self._world.open():
            named = {field: self._chance.choice(USERS)}
            self._ask_for(self._chance.choice(names), action, None, **named, **data)

    def _resume(self) -> None:
        if names := self._world.open():
            rooms = self._chance.sample(self._rooms, 2)
            positions = {stream_of(room): self._chance.randrange(5) for room in rooms}
            self._ask_for(self._chance.choice(names), "chat.resume", None, positions=positions)

    def _ask(self, name: str, action: str, room: str, **data: Any) -> None:
        """By the key of the room or without one: the partitions belong to different replicas, as a rule."""
        self._ask_for(name, action, self._chance.choice([room, None]), room=room, **data)

    def _ask_for(self, name: str, action: str, key: str | None, **data: Any) -> None:
        msg_id = self._world.ask(name, action, key=key, **data)
        self._people.asked[msg_id] = self._world.sessions[name][1].connection_id

    def connect(self, name: str) -> None:
        """With the token that this connection had before, or with a new one."""
        user, _, number = name.partition("-")
        if name not in self._held or self._chance.random() < 0.3:
            self._held[name] = self._tokens.issue(user)
        token_id, token = self._held[name]
        self._note(self._world.come(name, user, int(number) % GATEWAYS, token), token_id, name)
        if token_id in self._tokens.revoked:
            del self._held[name]

    def _refresh(self) -> None:
        """With a new token, a revoked one, or one of another user."""
        if names := self._world.open():
            name, other = self._chance.choice(names), self._chance.choice(NAMES)
            user = self._world.sessions[name][1].user_id
            token_id, token = self._held.get(other) or self._tokens.issue(other.partition("-")[0])
            is_accepted = self._world.refresh(name, token)
            self._note(is_accepted, token_id, name)
            if is_accepted and other.partition("-")[0] != user:
                self.wrong.append(f"{name} continued with a token of {other}")

    async def _revoke_a_token(self) -> None:
        if self._held:
            token_id, _ = self._chance.choice(list(self._held.values()))
            await publish_revocation(self._ops, *self._tokens.revoke_one(token_id, self.now))

    async def _revoke_a_user(self) -> None:
        user = self._chance.choice(USERS)
        await publish_revocation(self._ops, *self._tokens.revoke_all(user, self.now))

    def _note(self, is_accepted: bool, token_id: str, name: str) -> None:
        """One use of a token: it is a failure if it was accepted after its revocation."""
        if is_accepted and self.is_out(token_id):
            self.wrong.append(f"{name} was let in with a revoked token")

    def is_out(self, token_id: str | None) -> bool:
        """Whether a token was revoked some steps ago."""
        revoked = self._tokens.revoked.get(token_id or "")
        return revoked is not None and self.now - revoked > _REVOKED_AFTER

    def _lose_or_renew_an_inbox(self) -> None:
        """Lost inboxes are renewed at the next change of pace at the latest."""
        number = self._chance.randrange(GATEWAYS)
        if number in self._world.lost:
            self._renew(number)
        else:
            self._world.gateways[number].lose()
            self._world.lost.add(number)

    def renew_inboxes(self) -> None:
        """New inboxes in place of lost ones."""
        for number in list(self._world.lost):
            self._renew(number)

    def _renew(self, number: int) -> None:
        self._world.gateways[number].stand_again()
        self._world.lost.discard(number)
