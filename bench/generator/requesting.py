"""Requests and their answers: in a closed loop (each client has some in flight) or an open one (a fixed rate).

Guarantees: a request is counted once, as answered, refused or lost; a second answer, or one out
of the order it was asked in is counted too. In an open loop times run from when a request *should* have been sent, so
that a system that stalls cannot keep its load away (coordinated omission).
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final

from bench.dialects import Dialect, dialect
from bench.generator.clients import Client, clock, names, open_many
from bench.generator.control import Control
from bench.generator.window import Window
from towpath.testkit.eventually import eventually

#: Each client numbers its own; its numbers begin at its place times this.
SPAN: Final = 1_000_000
#: The actions that a kind needs first.
_FIRST: Final = {"order.get": "order.first"}
_FIRST_SECONDS: Final = 30.0
_LAST_SECONDS: Final = 10.0
_TICK_SECONDS: Final = 0.001
_AFTER_REFUSAL_SECONDS: Final = 0.01

Make = Callable[[int], bytes]


class Tally:
    """The counts of all clients together."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.refused = self.duplicates = self.disorder = 0


class Asker:
    """One client's requests.

    Attributes:
        waiting: Number → when it was sent, or should have been, in nanoseconds.
        then: Called when a request has its answer.
    """

    def __init__(self, place: int, client: Client, speaking: Dialect, make: Make, tally: Tally) -> None:
        self.waiting: dict[int, int] = {}
        self.client = client
        self.make = make
        self.then: Callable[[Asker], object] = lambda asker: None
        self._next = place * SPAN
        self._highest = -1
        self._tally = tally
        self._answered = speaking.answered
        self._refused = speaking.refused
        client.receive = self._receive

    def ask(self, since: int) -> None:
        """Send one request; its time runs from ``since``."""
        number = self._next
        self._next = number + 1
        self.waiting[number] = since
        self.client.send(self.make(number))

    def _receive(self, frame: bytes) -> None:
        number = self._answered(frame)
        if number is None:
            self._otherwise(frame)
            return
        tally = self._tally
        since = self.waiting.pop(number, None)
        if since is None:
            tally.duplicates += 1
            return
        if number < self._highest:
            tally.disorder += 1
        else:
            self._highest = number
        window = tally.window
        if window.open:
            window.count += 1
            window.times.add((clock() - since) // 1000)
        self.then(self)

    def _otherwise(self, frame: bytes) -> None:
        number = self._refused(frame)
        if number is None:
            self.client.reply(frame)
        elif self.waiting.pop(number, None) is None:
            self._tally.duplicates += 1
        else:
            self._tally.refused += 1
            # To ask at once would be harder on who has too much to do already.
            asyncio.get_running_loop().call_later(_AFTER_REFUSAL_SECONDS, self.then, self)


async def run(
    control: Control,
    *,
    urls: Sequence[str],
    language: str,
    kind: str,
    clients: int,
    in_flight: int = 1,
    rate: float | None = None,
    warm_up: float,
    seconds: float,
) -> dict[str, Any]:
    """Ask for ``warm_up`` seconds, then count for ``seconds``; marks: ``begin`` and ``end`` of the window.

    Args:
        control: The runner.
        urls: Where to connect.
        language: The dialect.
        kind: The kind of request.
        clients: How many.
        in_flight: Requests of each that have no answer yet, in a closed loop.
        rate: Requests a second of all together; makes it an open loop.
    """
    speaking, tally = dialect(language), Tally(Window())
    connected = await open_many(names("u", clients), urls, speaking)
    askers = [
        Asker(place, client, speaking, speaking.request(kind, client.user), tally)
        for place, client in enumerate(connected)
    ]
    if kind in _FIRST:
        await _ask_first(askers, speaking, _FIRST[kind])
    stop = asyncio.Event()
    loop = _closed_loop(askers, in_flight, stop) if rate is None else _open_loop(askers, rate, stop)
    load = asyncio.create_task(loop)
    await asyncio.sleep(warm_up)
    result = await tally.window.watch(control, seconds)
    stop.set()
    await load
    lost = await _lost(askers)
    return result | {
        "lost": lost,
        "refused": tally.refused,
        "duplicates": tally.duplicates,
        "disorder": tally.disorder,
        "cut_off": sum(client.ended for client in connected),
    }


async def _ask_first(askers: Sequence[Asker], speaking: Dialect, kind: str) -> None:
    for asker in askers:
        usual, asker.make = asker.make, speaking.request(kind, asker.client.user)
        asker.ask(clock())
        asker.make = usual
    if await _left(askers, _FIRST_SECONDS):
        raise TimeoutError(f"{kind} has no answer after {_FIRST_SECONDS:g} s.")


async def _closed_loop(askers: Sequence[Asker], in_flight: int, stop: asyncio.Event) -> None:
    def again(asker: Asker) -> None:
        if not stop.is_set():
            asker.ask(clock())

    for asker in askers:
        asker.then = again
        for _ in range(in_flight):
            asker.ask(clock())
    await stop.wait()


async def _open_loop(askers: Sequence[Asker], rate: float, stop: asyncio.Event) -> None:
    """By turns to each client; what one tick is late with, it sends at once, with the times it should have had."""
    start, sent, step = clock(), 0, 1e9 / rate
    while not stop.is_set():
        due = int((clock() - start) / step)
        while sent < due:
            sent += 1
            askers[sent % len(askers)].ask(start + int(sent * step))
        await asyncio.sleep(_TICK_SECONDS)


async def _lost(askers: Sequence[Asker]) -> int:
    """Wait for the last answers; how many never came."""
    for asker in askers:
        asker.then = lambda asker: None
    return await _left(askers, _LAST_SECONDS)


async def _left(askers: Sequence[Asker], seconds: float) -> int:
    """Requests without an answer, at most ``seconds`` from now."""

    def left() -> int:
        return sum(len(asker.waiting) for asker in askers)

    with contextlib.suppress(AssertionError):
        await eventually(lambda: not left(), timeout=seconds)
    return left()
