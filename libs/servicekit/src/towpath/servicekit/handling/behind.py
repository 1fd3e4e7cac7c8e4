"""Results behind group changes: they wait for the broker's confirms, and no other result waits with them.

A result that changes groups or replays streams is published in steps, with a wait for confirms in between
(:mod:`towpath.servicekit.handling.publishing`). It goes *behind*, into a part of its own, and the main path goes on.
Results that must not overtake it go with it, in order: later ones of its sequence (sender and ordering key), and
those that push to a group or user that it names. So a user who joins a room gets the answer before the room's next
message, and a message of another room does not wait for the join.

Guarantee: results of one sequence, and pushes with one routing key, are published in the order of their units.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Final

from towpath.protocol.routes import PUSH, decode_word
from towpath.servicekit.handling.result import Result
from towpath.servicekit.messaging.confirms import PendingConfirms

#: The first word of a routing key of a push to a group.
_GROUP: Final = "group"


class Part:
    """Results of one unit that are published together, after those of all earlier parts.

    Attributes:
        held: Its keys, which later results share if they must not overtake it: see :func:`_keys`.
        confirms: Of all that was queued, once it is ``published``.
    """

    def __init__(self, results: Sequence[Result], held: Counter[Hashable]) -> None:
        self.results = results
        self.held = held
        self.confirms = PendingConfirms()
        self.published = asyncio.Event()


class Behind:
    """The parts whose results are not published yet, in order."""

    def __init__(self) -> None:
        self._held: Counter[Hashable] = Counter()
        self._parts: deque[Part] = deque()
        self._added = asyncio.Event()

    def divide(self, results: Sequence[Result]) -> tuple[Sequence[Result], Part | None]:
        """Divide the results of a unit into those to publish now, and those that go behind (:meth:`run`)."""
        if not self._held and not any(map(_waits, results)):
            return results, None
        keyed = [(result, _keys(result)) for result in results]
        # Of the whole unit first: what an earlier result of it pushes to the group follows the change as well, so
        # that a replay need not include it.
        reserved = set[Hashable]().union(*(keys for result, keys in keyed if _waits(result)))
        now: list[Result] = []
        later: list[Result] = []
        held = Counter[Hashable]()
        for result, keys in keyed:
            if keys.isdisjoint(reserved) and self._held.keys().isdisjoint(keys):
                now.append(result)
                continue
            later.append(result)
            reserved |= keys
            held.update(keys)
        if not later:
            return now, None
        part = Part(later, held)
        self._held += held
        self._parts.append(part)
        self._added.set()
        return now, part

    async def run(self, publish: Callable[[Sequence[Result]], Awaitable[PendingConfirms]]) -> None:
        """Publish one part after the other, until cancelled."""
        while True:
            self._added.clear()
            while self._parts:
                part = self._parts[0]
                part.confirms = await publish(part.results)
                # Only now: what is divided meanwhile must not overtake it.
                self._parts.popleft()
                self._held -= part.held
                part.published.set()
            await self._added.wait()

    async def published(self) -> None:
        """Wait until what is behind now is published."""
        if self._parts:
            await self._parts[-1].published.wait()


def _waits(result: Result) -> bool:
    return bool(result.stored.changes_groups or result.stored.replay)


def _keys(result: Result) -> set[Hashable]:
    """The sequence of a result, the groups that it names or pushes to, and the routing keys of its other pushes."""
    stored = result.stored
    keys: set[Hashable] = {result.request.sequence_key}
    keys |= stored.names
    keys.update(leave.group for leave in stored.leaves)
    for item in stored.outgoing:
        if item.exchange == PUSH:
            kind, _, word = item.routing_key.partition(".")
            keys.add(decode_word(word) if kind == _GROUP else item.routing_key)
    return keys
