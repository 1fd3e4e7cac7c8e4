"""Mixed load of people and another backend: seeded, bounded, and written down.

Guarantees:

* The same seed makes the same people ask the same things in the same order; when they ask depends on the answers.
* Each sends one request after the other, or several of one ordering key at once (:class:`Manner`). A request without
  a final answer is resent with the same id until it has one, or until patience ends: its outcome is unknown.
* People are resuming clients, the ones that others use (:mod:`towpath.client`).
"""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection

from towpath.client import TowpathError, connect, key_of
from towpath.protocol.routes import user_key
from towpath.servicekit.runtime import amqp_url
from towpath.servicekit.storage.streams import batched
from towpath.testkit.eventually import eventually
from towpath.testkit.tokens import a_token

from .evidence import Asked, Outcome
from .journal import Device, Journal, now
from .oracle import STATUS_AFTER

ATTEMPT_SECONDS: Final = 5.0
#: How long an operation is asked again and again; longer than any fault here lasts.
PATIENCE_SECONDS: Final = 90.0
_ARRIVING: Final = 10  # people at once
_BACKENDS: Final[Mapping[str, str | None]] = {"depot": None}
_JOURNEY: Final = ("created", "confirmed", "paid", "packed", "shipped", "delivered")


@dataclass(frozen=True, slots=True)
class Manner:
    """How people and backends ask.

    Attributes:
        at_once: How many requests a person sends at most without waiting for answers, all with one ordering key. An
            error is final for those, also one that may pass: asked again, they would come after the others.
        equal_ids: The nth request of each person and each backend has the same ``msg_id``, and people's nth orders
            have the same id. Else all ids are different.
    """

    at_once: int = 1
    equal_ids: bool = False


@dataclass(frozen=True, slots=True)
class _Wish:
    number: int
    action: str
    about: str
    token: str = ""


_USUAL: Final = Manner()


class Person:
    """One user with some devices, each beginning at the next gateway; the first device asks.

    Args:
        number: The user, where an id with few letters is needed.
        chance: Of what is asked.
    """

    def __init__(
        self,
        user: str,
        number: int,
        rooms: Sequence[str],
        urls: Sequence[str],
        seed: str,
        journal: Journal,
        *,
        devices: int = 2,
        token_seconds: float = 3600.0,
        manner: Manner = _USUAL,
    ) -> None:
        self.user = user
        self.rooms = list(rooms)
        self._id = f"p{number}"
        self._chance = random.Random(f"{seed} {user}")
        self._journal = journal
        self._seed = seed
        self._manner = manner
        self._number = 0
        self._submitted: list[str] = []
        self._asking = "nothing"
        self.devices = []
        for place in range(devices):
            start = (number + place) % len(urls)
            client = connect(
                [*urls[start:], *urls[:start]], token=lambda: a_token(user, expires_in=token_seconds)
            )
            self.devices.append(Device(f"{user}-{place}", user, client, journal))

    async def arrive(self) -> None:
        """Open both devices, and join the rooms."""
        for device in self.devices:
            device.follow(f"order:{self.user}", 0)
        asking, *others = self.devices
        asking.client.start()
        for room in self.rooms:
            stream = f"chat:{room}"
            joined = await asking.client.request(
                "chat.join", {"room": room}, key=key_of(room), stream=stream, timeout=30
            )
            for device in self.devices:
                device.follow(stream, joined["seq"])
        for other in others:
            other.client.start()
            await other.client.opened(30)

    def standing(self) -> str:
        """How it is, for a report."""
        last = next((one for one in reversed(self._journal.asked) if one.who == self.user), None)
        devices = ", ".join(
            f"{device.name} {device.client.state} {[str(problem) for problem in device.problems[-2:]]}"
            for device in self.devices
        )
        return f"asks {self._asking}; last asked {last}; {devices}"

    async def live(self, over: asyncio.Event, pause: float) -> None:
        """Ask one thing after the other until it is ``over``.

        Args:
            pause: Seconds between an answer and the next question, on average.
        """
        while not over.is_set():
            wishes = self._choose()
            if len(wishes) == 1:
                await self._ask(wishes[0])
            else:
                await asyncio.gather(*(self._ask(wish, is_alone=False) for wish in wishes))
            await _pause(over, self._chance.uniform(0, 2 * pause))

    async def _ask(self, wish: _Wish, *, is_alone: bool = True) -> None:
        """Ask until there is a final answer, and write it down."""
        action, about, token = wish.action, wish.about, wish.token
        data: dict[str, Any] = {"order_id": about}
        if action == "chat.send":
            data = {"room": about, "text": token}
        elif action == "order.submit":
            data["amount"] = f"{self._chance.randrange(1, 10_000) / 100:.2f}"
        key = key_of(about) if action == "chat.send" else None
        asked_at, attempts = now(), 0
        msg_id = f"m-{wish.number}" if self._manner.equal_ids else f"{self._seed}-{self._id}-{wish.number}"
        timeout = ATTEMPT_SECONDS if is_alone else PATIENCE_SECONDS
        outcome, code, answer = Outcome.UNKNOWN, None, {}
        while now() < asked_at + PATIENCE_SECONDS:
            attempts += 1
            try:
                answer = await self.devices[0].client.request(
                    action, data, key=key, msg_id=msg_id, timeout=timeout
                )
            except TowpathError as error:
                code = error.code
                self._asking = f"{action} {about}, {attempts} times, answered {error.message!r} ({code})"
                if not error.retryable or not is_alone:
                    outcome = Outcome.REFUSED
                    break
                await asyncio.sleep(min((error.retry_after_ms or 200) / 1000, 2.0))
            else:
                outcome = Outcome.DONE
                break
        if action == "order.submit" and outcome is Outcome.REFUSED:
            self._submitted.remove(about)
        asked = Asked(
            self.user, wish.number, action, self.user, about, token, outcome,
            msg_id=msg_id, line="" if key else "orders",
            code=code, answer=answer, asked_at=asked_at, answered_at=now(), attempts=attempts,
        )  # fmt: skip
        self._journal.asked.append(asked)

    def _choose(self) -> list[_Wish]:
        """The next request: one, or several of one ordering key."""
        kind = self._chance.random()
        if kind < 0.15 and self._submitted:
            order = self._submitted.pop(self._chance.randrange(len(self._submitted)))
            return [_Wish(self._next(), "order.cancel", order)]
        count = self._chance.randint(1, self._manner.at_once) if self._manner.at_once > 1 else 1
        if kind < 0.4:
            return [self._submission() for _ in range(count)]
        room = self._chance.choice(self.rooms)
        return [self._remark(room) for _ in range(count)]

    def _submission(self) -> _Wish:
        number = self._next()
        order = f"o-{number}" if self._manner.equal_ids else f"{self._id}-{number}"
        self._submitted.append(order)
        return _Wish(number, "order.submit", order)

    def _remark(self, room: str) -> _Wish:
        number = self._next()
        return _Wish(number, "chat.send", room, f"{self.user} says {number}")

    def _next(self) -> int:
        self._number += 1
        return self._number


class Backend:
    """Another program that publishes events of orders by plain AMQP, from created to delivered, and waves at users.

    An event counts as done when RabbitMQ has confirmed it; without a confirm it is published again with its id.
    A wave is a passing push, published once.

    Attributes:
        turn: Held while an event is published; publishes by others wait for it.

    Args:
        mandatory: Publish events with this flag of AMQP: RabbitMQ returns one that reaches no queue, and it is
            published again. Without it RabbitMQ confirms it all the same.
        app_id: The property that says who publishes; ``None`` leaves it out.
    """

    def __init__(
        self,
        name: str,
        url: str,
        users: Sequence[str],
        seed: str,
        journal: Journal,
        *,
        mandatory: bool = False,
        app_id: str | None = None,
        manner: Manner = _USUAL,
    ) -> None:
        self.name = name
        self.turn = asyncio.Lock()
        self._urls = [str(host) for host in amqp_url.hosts(url)]
        self._users = list(users)
        self._seed = seed
        self._chance = random.Random(f"{seed} {name}")
        self._journal = journal
        self._mandatory = mandatory
        self._app_id = app_id
        self._manner = manner
        self._number = 0
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None

    async def live(self, over: asyncio.Event, pause: float) -> None:
        """Publish one event after the other until it is ``over``."""
        try:
            for parcel in range(1_000_000):
                user = self._chance.choice(self._users)
                for event in _JOURNEY:
                    if over.is_set():
                        return
                    async with self.turn:
                        await self._tell(event, f"{self.name}-{parcel}", user)
                    await self._wave(self._chance.choice(self._users))
                    await _pause(over, self._chance.uniform(0, 2 * pause))
        finally:
            await self._leave()

    async def _tell(self, event: str, order: str, user: str) -> None:
        self._number += 1
        action, asked_at, attempts, outcome = f"order.{event}", now(), 0, Outcome.UNKNOWN
        msg_id = f"m-{self._number}" if self._manner.equal_ids else f"{self._seed}-{self.name}-{self._number}"
        body = _envelope(msg_id, action, order_id=order, user_id=user)
        while now() < asked_at + PATIENCE_SECONDS and outcome is Outcome.UNKNOWN:
            attempts += 1
            if await self._publish("towpath.events", action, body, mandatory=self._mandatory):
                outcome = Outcome.DONE
            else:
                await asyncio.sleep(0.2)
        self._journal.asked.append(
            Asked(
                self.name,
                self._number,
                action,
                user,
                order,
                "",
                outcome,
                msg_id=msg_id,
                asked_at=asked_at,
                answered_at=now(),
                attempts=attempts,
            )
        )

    async def _wave(self, user: str) -> None:
        token = f"{self._seed} wave {self._number} of {self.name}"
        self._journal.passing[token] = user
        await self._publish(
            "towpath.push", user_key(user), _envelope(f"wave-{self._number}", "wave.made", token=token)
        )

    async def _publish(self, exchange: str, key: str, body: bytes, *, mandatory: bool = False) -> bool:
        """Whether RabbitMQ has confirmed it, and where it is mandatory has not returned it."""
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                if self._connection is None or self._channel is None:
                    self._urls.append(self._urls.pop(0))  # the host of the last attempt comes last
                    self._connection = await aio_pika.connect(self._urls[-1], timeout=ATTEMPT_SECONDS)
                    self._channel = await self._connection.channel(on_return_raises=True)
                target = await self._channel.get_exchange(exchange, ensure=False)
                message = aio_pika.Message(body, delivery_mode=2, app_id=self._app_id)
                await target.publish(message, key, mandatory=mandatory)
                return True
        except asyncio.CancelledError:
            # aiormq fails confirms with it when a channel closes, without a cancellation of this task.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
        except Exception:  # whatever it was: no confirm
            pass
        await self._leave()
        return False

    async def _leave(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(Exception, asyncio.CancelledError):
                async with asyncio.timeout(2):
                    await connection.close()


@dataclass(frozen=True, slots=True)
class Counted:
    """How much was done until a moment.

    Attributes:
        operations: Requests that have their final answer, and events that RabbitMQ has confirmed.
        pushes: The pushes that devices were shown.
    """

    at: float
    operations: int
    pushes: int

    def rate(self, before: "Counted") -> str:
        """How much a second since ``before``, in words."""
        seconds = self.at - before.at
        operations, pushes = self.operations - before.operations, self.pushes - before.pushes
        return f"{operations / seconds:.0f} operations and {pushes / seconds:.0f} pushes a second"


class Load:
    """People and backends at work, from entry to :meth:`rest`.

    Args:
        urls: The gateways.
        broker: The AMQP URL where the backend publishes; of several hosts the next when one fails.
        seed: Of all that is left to chance.
        users: The users of the load.
        rooms: Every user is in the first, every other one of them in each further room: some are always unaffected.
        circles: Divide the users into so many circles, each with rooms of its own: many may ask, and few need hear.
        pause: Seconds between an answer and the next question of one person, on average.
        token_seconds: How long tokens are good.
        crowd: Further users with ten devices each, who ask nothing and listen in the first room; all of them at the
            first gateway.
        devices: Of each who asks.
        mandatory: Whether backends publish their events with this flag; see :class:`Backend`.
        backends: The name of each, and its ``app_id``.
        manner: How they ask.

    Attributes:
        journal: Their requests and pushes.
        is_aside: Which streams the test itself judges, as others use them.
        people: The active users.
        crowd: The users who only listen.
    """

    def __init__(
        self,
        urls: Sequence[str],
        broker: str,
        seed: str,
        *,
        users: Sequence[str] = ("ana", "ben", "cyd", "dov"),
        rooms: Sequence[str] = ("lobby", "attic"),
        circles: int = 1,
        pause: float = 0.04,
        token_seconds: float = 3600.0,
        crowd: int = 0,
        devices: int = 2,
        mandatory: bool = False,
        backends: Mapping[str, str | None] = _BACKENDS,
        manner: Manner = _USUAL,
    ) -> None:
        self.is_aside: Callable[[str], bool] = lambda stream: False
        self.journal = Journal()
        listeners = [f"listener{number}" for number in range(crowd)]
        self.members = {}
        for circle in range(circles):
            inside = list(users[circle::circles])
            for number, room in enumerate(rooms):
                name = room if circles == 1 else f"{room}{circle}"
                members = [*inside, *listeners] if not number else inside[number % 2 :: 2]
                self.members[name] = frozenset(members)
        self.people = [
            Person(
                user, number, [room for room, members in self.members.items() if user in members], urls, seed,
                self.journal, devices=devices, token_seconds=token_seconds, manner=manner,
            )
            for number, user in enumerate(users)
        ]  # fmt: skip
        self.crowd = [Person(user, 0, rooms[:1], urls, seed, self.journal, devices=10) for user in listeners]
        self._backends = [
            Backend(
                name, broker, users, seed, self.journal, mandatory=mandatory, app_id=app_id, manner=manner
            )
            for name, app_id in backends.items()
        ]
        self._pause = pause
        self._over = asyncio.Event()
        self._living: asyncio.Task[None] | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, urls: Sequence[str], broker: str, seed: str, **options: Any) -> AsyncIterator["Load"]:
        """Load from entry to exit, when all clients are closed."""
        load = cls(urls, broker, seed, **options)
        try:
            async with asyncio.timeout(60):
                for some in batched([*load.people, *load.crowd], _ARRIVING):
                    await asyncio.gather(*(person.arrive() for person in some))
            load._living = asyncio.create_task(load._live())
            yield load
        finally:
            load._over.set()
            if load._living is not None and not load._living.done():
                load._living.cancel()
                await asyncio.gather(load._living, return_exceptions=True)
            await asyncio.gather(*(device.client.close() for device in load.devices))

    @property
    def devices(self) -> list[Device]:
        return [device for person in [*self.people, *self.crowd] for device in person.devices]

    async def flows(self, operations: int = 20, *, timeout: float = 30.0) -> None:
        """Wait until that many more operations are done."""
        wanted = len(self.journal.asked) + operations
        await eventually(lambda: len(self.journal.asked) >= wanted, timeout=timeout)

    def counted(self) -> Counted:
        """How much has been done so far."""
        return Counted(now(), len(self.journal.asked), len(self.journal.shown))

    async def rate(self, *, over: float) -> float:
        """Operations done a second, counted for ``over`` seconds."""
        before, started = len(self.journal.asked), now()
        await asyncio.sleep(over)
        return (len(self.journal.asked) - before) / (now() - started)

    def events(self, *, since: float = 0.0) -> set[tuple[str, str]]:
        """The order and the new status of each event that a backend began to publish after ``since``."""
        names = {backend.name for backend in self._backends}
        return {
            (asked.about, STATUS_AFTER[asked.action])
            for asked in self.journal.asked
            if asked.who in names and asked.asked_at >= since
        }

    def events_shown(self, *, since: float = 0.0) -> set[tuple[str, str]]:
        """Those of :meth:`events` that a user has been shown."""
        shown = {(one.data.get("order_id"), one.data.get("status")) for one in self.journal.shown}
        return {event for event in self.events(since=since) if event in shown}

    @contextlib.asynccontextmanager
    async def without_events(self) -> AsyncIterator[None]:
        """No backend publishes an event in between, and all before have been shown: no queue holds any."""
        async with contextlib.AsyncExitStack() as stack:
            for backend in self._backends:
                await stack.enter_async_context(backend.turn)
            await eventually(lambda: self.events() == self.events_shown(), timeout=PATIENCE_SECONDS)
            yield

    async def rest(self) -> None:
        """Ask nothing more, and wait for the outcome of what was asked."""
        self._over.set()
        if self._living is not None:
            async with asyncio.timeout(PATIENCE_SECONDS + 2 * ATTEMPT_SECONDS):
                await self._living

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for person in self.people:
                tasks.create_task(person.live(self._over, self._pause))
            for backend in self._backends:
                tasks.create_task(backend.live(self._over, self._pause))


def _envelope(msg_id: str, action: str, **data: str) -> bytes:
    timestamp = time.time_ns() // 1_000_000
    envelope = {"msg_id": msg_id, "timestamp": timestamp, "action": action, "data": data, "version": "1.0"}
    return json.dumps(envelope).encode()


async def _pause(over: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await over.wait()
