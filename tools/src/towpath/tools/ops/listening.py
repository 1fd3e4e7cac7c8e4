"""Listening: the answers of gateways to questions, and the announcements of all programs, in one queue of our own.

Guarantees: the queue is exclusive to this connection, bounded, and gone with it. A message that cannot be read is
left out. Memory is bounded: more programs than :data:`PROGRAMS_MAX` are not remembered, whatever is announced.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from towpath.protocol.envelope import Envelope, now_ms, parse
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import split_batch
from towpath.protocol.operators import ASK_ALL, GatewayReport, Question, ask_key, read_report, report_key
from towpath.protocol.routes import EVENTS, PUSH, SERVICE_ALIVE, SERVICE_REPLICA, SESSION_ALIVE
from towpath.protocol.services import ServiceAlive, ServiceReplica
from towpath.protocol.sessions import GatewayAlive
from towpath.servicekit.broker.interface import Binding, Broker, Delivery, Inbox, Message

PROGRAMS_MAX: Final = 2_000
#: A program that has announced nothing for this time no longer counts; services announce themselves every 5 s.
SILENT_SECONDS: Final = 12.0
_PUBLISH_SECONDS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Heard:
    """One announcement, or one answer.

    Attributes:
        ahead_seconds: How much the clock of its sender is ahead of ours; of an answer, give or take half of the time
            that it took.
        heard_at: On the monotonic clock.
    """

    ahead_seconds: float
    heard_at: float


@dataclass(slots=True)
class Programs:
    """The programs that were heard, each with the last that it said.

    Attributes:
        reports: Gateway and its run → its report. Two runs under one name are two programs.
        gateways: Gateway and its run, from announcements.
        services: Service and domain, from announcements.
        replicas: Service and replica → the queues that it consumes.
    """

    reports: dict[tuple[str, str], tuple[GatewayReport, Heard]] = field(default_factory=dict)
    gateways: dict[tuple[str, str], Heard] = field(default_factory=dict)
    services: dict[tuple[str, str], Heard] = field(default_factory=dict)
    replicas: dict[tuple[str, str], tuple[frozenset[str], Heard]] = field(default_factory=dict)

    def claimed(self) -> set[str]:
        """The queues that some replica says it consumes."""
        return set().union(*(queues for queues, _ in self.replicas.values()))

    def forget_silent(self, now: float) -> None:
        """Forget programs that have been silent for long."""
        limit = now - SILENT_SECONDS
        self.reports = {name: one for name, one in self.reports.items() if one[1].heard_at > limit}
        self.replicas = {name: one for name, one in self.replicas.items() if one[1].heard_at > limit}
        self.gateways = {name: heard for name, heard in self.gateways.items() if heard.heard_at > limit}
        self.services = {name: heard for name, heard in self.services.items() if heard.heard_at > limit}


class Listening:
    """See the module; made with :meth:`begin`.

    Attributes:
        programs: Those that were heard so far.
        changed: Set with each message.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._asker = f"ops-{secrets.token_hex(8)}"
        self._asked_ms = now_ms()
        self.programs = Programs()
        self.changed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def begin(cls, broker: Broker) -> AsyncIterator["Listening"]:
        """Listen from entry to exit.

        Raises:
            BrokerRefused: The account may not.
            BrokerError: The broker did not answer in time.
        """
        listening = cls(broker)
        bindings = [
            Binding(PUSH, report_key(listening._asker)),
            *(Binding(EVENTS, key) for key in (SERVICE_ALIVE, SERVICE_REPLICA, SESSION_ALIVE)),
        ]
        inbox = Inbox(name="ops.listening", bindings=bindings, max_length=10_000, message_ttl_ms=10_000)
        async with broker.subscribe(inbox, prefetch=200) as deliveries:

            async def read() -> None:
                async for delivery in deliveries:
                    listening._take(delivery)
                    delivery.ack()
                    listening.changed.set()

            reading = asyncio.create_task(read(), name="ops: listen")
            try:
                yield listening
            finally:
                reading.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await reading

    async def ask(
        self, gateway: str | None = None, *, user: str = "", group: str = "", most: int = 20
    ) -> None:
        """Ask one gateway, or all; their answers arrive in :attr:`programs`.

        Raises:
            Unroutable: There is no such gateway, or none at all.
            Unpublishable: The account may not.
            BrokerBlocked, BrokerError: It was not published.
        """
        key = ASK_ALL if gateway is None else ask_key(gateway)
        body = msgspec.json.encode(Question(self._asker, user, group, most))
        self._asked_ms = now_ms()
        message = Message(body=body, persistent=False, app_id="towpath-ops")
        await self._broker.publish(PUSH, key, message, mandatory=True, timeout=_PUBLISH_SECONDS)

    async def until(self, deadline: float) -> bool:
        """Wait for the next message; false once the loop's time is ``deadline``."""
        self.changed.clear()
        try:
            async with asyncio.timeout_at(deadline):
                await self.changed.wait()
        except TimeoutError:
            return False
        return True

    def _take(self, delivery: Delivery) -> None:
        if delivery.routing_key == report_key(self._asker):
            with contextlib.suppress(BadEnvelope):
                self._take_report(read_report(delivery.body))
            return
        with contextlib.suppress(BadEnvelope, ValueError, RecursionError):
            for item in split_batch(delivery.body):
                self._take_announcement(delivery.routing_key, parse(item))

    def _take_report(self, report: GatewayReport) -> None:
        middle = (self._asked_ms + now_ms()) / 2
        heard = Heard((report.at - middle) / 1000, time.monotonic())
        _remember(self.programs.reports, (report.gateway_id, report.incarnation), (report, heard))

    def _take_announcement(self, key: str, envelope: Envelope) -> None:
        programs = self.programs
        heard = Heard((envelope.timestamp - now_ms()) / 1000, time.monotonic())
        if key == SESSION_ALIVE:
            gateway = GatewayAlive.model_validate(envelope.data)
            _remember(programs.gateways, (gateway.gateway_id, gateway.incarnation), heard)
        elif key == SERVICE_ALIVE:
            service = ServiceAlive.model_validate(envelope.data)
            _remember(programs.services, (service.service, service.domain), heard)
        elif key == SERVICE_REPLICA:
            replica = ServiceReplica.model_validate(envelope.data)
            name = replica.service, replica.replica
            if replica.leaves:
                programs.replicas.pop(name, None)
            else:
                _remember(programs.replicas, name, (frozenset(replica.queues), heard))


def _remember(programs: dict[tuple[str, str], Any], name: tuple[str, str], heard: Any) -> None:
    if name in programs or len(programs) < PROGRAMS_MAX:
        programs[name] = heard
