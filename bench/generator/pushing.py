"""Pushes from another backend, each to one user of many.

Guarantees: so many pushes are on their way. When one has arrived the next one leaves, to a user that a seeded
dice picks.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from bench.dialects import Dialect, Publication, dialect
from bench.generator.backend import Backend
from bench.generator.clients import Client, clock, names, open_many
from bench.generator.control import Control
from bench.generator.ledger import Ledger
from bench.generator.window import Window
from towpath.testkit.eventually import eventually

#: A user's pushes are numbered from the user's place times this.
SPAN: Final = 100_000
_LAST_SECONDS: Final = 10.0
_SEED: Final = 7


class Receiver:
    """One user, and the pushes on their way there."""

    def __init__(self, place: int, client: Client, speaking: Dialect, arrived: Callable[[int], None]) -> None:
        self.client = client
        self.ledger = Ledger(place * SPAN)
        self.next = place * SPAN
        self._make = speaking.push(client.user)
        self._heard = speaking.heard
        self._arrived = arrived
        client.receive = self._receive

    def push(self) -> Publication:
        """The next push to this user."""
        self.next += 1
        return self._make(self.next - 1)

    def _receive(self, frame: bytes) -> None:
        number = self._heard(frame)
        if number is None:
            self.client.reply(frame)
        elif self.ledger.hear(number):
            self._arrived(number)


class Pushing:
    """Keeps pushes on their way until it is stopped.

    Attributes:
        waiting: Push → when it left, in nanoseconds.
    """

    def __init__(
        self, clients: Sequence[Client], speaking: Dialect, backend: Backend, window: Window
    ) -> None:
        self.waiting: dict[int, int] = {}
        self.receivers = [
            Receiver(place, client, speaking, self._arrived) for place, client in enumerate(clients)
        ]
        self.stopped = False
        self._backend = backend
        self._window = window
        self._dice = random.Random(_SEED)  # noqa: S311  # the same users in every run, no secret
        self._publishing: set[asyncio.Task[None]] = set()

    def push(self) -> None:
        """Send one to one user."""
        receiver = self._dice.choice(self.receivers)
        self.waiting[receiver.next] = clock()
        task = asyncio.create_task(self._backend.publish(receiver.push()))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    def _arrived(self, number: int) -> None:
        since = self.waiting.pop(number)
        if self._window.open:
            self._window.count += 1
            self._window.times.add((clock() - since) // 1000)
        if not self.stopped:
            self.push()


async def run(
    control: Control,
    *,
    urls: Sequence[str],
    language: str,
    amqp_url: str,
    clients: int,
    in_flight: int,
    warm_up: float,
    seconds: float,
) -> dict[str, Any]:
    """Push for ``warm_up`` seconds, then count for ``seconds``; marks: ``begin`` and ``end`` of the window.

    Args:
        control: The runner.
        urls: Where to connect; users are on all of them by turns.
        language: The dialect.
        amqp_url: Where the backend publishes.
        clients: How many users.
        in_flight: Pushes on their way.
    """
    speaking, window = dialect(language), Window()
    connected = await open_many(names("u", clients), urls, speaking, progress=control.progress)
    async with Backend.open(amqp_url) as backend:
        pushing = Pushing(connected, speaking, backend, window)
        for _ in range(in_flight):
            pushing.push()
        await asyncio.sleep(warm_up)
        result = await window.watch(control, seconds)
        pushing.stopped = True
        with contextlib.suppress(AssertionError):
            await eventually(lambda: not pushing.waiting, timeout=_LAST_SECONDS)
    receivers = pushing.receivers
    return result | {
        "lost": sum(receiver.ledger.lost(receiver.next) for receiver in receivers),
        "duplicates": sum(receiver.ledger.duplicates for receiver in receivers),
        "disorder": sum(receiver.ledger.disorder for receiver in receivers),
        "cut_off": sum(receiver.client.ended for receiver in receivers),
    }
