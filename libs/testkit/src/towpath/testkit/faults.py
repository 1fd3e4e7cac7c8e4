"""Faults of a broker in memory: messages that come twice, late or in another order, and a broker that is away.

Each is what RabbitMQ and its publishers may do without an error: a publisher repeats a message whose confirm was
lost, messages of two publishers have no order, a broker restarts. Guarantee: no message is lost by a fault of this
module; a message that is held or delayed is delivered when the fault ends.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from towpath.protocol.envelope import parse
from towpath.protocol.errors import TowpathError
from towpath.protocol.messages import read_command, read_directed, split_batch
from towpath.protocol.routes import COMMANDS, EVENTS, PUSH, RETRY_DELAYS, dead_queue, retry_queue
from towpath.servicekit.broker.interface import BrokerError
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.broker.memory_message import HeldMessage
from towpath.servicekit.broker.memory_vhost import VirtualHost

#: Messages that :attr:`FaultyHub.published` keeps; the oldest are dropped.
_KEPT: Final = 10_000
#: Answers and instructions for gateways: an item of these may hold an envelope.
_DIRECTED: Final = ("connection.", "control.")


class FaultyHub(MemoryHub):
    """A broker in memory for tests.

    Attributes:
        faults: The faults that a test may cause.
    """

    def __init__(self) -> None:
        super().__init__()
        self._host = _FaultyHost()
        self.vhost = self._host
        self.faults = Faults(self, self._host)

    @property
    def published(self) -> list[HeldMessage]:
        """The last messages that were published, oldest first."""
        return list(self._host.published)

    @property
    def publishes(self) -> int:
        """The number of all messages that were published."""
        return self._host.publishes

    def unfinished(self) -> Mapping[str, int]:
        """Queue → messages that wait in it, or are delivered and not settled; without retry and dead queues.

        The key ``delayed`` has those that a fault delays.
        """
        found = {name: len(queue) + queue.unsettled for name, queue in self._host.queues.items()}
        found = {name: count for name, count in found.items() if count and not _is_at_rest(name)}
        if self._host.delayed:
            found["delayed"] = len(self._host.delayed)
        return found


class Faults:
    """The faults of one broker in memory.

    An action may have wildcards: ``order.*``. A message of several envelopes is affected as a whole if one of them
    has the action.
    """

    def __init__(self, hub: MemoryHub, host: "_FaultyHost") -> None:
        self._hub = hub
        self._host = host

    @contextmanager
    def duplicated(self, action: str) -> Iterator[None]:
        """Each message with this action comes twice: its publisher repeats it."""

        def twice(message: HeldMessage, publish: "_Publish") -> BrokerError | None:
            problem = publish(message)
            return publish(message) or problem

        with self._rule(action, twice):
            yield

    @contextmanager
    def delayed(self, action: str, seconds: float) -> Iterator[None]:
        """Each message with this action comes ``seconds`` later, also after the end of the block."""
        loop = asyncio.get_running_loop()

        def later(message: HeldMessage, publish: "_Publish") -> BrokerError | None:
            self._host.delayed.append(message)

            def deliver() -> None:
                self._host.delayed.remove(message)
                publish(message)

            loop.call_later(seconds, deliver)
            return None

        with self._rule(action, later):
            yield

    @contextmanager
    def reordered(self, action: str) -> Iterator[None]:
        """Messages with this action are held; at the end of the block they come, the last one first."""
        with self.held(action) as held:
            yield
            held.reverse()

    @contextmanager
    def held(self, action: str) -> Iterator[list[HeldMessage]]:
        """Messages with this action are held; at the end of the block they come, in the order of the list.

        Publishers get their confirms. Gives the list of the held messages.
        """
        held: list[tuple[HeldMessage, _Publish]] = []
        messages: list[HeldMessage] = []

        def hold(message: HeldMessage, publish: "_Publish") -> BrokerError | None:
            held.append((message, publish))
            messages.append(message)
            return None

        try:
            with self._rule(action, hold):
                yield messages
        finally:
            publishes = {id(message): publish for message, publish in held}
            for message in messages:
                publishes[id(message)](message)

    @contextmanager
    def broker_away(self) -> Iterator[None]:
        """The broker is stopped until the end of the block: connections drop, what is unsettled is redelivered."""
        self._hub.stop()
        try:
            yield
        finally:
            self._hub.start()

    @contextmanager
    def broker_blocked(self) -> Iterator[None]:
        """The broker accepts no messages, as RabbitMQ under its memory alarm, and delivers what it has."""
        self._hub.block()
        try:
            yield
        finally:
            self._hub.unblock()

    @contextmanager
    def confirms_held(self) -> Iterator[None]:
        """The broker accepts messages, and confirms them at the end of the block."""
        self._hub.hold_confirms()
        try:
            yield
        finally:
            self._hub.release_confirms()

    @contextmanager
    def _rule(self, action: str, apply: "_Apply") -> Iterator[None]:
        rule = _Rule(action, apply)
        self._host.rules.append(rule)
        try:
            yield
        finally:
            self._host.rules.remove(rule)


def actions_of(message: HeldMessage) -> list[str]:
    """The actions of the envelopes in a message; none if it cannot be read."""
    with contextlib.suppress(TowpathError, ValueError):
        if message.exchange == COMMANDS:
            commands = [read_command(item) for item in split_batch(message.body)]
            return [str(command.envelope.get("action", "")) for command in commands]
        if message.exchange == PUSH and message.routing_key.startswith(_DIRECTED):
            envelopes = [bytes(item.envelope) for item in read_directed(message.body)]
            return [parse(envelope).action for envelope in envelopes if envelope]
        if message.exchange in (EVENTS, PUSH):
            return [parse(item).action for item in split_batch(message.body)]
    return []


_Publish = Callable[[HeldMessage], BrokerError | None]
_Apply = Callable[[HeldMessage, _Publish], BrokerError | None]


@dataclass(frozen=True, slots=True, eq=False)
class _Rule:
    action: str
    apply: _Apply

    def matches(self, message: HeldMessage) -> bool:
        return any(fnmatchcase(action, self.action) for action in actions_of(message))


class _FaultyHost(VirtualHost):
    """A virtual host in which rules decide when a published message is routed."""

    def __init__(self) -> None:
        super().__init__()
        self.rules: list[_Rule] = []
        self.delayed: list[HeldMessage] = []
        self.published: deque[HeldMessage] = deque(maxlen=_KEPT)
        self.publishes = 0

    def publish(self, message: HeldMessage, *, mandatory: bool) -> BrokerError | None:
        self.publishes += 1
        self.published.append(message)

        def publish(one: HeldMessage) -> BrokerError | None:
            return super(_FaultyHost, self).publish(one, mandatory=mandatory)

        for rule in self.rules:
            if rule.matches(message):
                return rule.apply(message, publish)
        return publish(message)


def _is_at_rest(queue: str) -> bool:
    """Whether messages of a queue wait for an operator, or for minutes."""
    service = queue.partition(".")[0]
    return queue == dead_queue(service) or queue in {retry_queue(service, delay) for delay in RETRY_DELAYS}
