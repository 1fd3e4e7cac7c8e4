"""Outbound: deliveries from the gateway inbox → the addressed connections.

A push arrives once per replica; local tables give its receivers; it is checked and framed once and written to many.

Guarantees: a malformed message from a service or a backend never ends this program, never closes a client's
connection, and never reaches a client; it is dropped, logged and counted, and affects no other message. Each
connection gets its pushes in the order in which they arrived. For a push to any number of connections, the event
loop serves other tasks every few milliseconds.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

import structlog

from towpath.gateway.forwarding import directed
from towpath.gateway.forwarding.costs import Costs
from towpath.gateway.forwarding.directed import GroupChange, Item
from towpath.gateway.forwarding.request_spans import RequestSpans
from towpath.gateway.sessions.members import Members
from towpath.gateway.sessions.session import Session
from towpath.gateway.websocket.frames import text_frame
from towpath.protocol.close_codes import CloseCode
from towpath.protocol.envelope import Envelope, Head, checked, now_ms, parse
from towpath.protocol.errors import BadEnvelope
from towpath.protocol.routes import EVERYONE, PROBE, PUSH, SERVICE_ALIVE, decode_word, encode_word
from towpath.servicekit.broker.interface import Delivery, undecodable
from towpath.servicekit.runtime import conventions
from towpath.servicekit.runtime.sampled_log import SampledLog
from towpath.servicekit.runtime.telemetry import Labelled, Telemetry
from towpath.servicekit.runtime.time_slices import Turn

log = structlog.get_logger(__name__)

#: A close frame has 125 bytes at most, two of them for the code (RFC 6455, section 5.5).
_MAX_REASON_BYTES: Final = 120
_KINDS: Final = ("user", "group", "control", "other")
#: Connections that are written to between two checks of the clock: some 0.2 ms of system calls.
_WRITES: Final = 32
#: Groups of one item that are entered or left between two checks of the clock: some 0.5 ms.
_GROUPS: Final = 1000
#: Kinds of keys that belong to probes, unless a push has the key (:mod:`towpath.gateway.inbox.probe`).
_PROBED: Final = ("connection", EVERYONE, PROBE)
#: Seconds: a larger delay is a wrong clock, or an old timestamp of a backend.
_DELAY_MAX: Final = 3600.0
#: A routing key with only characters that need no encoding, which is therefore spelled correctly.
_PLAIN_KEY: Final = re.compile(r"[a-z]+(?:\.[A-Za-z0-9_:-]+)?")


class Arrivals(Protocol):
    """The observer of arrivals in the inbox: the probe, which waits for its own messages among them."""

    def arrived(self) -> None:
        """Something has arrived."""
        ...

    def received(self, key: str) -> None:
        """Something has arrived that may be a probe: under a key that addresses no connection, or a control key."""
        ...


class Outbound:
    """Delivers to the connections of this replica.

    Args:
        for_operators: Called with the key and body of what may be a question of an operator.
    """

    def __init__(
        self,
        members: Members,
        arrivals: Arrivals,
        costs: Costs,
        telemetry: Telemetry,
        spans: RequestSpans,
        *,
        for_operators: Callable[[str, bytes], None] = lambda key, body: None,
    ) -> None:
        self._telemetry = telemetry
        self._spans = spans
        self._members = members
        self._for_operators = for_operators
        self._arrivals = arrivals
        self._costs = costs
        self._slice = Turn()
        self._delivered = telemetry.counter("messages_delivered", "Frames handed to connections")
        self._delays = Labelled(
            lambda domain: telemetry.histogram(
                "push_delay",
                "Time from a push's timestamp, by its sender's clock, until it is handed to all its sockets here",
                {"domain": domain},
            )
        )
        self._foreign = {
            kind: telemetry.counter(
                "pushes_for_others", "Deliveries without a receiver on this replica", {"kind": kind}
            )
            for kind in _KINDS
        }
        self._unreadable = SampledLog(
            "push_dropped", telemetry.counter("pushes_unreadable", "Pushes dropped as no envelopes")
        )
        self._bad_items = SampledLog(
            "directed_item_dropped",
            telemetry.counter("directed_items_dropped", "Directed items that could not be carried out"),
        )
        self._misspelled = SampledLog(
            "routing_key_misspelled",
            telemetry.counter("pushes_misspelled", "Pushes whose routing key is not encoded as it must be"),
        )
        self._groups_refused = SampledLog(
            "groups_refused",
            telemetry.counter("groups_refused", "Groups over groups_per_connection, not subscribed to"),
        )
        self._failed = telemetry.counter("pushes_failed", "Pushes dropped after an unexpected error")

    async def dispatch(self, deliveries: Sequence[Delivery]) -> None:
        """Deliver, then ack, one after the other: the order of pushes is the order of deliveries.

        Each is acked, whatever happens: a push is not kept for later, as clients resume from their services' streams.
        """
        self._arrivals.arrived()
        self._slice = Turn()
        for delivery in deliveries:
            try:
                if (odd := undecodable(delivery)) is not None:
                    self._unreadable.add(routing_key=delivery.routing_key, error=f"cannot be decoded: {odd}")
                else:
                    await self._deliver(delivery)
            except Exception:
                self._failed.add(1)
                log.exception("push_failed", routing_key=delivery.routing_key[:255])
            delivery.ack()
            if self._slice.is_over():
                await self._slice.next()

    async def _deliver(self, delivery: Delivery) -> None:
        key, body = delivery.routing_key, delivery.body
        kind, _, word = key.partition(".")
        if kind == "connection" and "." not in word:
            await self._direct_to_connections(delivery)
        elif kind == "control":
            await self._direct_to_user(delivery)
        elif key == SERVICE_ALIVE:
            await self._take_costs(key, body)
        elif key == EVERYONE:
            await self._push(key, body, self._members.all())
        else:
            await self._push(key, body, self._members.receivers_of(key))

    async def _take_costs(self, key: str, body: bytes) -> None:
        """Store the costs that services announce."""
        for text in directed.split(body):
            try:
                if isinstance(text, BadEnvelope):
                    raise text
                self._costs.store(parse(text))
            except BadEnvelope as error:
                self._unreadable.add(routing_key=key, error=error.message, details=error.details)
            if self._slice.is_over():
                await self._slice.next()

    async def _direct_to_connections(self, delivery: Delivery) -> None:
        """Items on ``connection.<gateway>``: each names its connection."""
        traces, since = self._traces()
        count = 0
        for item in directed.read(delivery.body):
            if item is None:
                pass  # a part of an item's many groups was read
            elif isinstance(item, BadEnvelope):
                self._drop_item(delivery.routing_key, item)
            elif item.connection_id is None:
                self._drop_item(delivery.routing_key, BadEnvelope("The item names no connection_id."))
            elif (session := self._members.connection(item.connection_id)) is not None:
                # Groups, envelope, close: the contract's order (protocol.md, "RabbitMQ"). An entry that follows a
                # `subscribe` in one item is for a member.
                if item.groups is not None:
                    await self._change_groups(session, item.groups, delivery)
                self._direct(session, item)
                count += 1
                if traces is not None and (trace := item.traceparent) and self._telemetry.is_recorded(trace):
                    traces.append(trace)
            # Else its connection has ended.
            if self._slice.is_over():
                await self._slice.next()
        if traces:
            self._record(traces, since, "connection", count, count)

    async def _direct_to_user(self, delivery: Delivery) -> None:
        """Items on ``control.<user>``: each is for all connections of the user."""
        key = delivery.routing_key
        self._arrivals.received(key)
        if not (sessions := list(self._members.receivers_of(key))):
            self._count_unaddressed("control", key)
        for item in directed.read(delivery.body):
            if isinstance(item, BadEnvelope):
                self._drop_item(key, item)
            elif item is not None:
                for session in sessions:
                    if item.groups is not None:
                        await self._change_groups(session, item.groups, delivery, is_control=True)
                    self._direct(session, item)
                    if self._slice.is_over():
                        await self._slice.next()
            if self._slice.is_over():
                await self._slice.next()

    async def _push(self, key: str, body: bytes, receivers: Iterable[Session]) -> None:
        receivers = list(receivers)  # A copy: connections may end whenever this yields to other tasks.
        if not receivers:
            # Usual with catch-alls and several replicas: one look-up, and the body is not parsed (docs/adr/0006).
            kind = key.partition(".")[0]
            if kind not in _PROBED or key == EVERYONE:
                self._count_unaddressed(kind, key)
            # It may be a probe, of this replica or of another one.
            self._arrivals.received(key)
            if kind in _PROBED:
                self._for_operators(key, body)
            return
        frames: list[bytes] = []
        first: Head | Envelope | None = None
        traces, since = self._traces()
        for text in directed.split(body):
            try:
                if isinstance(text, BadEnvelope):
                    raise text
                head = checked(text)
            except BadEnvelope as error:
                self._unreadable.add(routing_key=key, error=error.message, details=error.details)
            else:
                frames.append(text_frame(text))
                first = first or head
                if traces is not None and (trace := self._spans.of_push(head.traceparent)) is not None:
                    traces.append(trace)
            if self._slice.is_over():
                await self._slice.next()
        if first is None:
            return
        joined = b"".join(frames)
        if len(receivers) == 1:
            receivers[0].send_frames(joined)
        else:
            # A second frame for one of them is unlikely within this loop iteration, and buffering costs time.
            for start in range(0, len(receivers), _WRITES):
                for session in receivers[start : start + _WRITES]:
                    session.write_frames(joined)
                if self._slice.is_over():
                    await self._slice.next()
        self._delivered.add(len(frames) * len(receivers))
        # Of a batch the first envelope counts for all: it has waited longest, and a look at the clock for each would
        # cost as much as its frame.
        delay = min(max(now_ms() - first.timestamp, 0) / 1000, _DELAY_MAX)
        self._delays[first.action.partition(".")[0]].record(delay, len(frames))
        if traces:
            self._record(traces, since, key.partition(".")[0], len(frames), len(receivers))

    def _traces(self) -> tuple[list[str] | None, int]:
        """A list for the recorded traces of what is delivered now, and the time; no list if nothing is recorded."""
        return ([], time.time_ns()) if self._telemetry.records else (None, 0)

    def _record(self, traces: Sequence[str], since: int, kind: str, count: int, receivers: int) -> None:
        attributes = conventions.delivering(PUSH, kind, count, receivers)
        with self._telemetry.batch(
            conventions.deliver(PUSH), traces, conventions.CONSUMER, attributes, since=since
        ):
            pass  # It is done; only now are its traces and its receivers known.

    def _direct(self, session: Session, item: Item) -> None:
        """Hand over an item's envelope, then close: nothing can be sent after the close."""
        # Publishing and consuming use two connections: the answer may arrive before the confirm. An answered request
        # has been accepted.
        asked = item.correlation_id
        if item.envelope and (asked is None or session.answer(asked, error=item.error)):
            session.send_text(item.envelope)
            self._delivered.add(1)
            if asked is not None and self._spans.are_open:
                self._spans.end(session, asked, item.error)
        if item.disconnect is not None:
            code, reason = item.disconnect
            # RFC 6455, section 7.4.2: 4000 to 4999 are for private use. Of the codes below, clients know only the
            # contract's.
            if code < 4000 and code not in set(CloseCode):
                code = CloseCode.KICKED
            # Cut in bytes, and a character that was cut in two is dropped.
            session.close(code, reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore"))

    async def _change_groups(
        self, session: Session, change: GroupChange, delivery: Delivery, *, is_control: bool = False
    ) -> None:
        members, as_of, service = self._members, change.as_of, delivery.app_id or ""
        over = 0

        def is_current() -> bool:
            # A change that answers a request of an older inbox may be older than changes that were lost with that
            # inbox. It may be recreated between two parts of a long list.
            return not is_control and change.inbox == members.inbox

        for groups in _parts(change.subscribe):
            over += members.subscribe(session, groups, service=service, as_of=as_of, is_current=is_current())
            if self._slice.is_over():
                await self._slice.next()
        for groups in _parts(change.unsubscribe):
            members.unsubscribe(session, groups, service=service, as_of=as_of)
            if self._slice.is_over():
                await self._slice.next()
        # A list for an older inbox may lack a change that was lost with it (docs/adr/0021).
        if change.complete and is_current():
            over += members.complete(session, service=service, as_of=as_of)
        if over:
            self._groups_refused.add(over, user=session.user_id, limit=members.groups_max)

    def _count_unaddressed(self, kind: str, key: str) -> None:
        self._foreign[kind if kind in _KINDS else "other"].add()
        # Only keys without a receiver are checked: a misspelled key has none.
        if kind in _KINDS and not _PLAIN_KEY.fullmatch(key) and (right := _right_key(key)) != key:
            self._misspelled.add(routing_key=key, right=right)

    def _drop_item(self, key: str, error: BadEnvelope) -> None:
        self._bad_items.add(routing_key=key, error=error.message[:300])


def _parts(groups: Sequence[str]) -> Iterator[Sequence[str]]:
    return (groups[start : start + _GROUPS] for start in range(0, len(groups), _GROUPS))


def _right_key(key: str) -> str:
    """The only spelling of a routing key that is delivered; the key itself if it cannot be spelled correctly."""
    kind, _, word = key.partition(".")
    try:
        return f"{kind}.{encode_word(decode_word(word))}"
    except ValueError:
        return key
