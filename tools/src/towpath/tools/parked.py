"""A parked message: what it is, whose, why it is parked, and how it is played again. Pure functions.

Guarantee: no message in a dead queue, however broken, stops the others from being read.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from towpath.protocol.errors import BadEnvelope
from towpath.protocol.messages import split_batch
from towpath.protocol.routes import PARTITIONS, command_queue, dead_queue, events_queue
from towpath.servicekit.broker.interface import Delivery, HeaderValue, Message, undecodable
from towpath.servicekit.handling.requests import UNREADABLE
from towpath.servicekit.messaging.failure_headers import (
    EFFECT,
    ERROR,
    FIRST_FAILED_AT,
    QUEUE,
    REASON,
    REPLAYED,
    ROUTING_KEY,
    Attempt,
    attempts,
    history,
    number,
)
from towpath.servicekit.messaging.senders import SENDER
from towpath.servicekit.runtime.trace_context import trace_id

#: Reasons that the broker gives, in the words of ``x-first-death-reason``.
_BROKERS_REASONS: Final = {"delivery_limit": "crashed", "expired": "expired", "rejected": "rejected"}


@dataclass(frozen=True, slots=True)
class Item:
    """One JSON text inside, as far as it can be read; empty where it cannot.

    Attributes:
        user: The sender of a command, or the user that an event names.
    """

    msg_id: str = ""
    action: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class Parked:
    """One parked message.

    Attributes:
        id: The first ``msg_id`` in it; where there is none, ``@`` and the beginning of the body's SHA-256.
        items: Number of items: one, unless RabbitMQ itself parked a whole batch.
        reason, error: The reason, in a word and in full.
        queue, routing_key: Its original queue and key; empty if unknown.
        parked_at: Unix milliseconds; ``None`` if unknown.
        tries: How often it was tried again.
        replayed: How often it was played again from here.
        sender: Of an event: its publisher, as the service identified it.
        effect: ``none`` where its sender was answered that it had none.
    """

    id: str
    items: Sequence[Item]
    reason: str
    error: str
    queue: str
    routing_key: str
    app_id: str
    parked_at: int | None
    tries: int
    replayed: int
    sender: str
    effect: str
    history: Sequence[Attempt]
    traceparent: str | None
    body: bytes

    @property
    def ids(self) -> set[str]:
        """All names it can be asked for by."""
        return {self.id} | {item.msg_id for item in self.items if item.msg_id}

    @property
    def actions(self) -> str:
        return _several(item.action for item in self.items)

    @property
    def users(self) -> str:
        return _several(item.user for item in self.items)

    def as_dict(self) -> dict[str, Any]:
        """All known fields except the body, in JSON types."""
        return {
            "msg_id": self.id,
            "items": [{"msg_id": i.msg_id, "action": i.action, "user": i.user} for i in self.items],
            "reason": self.reason,
            "error": self.error,
            "queue": self.queue,
            "routing_key": self.routing_key,
            "app_id": self.app_id,
            "parked_at": self.parked_at,
            "tries": self.tries,
            "replayed": self.replayed,
            "sender": self.sender,
            "effect": self.effect,
            "attempts": [{"at": a.at, "error": a.error, "where": a.where} for a in self.history],
            "trace_id": trace_id(self.traceparent),
        }

    def again(self) -> Message:
        """The message to publish to :attr:`queue`: the same body, and a clean slate."""
        # Of the old headers only these remain (protocol.md, "Failures"): the retries start again.
        headers: dict[str, HeaderValue] = {REPLAYED: self.replayed + 1, ROUTING_KEY: self.routing_key}
        if self.traceparent:
            headers["traceparent"] = self.traceparent
        if self.sender:
            headers[SENDER] = self.sender
        return Message(
            body=self.body, type="replayed", app_id=self.app_id or None, headers=headers, as_received=True
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which parked messages are meant: those that fit all that is given; all where nothing is.

    Attributes:
        since: Parked at or after this, Unix milliseconds. A message without a time does not match.
    """

    ids: frozenset[str] = field(default_factory=frozenset)
    reason: str | None = None
    action: str | None = None
    user: str | None = None
    since: int | None = None

    @property
    def everything(self) -> bool:
        return not self.ids and (self.reason, self.action, self.user, self.since) == (None,) * 4

    def fits(self, parked: Parked) -> bool:
        return (
            (not self.ids or not self.ids.isdisjoint(parked.ids))
            and self.reason in (None, parked.reason)
            and (self.action is None or any(item.action == self.action for item in parked.items))
            and (self.user is None or any(item.user == self.user for item in parked.items))
            and (self.since is None or (parked.parked_at is not None and parked.parked_at >= self.since))
        )


def read(delivery: Delivery) -> Parked:
    """Decode a delivery from a dead queue."""
    headers, body = delivery.headers, delivery.body
    items = list(_items(body))
    told = history(headers)
    brokers = _text(headers, "x-first-death-reason")
    odd = undecodable(delivery)
    service = delivery.queue.removesuffix(dead_queue(""))
    return Parked(
        id=next((item.msg_id for item in items if item.msg_id), f"@{hashlib.sha256(body).hexdigest()[:12]}"),
        items=items,
        # The service's own reason first. RabbitMQ's headers are those of a message that it parked itself
        # (protocol.md, "Failures").
        reason=_text(headers, REASON)
        or _BROKERS_REASONS.get(brokers, brokers)
        or (UNREADABLE if odd else "unknown"),
        error=_text(headers, ERROR)
        or (f"it cannot be decoded: {odd}" if odd else "")
        or (f"RabbitMQ parked it: {brokers}" if brokers else ""),
        queue=_own_queue(service, _text(headers, QUEUE), _text(headers, "x-first-death-queue")),
        routing_key=_text(headers, ROUTING_KEY) or delivery.routing_key,
        app_id=delivery.app_id or "",
        # It was parked at its last attempt, or when RabbitMQ parked it.
        parked_at=told[-1].at if told else _died_at(headers) or _number(headers, FIRST_FAILED_AT),
        tries=attempts(headers),
        replayed=number(headers, REPLAYED),
        sender=_text(headers, SENDER),
        effect=_text(headers, EFFECT),
        history=told,
        traceparent=traceparent if trace_id(traceparent := _text(headers, "traceparent")) else None,
        body=body,
    )


def _own_queue(service: str, *told: str) -> str:
    """The first queue in the headers that belongs to the service.

    A sender may write anything there, and must not reach another queue through an operator's replay.
    """
    own = {
        dead_queue(service),
        events_queue(service),
        *(command_queue(service, number) for number in range(PARTITIONS)),
    }
    return next((queue for queue in told if queue in own), "")


def _items(body: bytes) -> Iterator[Item]:
    try:
        parts = split_batch(body)
    except BadEnvelope:
        yield Item()
        return
    for part in parts:
        yield _item(part)


def _item(part: bytes) -> Item:
    try:
        told = json.loads(part)
    except (ValueError, RecursionError):
        return Item()
    if not isinstance(told, dict):
        return Item()
    # A command has the envelope inside, an event is one (protocol.md, "RabbitMQ").
    envelope, session = told.get("envelope", told), told.get("session")
    if not isinstance(envelope, dict):
        return Item()
    data = envelope.get("data")
    user = session.get("user_id") if isinstance(session, dict) else None
    if user is None and isinstance(data, dict):
        user = data.get("user_id")
    return Item(
        *(
            one if isinstance(one, str) else ""
            for one in (envelope.get("msg_id"), envelope.get("action"), user)
        )
    )


def _died_at(headers: Mapping[str, Any]) -> int | None:
    try:
        at = headers["x-death"][0]["time"]
        return int(at.timestamp() * 1000)
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def _several(words: Iterable[str]) -> str:
    known = list(dict.fromkeys(word for word in words if word))
    return known[0] + (f" +{len(known) - 1}" if len(known) > 1 else "") if known else ""


def _text(headers: Mapping[str, Any], name: str) -> str:
    told = headers.get(name)
    return told if isinstance(told, str) else ""


def _number(headers: Mapping[str, Any], name: str) -> int | None:
    told = headers.get(name)
    return told if isinstance(told, int) else None
