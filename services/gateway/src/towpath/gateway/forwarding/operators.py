"""Questions of operators: each is answered with a report of this replica, and a request to drain stops it.

Guarantees:

* Nothing waits for a question: it is queued, and dropped if :data:`_WAITING_MAX` wait already. One is answered after
  another, :data:`_PER_SECOND` a second at most, so that questions cost connections nothing that they notice.
* A report goes to the one key that its asker's queue is bound to; it has ids and numbers, and no content.
* A request to drain takes effect only if it names this run of this gateway.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Protocol

import msgspec
import structlog

from towpath.gateway.admission.descriptor_share import DescriptorShare
from towpath.gateway.inbox.routing import Routing
from towpath.gateway.sessions.members import Members
from towpath.gateway.sessions.session import Session
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.envelope import now_ms
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.operators import (
    ASK_ALL,
    ConnectionReport,
    GatewayReport,
    Question,
    ask_key,
    drain_key,
    read_drain,
    read_question,
    report_key,
)
from towpath.protocol.routes import PUSH, group_key, user_key
from towpath.servicekit.broker.interface import Broker, BrokerError, Message
from towpath.servicekit.runtime.health import Health
from towpath.servicekit.runtime.sampled_log import SampledLog
from towpath.servicekit.runtime.telemetry import Telemetry

log = structlog.get_logger(__name__)

_WAITING_MAX: Final = 16
_PER_SECOND: Final = 20
_PUBLISH_TIMEOUT: Final = 5.0
_NAME_LETTERS: Final = 256


class Slow(Protocol):
    """A connection with bytes to be written."""

    connection_id: str
    owner: str
    closing: bool


class Backlogs(Protocol):
    """The bytes that wait for clients."""

    def largest(self) -> Sequence[tuple[Slow, int]]:
        """The connections with waiting bytes, the largest first."""
        ...


class Operators:
    """Answers operators; see :meth:`run`.

    Args:
        incarnation: This run of the gateway.
        drain: Makes this replica stop, as a signal does.
    """

    def __init__(
        self,
        broker: Broker,
        members: Members,
        backlogs: Backlogs,
        routing: Routing,
        share: DescriptorShare,
        health: Health,
        settings: GatewaySettings,
        telemetry: Telemetry,
        *,
        incarnation: str,
        drain: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._members = members
        self._backlogs = backlogs
        self._routing = routing
        self._share = share
        self._health = health
        self._settings = settings
        self._incarnation = incarnation
        self._drain = drain
        self._started = time.monotonic()
        self._ask_keys = (ASK_ALL, ask_key(settings.gateway_id))
        self._drain_key = drain_key(settings.gateway_id)
        self._waiting: asyncio.Queue[Question] = asyncio.Queue(_WAITING_MAX)
        self._refused = SampledLog(
            "operator_request_refused",
            telemetry.counter("operator_requests_refused", "Questions of operators that were not answered"),
        )

    def received(self, key: str, body: bytes) -> None:
        """Take a message that no connection is addressed by; what is not for operators is ignored."""
        try:
            if key in self._ask_keys:
                self._waiting.put_nowait(_checked(read_question(body)))
            elif key == self._drain_key:
                self._take_drain(read_drain(body).incarnation)
        except (BadEnvelope, ValueError) as error:
            self._refused.add(routing_key=key, error=str(error)[:300])
        except asyncio.QueueFull:
            self._refused.add(routing_key=key, error=f"{_WAITING_MAX} questions wait already")

    async def run(self) -> None:
        """Answer questions until cancelled."""
        while True:
            question = await self._waiting.get()
            body = msgspec.json.encode(self.report(question))
            try:
                message = Message(body=body, persistent=False, app_id="gateway")
                await self._broker.publish(
                    PUSH, report_key(question.asker), message, timeout=_PUBLISH_TIMEOUT
                )
            except BrokerError as error:
                self._refused.add(error=str(error)[:300])
            await asyncio.sleep(1 / _PER_SECOND)

    def report(self, question: Question) -> GatewayReport:
        """The state of this replica now."""
        members, settings = self._members, self._settings
        backlogs = self._backlogs.largest()
        of_user = list(members.receivers_of(user_key(question.user_id))) if question.user_id else []
        in_group = members.receivers_of(group_key(question.group)) if question.group else ()
        return GatewayReport(
            gateway_id=settings.gateway_id,
            incarnation=self._incarnation,
            version=_version(),
            at=now_ms(),
            up_seconds=round(time.monotonic() - self._started, 1),
            failing=self._health.failing(),
            development=settings.development,
            connections=len(members),
            users=members.users,
            groups=members.groups,
            connections_max=self._share.connections,
            connections_wanted=settings.max_connections,
            descriptors=self._share.limit,
            waiting=self._routing.waiting,
            is_selective=self._routing.is_selective,
            backlog_bytes=sum(size for _, size in backlogs),
            backlogged=len(backlogs),
            slowest=[_slow(one, size) for one, size in backlogs[: question.most]],
            of_user=list(_connections(of_user[: question.most], set(in_group))),
            of_user_count=len(of_user),
            in_group=len(in_group),
        )

    def _take_drain(self, incarnation: str) -> None:
        if incarnation != self._incarnation:
            self._refused.add(error="a request to drain names another run of this gateway")
            return
        log.info("drain_requested")
        self._drain()


def _checked(question: Question) -> Question:
    """The same question.

    Raises:
        ValueError: Its user or group cannot be a word of a routing key.
    """
    for key, word in ((user_key, question.user_id), (group_key, question.group)):
        if word:
            key(word)
    return question


def _connections(sessions: Iterable[Session], in_group: "set[Session]") -> Iterator[ConnectionReport]:
    for session in sessions:
        yield ConnectionReport(
            session.connection_id,
            session.user_id,
            session.backlog_bytes,
            session in in_group,
            session.is_closing,
        )


def _slow(one: Slow, size: int) -> ConnectionReport:
    return ConnectionReport(one.connection_id, one.owner[:_NAME_LETTERS], size, closing=one.closing)


def _version() -> str:
    try:
        return version("towpath-gateway")
    except PackageNotFoundError:  # run from source
        return ""
