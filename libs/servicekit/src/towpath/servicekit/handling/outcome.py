"""Outcomes: the result of a handler, and the publications that follow from it.

A handler returns the answer and the messages to publish; it does not know exchanges, connections or batches.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from pydantic import BaseModel

from towpath.protocol.envelope import Envelope
from towpath.protocol.messages import Session
from towpath.protocol.routes import EVENTS, EVERYONE, PUSH, group_key, user_key
from towpath.servicekit.messaging.publication import Publication
from towpath.servicekit.storage.effects import KEY_MAX
from towpath.servicekit.storage.leaves import Leave
from towpath.servicekit.storage.streams import Replay
from towpath.servicekit.storage.withheld import Entry, EntryId, published_with

Answer = BaseModel | Mapping[str, Any]

#: Seconds: a year.
_AFTER_MAX: Final = 366 * 86_400.0


class Push(msgspec.Struct, frozen=True):
    """One push: an envelope, and the connections that get it.

    Create it with :func:`to_user`, :func:`to_group` or :func:`to_everyone`.

    Attributes:
        routing_key: The key on ``towpath.push``, such as ``user.ana``.
        envelope: The message, the same bytes for all receivers.
        stored: Whether its stream stores it, if it has a position in one.
        leaves: Users no longer in the group, to be removed from it first.

    Example:
        >>> from towpath.protocol.envelope import make
        >>> to_user("ana", make("order.updated", {"order_id": "o-1"})).routing_key
        'user.ana'
    """

    routing_key: str
    envelope: Envelope
    stored: bool = True
    leaves: Sequence[Leave] = ()


def to_user(user_id: str, envelope: Envelope, *, stored: bool = True, leaves: Sequence[Leave] = ()) -> Push:
    """Push to every connection of a user, on all gateways.

    Args:
        user_id: As in the token; ``Session.user_id``.
        envelope: From :func:`towpath.protocol.envelope.make`, or, for a durable push, from
            :meth:`towpath.servicekit.storage.streams.Streams.append`.
        stored: False if the envelope was appended with ``stored=False``: it has a position, but no stored entry.
        leaves: See :func:`to_group`.

    Example:
        >>> from towpath.protocol.envelope import make
        >>> push = to_user("ana", make("order.updated", {"order_id": "o-1"}))
        >>> push.routing_key, push.envelope.action
        ('user.ana', 'order.updated')
    """
    return Push(user_key(user_id), envelope, stored, leaves)


def to_group(group_id: str, envelope: Envelope, *, stored: bool = True, leaves: Sequence[Leave] = ()) -> Push:
    """Push to every connection subscribed to a group.

    Args:
        group_id: The name of the group, the same as in ``Outcome.subscribe``. Names that are not routing keys are
            encoded.
        envelope, stored: See :func:`to_user`.
        leaves: Users who left the group, see :meth:`towpath.servicekit.storage.streams.Streams.leaves`. They are
            unsubscribed, and that is confirmed, before the push is published.

    Example:
        >>> from towpath.protocol.envelope import make
        >>> to_group("chat:lobby", make("chat.message", {"text": "Hello!"})).envelope.data
        {'text': 'Hello!'}
    """
    return Push(group_key(group_id), envelope, stored, leaves)


def to_everyone(envelope: Envelope) -> Push:
    """Push to every connection of every gateway.

    Example:
        >>> from towpath.protocol.envelope import make
        >>> to_everyone(make("shop.closing", {"in_minutes": 5})).routing_key
        'everyone'
    """
    return Push(EVERYONE, envelope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """A call to the outside, made after the commit; see :mod:`towpath.servicekit.handling.effects`.

    Attributes:
        name: That of its row in ``Service.effects``.
        key: Identifies the call, 1 to 512 letters. Of all effects of one name and key one is made, however often it
            is declared, for as long as its row is kept (``effects_retention``).
        data: Its arguments.
        after: Seconds after the commit before which it is not made.

    Raises:
        ValueError: The key or the time is out of range.

    Example:
        >>> Effect(name="charge", key="o-1", data={"order_id": "o-1", "cents": 990}).after
        0.0
    """

    name: str
    key: str
    data: Answer = field(default_factory=dict)
    after: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < len(self.key) <= KEY_MAX or "\0" in self.key:
            raise ValueError(
                f"the key {self.key[:80]!r} of the effect {self.name}: must be 1 to {KEY_MAX} letters"
            )
        if not 0 <= self.after <= _AFTER_MAX:
            raise ValueError(f"after={self.after} of the effect {self.name}: must be 0 to {_AFTER_MAX:.0f}")


# Structs, as `Request` is: made for every message.
class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of handling one request or event.

    Attributes:
        answer: ``data`` of ``<action>.ok``; a function of the replays if the answer depends on them.
        pushes: Pushes, in order.
        events: Envelopes for ``towpath.events``.
        subscribe, unsubscribe: Groups for the asking connection, and for the user's other connections.
        groups: The complete set of this service's groups for the asking connection; ``None`` for no statement. The
            handler's table entry must declare it (:class:`~towpath.servicekit.handling.requests.Handler`).
        replay: Streams whose entries after the given position go to the asking connection, between the
            subscription and the answer, so that no entry is missed.
        connection: The target connection, if it is not the asking one (session events).
        effects: Calls to the outside, made after the commit; of a handler that changes state.

    All else is published after the commit: membership changes first, and confirmed; then pushes and events, the
    replayed entries, the answer.

    Example:
        >>> from towpath.protocol.envelope import make
        >>> joined = make("chat.joined", {"room": "lobby", "user": "ana"})
        >>> outcome = Outcome(
        ...     answer={"room": "lobby", "seq": 41},
        ...     pushes=[to_group("chat:lobby", joined)],
        ...     subscribe=["chat:lobby"],
        ... )
        >>> [push.envelope.action for push in outcome.pushes]
        ['chat.joined']
    """

    answer: Answer | Callable[[Mapping[str, Replay]], Answer] | None = None
    pushes: Sequence[Push] = ()
    events: Sequence[Envelope] = ()
    subscribe: Sequence[str] = ()
    unsubscribe: Sequence[str] = ()
    groups: Sequence[str] | None = None
    replay: Mapping[str, int] = {}
    connection: Session | None = None
    effects: Sequence[Effect] = ()


def resumed(
    positions: Mapping[str, int],
    allowed: Container[str],
    groups: Sequence[str] | None = None,
) -> Outcome:
    """The outcome of ``<domain>.resume``: replay the allowed streams, then answer with the position of each stream.

    A stream that is not ``allowed`` is answered as incomplete at the requested position, which reveals nothing.

    Args:
        positions: The last ``seq`` of each stream that the client has, from
            :class:`towpath.protocol.streams.Resume`.
        allowed: The streams that this user may receive.
        groups: The complete set of this service's groups for the connection.

    Example:
        >>> outcome = resumed({"orders:ana": 7, "orders:ben": 3}, allowed={"orders:ana"})
        >>> dict(outcome.replay)
        {'orders:ana': 7}

        The answer is made from the replays once they are read:

        >>> outcome.answer({"orders:ana": Replay(entries=[], seq=9, complete=True)})["streams"]["orders:ben"]
        {'seq': 3, 'complete': False}
    """
    may = {name: seq for name, seq in positions.items() if name in allowed}

    def answer(replays: Mapping[str, Replay]) -> Answer:
        streams = {name: {"seq": seq, "complete": False} for name, seq in positions.items()}
        streams |= {
            name: {"seq": stream.seq, "complete": stream.complete} for name, stream in replays.items()
        }
        return {"streams": streams}

    return Outcome(answer=answer, replay=may, groups=groups)


def answer_data(answer: Answer) -> Mapping[str, Any]:
    """The ``data`` object of an answer."""
    if isinstance(answer, BaseModel):
        return answer.model_dump(mode="json", exclude_none=True)
    return answer


def outgoing(outcome: Outcome) -> list[Publication]:
    """The pushes and events of an outcome."""
    if not outcome.pushes and not outcome.events:
        return []
    return [
        Publication(PUSH, push.routing_key, msgspec.Raw(push.envelope.to_json()))
        if not push.stored or push.envelope.stream is None or push.envelope.seq is None
        else Publication(
            PUSH,
            push.routing_key,
            msgspec.Raw(push.envelope.to_json()),
            push.envelope.stream,
            push.envelope.seq,
        )
        for push in outcome.pushes
    ] + [Publication(EVENTS, event.action, msgspec.Raw(event.to_json())) for event in outcome.events]


def with_texts(items: Sequence[Publication], stored: Mapping[EntryId, Entry | None]) -> Sequence[Publication]:
    """``items``, with those named in ``stored`` replaced by its text, or dropped if it has none."""
    if not stored:
        return items
    found: list[Publication] = []
    for item in items:
        if (place := (item.stream, item.seq)) not in stored:
            found.append(item)
        elif (text := published_with(stored[place], item.routing_key)) is not None:
            found.append(Publication(item.exchange, item.routing_key, msgspec.Raw(text)))
    return found
