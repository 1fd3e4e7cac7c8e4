"""The replica: all parts of one gateway, built once and connected here, and the sessions that pass through them.

Guarantees: no session is opened while the replica is not ready (503), is full (503), or before pushes to its user
reach it; none is opened with a revoked token. A user over ``max_connections_per_user`` keeps the newest connections.
Each session that opens is announced, and so is its end.
"""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import Final

from towpath.gateway.admission.connect_rates import ConnectRates
from towpath.gateway.admission.credentials import Admission
from towpath.gateway.admission.descriptor_share import DescriptorShare
from towpath.gateway.admission.reasons import Reason
from towpath.gateway.forwarding.costs import Costs
from towpath.gateway.forwarding.inbound import Inbound
from towpath.gateway.forwarding.operators import Operators
from towpath.gateway.forwarding.outbound import Outbound
from towpath.gateway.forwarding.request_spans import RequestSpans
from towpath.gateway.forwarding.revoking import REASON, Revoking
from towpath.gateway.inbox.probe import Probe
from towpath.gateway.inbox.queue import inbox
from towpath.gateway.inbox.resync import Resync
from towpath.gateway.inbox.routing import Routing
from towpath.gateway.sessions.announcer import Announcer
from towpath.gateway.sessions.limits import Limits
from towpath.gateway.sessions.members import Members
from towpath.gateway.sessions.session import Session
from towpath.gateway.settings import GatewaySettings
from towpath.gateway.websocket.handshake import Handshake
from towpath.gateway.websocket.listener import Listener
from towpath.gateway.websocket.socket import Shared, Socket
from towpath.protocol.close_codes import CloseCode
from towpath.servicekit.broker.interface import Broker, BrokerState
from towpath.servicekit.broker.losses import watch_broker, watch_losses
from towpath.servicekit.messaging.consumer import Consumer
from towpath.servicekit.messaging.lanes import Lanes
from towpath.servicekit.runtime.health import Health
from towpath.servicekit.runtime.metrics import OTHER
from towpath.servicekit.runtime.telemetry import Telemetry

#: Beside ours those of clients that end properly, that say nothing, and that are lost. RFC 6455, section 7.4.1
_CLOSE_CODES: Final = (*(str(int(code)) for code in CloseCode), "1000", "1001", "1005", "1006")


@dataclass(frozen=True, slots=True)
class BrokerAccess:
    """A replica's access to the broker: the connection, and the lanes to the exchanges of commands and events.

    Attributes:
        revocations: A second connection, for the log of revocations alone; ``None`` if they are off.
    """

    broker: Broker
    commands: Lanes
    events: Lanes
    revocations: Broker | None = None


class Replica:
    """One gateway. It is the :class:`~towpath.gateway.websocket.listener.Host` of its listener.

    Args:
        health: Gets the check of the broker; new connections are refused while any check fails.
        share: The connections that the descriptors allow.
        drain: Makes the program stop, as a signal does.

    Attributes:
        consumer: Reads the inbox, and delivers to sessions.
        receive: Handles one text message of a session.
        request_spans: The open spans of sampled requests.
        operators: Answers the questions of operators.
        revoking: Reads revocations, and closes the sessions that they name; ``None`` if they are off.
    """

    def __init__(
        self,
        access: BrokerAccess,
        admission: Admission,
        share: DescriptorShare,
        health: Health,
        settings: GatewaySettings,
        telemetry: Telemetry,
        *,
        drain: Callable[[], None],
    ) -> None:
        broker = access.broker
        self._settings = settings
        self._health = health
        self._share = share
        self.members = Members(settings.groups_per_connection)
        self._limits = Limits(settings, telemetry)
        costs = Costs(telemetry)
        self.request_spans = RequestSpans(settings, telemetry)

        # From clients to the broker.
        rates = ConnectRates(settings, telemetry)
        shared = Shared.of(share, rates, settings, telemetry)
        self.listener = Listener(
            self,
            Handshake(admission, rates, self.refusing, settings, telemetry),
            shared,
            settings,
        )
        self.receive = Inbound(
            access.commands, admission, costs, settings, telemetry, self.request_spans
        ).receive

        # From the broker to clients.
        source = inbox(settings.gateway_id)
        self.routing = Routing(broker, source, settings, telemetry)
        watch_broker(broker, telemetry)
        found = watch_losses(broker, telemetry)
        self.probe = Probe(broker, self.routing.routes, settings, telemetry, found)
        self.announcer = Announcer(access.events, settings, telemetry)
        self.operators = Operators(
            broker,
            self.members,
            shared.backlog,
            self.routing,
            share,
            health,
            settings,
            telemetry,
            incarnation=self.announcer.incarnation,
            drain=drain,
        )
        outbound = Outbound(
            self.members,
            self.probe,
            costs,
            telemetry,
            self.request_spans,
            for_operators=self.operators.received,
        )
        self.consumer = Consumer(
            partial(broker.subscribe, source, prefetch=settings.prefetch),
            outbound.dispatch,
            intake_max_bytes=settings.batch_max_bytes,
        )

        self._revocations = admission.revocations
        self.revoking = self._revoking_of(access, telemetry)

        # From sessions to services.
        self.resync = Resync(self.members, self.announcer, settings, telemetry)
        broker.on_rebuilt(self.announcer.announce)
        broker.on_rebuilt(self.resync.begin)

        health.add("broker", lambda: broker.state is BrokerState.READY)
        telemetry.gauge("connection_active", "Open connections", lambda: len(self.members))
        self._opened = telemetry.counter("connections_opened", "Connections that were admitted")
        self._closed = {
            code: telemetry.counter(
                "connections_closed", "Connections that ended, by close code", {"code": code}
            )
            for code in (*_CLOSE_CODES, OTHER)
        }

    def _revoking_of(self, access: BrokerAccess, telemetry: Telemetry) -> Revoking | None:
        if access.revocations is None:
            return None
        revoking = Revoking(access.revocations, self._revocations, self.members, self._settings, telemetry)
        self._health.add("revocations", lambda: revoking.is_current)
        return revoking

    def refusing(self) -> tuple[Reason, str] | None:
        """Why new connections are refused for now, in a word and as a text; ``None`` while they are accepted."""
        if failing := self._health.failing():
            return Reason.NOT_READY, f"not ready ({', '.join(failing)}); try again"
        # Connections that wait for their routing have a descriptor, and will be members soon.
        count = len(self.members) + self.routing.waiting
        return (Reason.FULL, "full; try again") if count >= self._share.connections else None

    def routed_to(self, user_id: str) -> AbstractAsyncContextManager[None]:
        """See :meth:`towpath.gateway.inbox.routing.Routing.routed_to`."""
        return self.routing.routed_to(user_id)

    def open(self, socket: Socket) -> Session:
        """Open the session of an admitted connection."""
        session = Session(socket, socket.identity, self._settings, self._limits)
        session.welcome()  # Before it is a member: the welcome is its first frame, and pushes follow.
        if self._revocations.refuses(socket.identity, time.time()):
            # Revoked after its handshake was checked, and the pass over all members did not find it.
            session.close(CloseCode.KICKED, REASON)
            return session
        self.members.add(session)
        self._opened.add(1)
        if oldest := self.members.oldest_over(session.user_id, self._settings.max_connections_per_user):
            self.members.remove(oldest)
            oldest.close(CloseCode.REPLACED, "too many connections of this user")
        self.announcer.started(session)
        return session

    def close(self, session: Session, code: int | None) -> None:
        """The connection of a session has ended."""
        self.members.remove(session)
        self._closed.get(str(code or 1006), self._closed[OTHER]).add(1)
        self.announcer.ended(session, code)
