"""Outcomes: the result of a handler, and its stored and published forms.

A handler returns the answer and the messages to publish; it does not know exchanges, connections or batches.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from pydantic import BaseModel

from towpath.protocol.envelope import Envelope
from towpath.protocol.messages import NO_JSON, Session
from towpath.protocol.routes import EVENTS, EVERYONE, PUSH, group_key, user_key
from towpath.servicekit.leaves import Leave
from towpath.servicekit.streams import Replay
from towpath.servicekit.withheld import Place

Answer = BaseModel | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tell:
    """One push; create it with :func:`to_user`, :func:`to_group` or :func:`to_everyone`.

    Attributes:
        kept: Whether its stream stores it, if it has a position in one.
        leaves: Users no longer in the group, to be removed from it first.
    """

    routing_key: str
    envelope: Envelope
    kept: bool = True
    leaves: Sequence[Leave] = ()


def to_user(user_id: str, envelope: Envelope, *, kept: bool = True) -> Tell:
    """Push to every connection of a user."""
    return Tell(user_key(user_id), envelope, kept)


def to_group(group_id: str, envelope: Envelope, *, kept: bool = True, leaves: Sequence[Leave] = ()) -> Tell:
    """Push to every connection subscribed to a group.

    Args:
        leaves: Users who left the group, see :meth:`towpath.servicekit.streams.Streams.leaves`.
    """
    return Tell(group_key(group_id), envelope, kept, leaves)


def to_everyone(envelope: Envelope) -> Tell:
    """Push to every connection."""
    return Tell(EVERYONE, envelope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of handling one request or event.

    Attributes:
        answer: ``data`` of ``<action>.ok``; a function of the replays if the answer depends on them.
        tell: Pushes, in order.
        events: Envelopes for ``towpath.events``.
        subscribe, unsubscribe: Groups for the asking connection, and for the user's other connections.
        groups: The complete set of this service's groups for the asking connection; ``None`` for no statement. The
            handler's table entry must declare it (:class:`~towpath.servicekit.requests.Handler`).
        replay: Streams whose entries after the given position go to the asking connection, between the
            subscription and the answer, so that no entry is missed.
        connection: The target connection, if it is not the asking one (session events).
    """

    answer: Answer | Callable[[Mapping[str, Replay]], Answer] | None = None
    tell: Sequence[Tell] = ()
    events: Sequence[Envelope] = ()
    subscribe: Sequence[str] = ()
    unsubscribe: Sequence[str] = ()
    groups: Sequence[str] | None = None
    replay: Mapping[str, int] = field(default_factory=dict)
    connection: Session | None = None


def resumed(
    positions: Mapping[str, int],
    allowed: Container[str],
    groups: Sequence[str] | None = None,
) -> Outcome:
    """The outcome of ``<domain>.resume``: replay the allowed streams, then answer with the position of each stream.

    A stream that is not ``allowed`` is answered as incomplete at the requested position, which reveals nothing.

    Args:
        groups: The complete set of this service's groups for the connection.
    """
    may = {name: seq for name, seq in positions.items() if name in allowed}

    def answer(replays: Mapping[str, Replay]) -> Answer:
        told = {name: {"seq": seq, "complete": False} for name, seq in positions.items()}
        told |= {name: {"seq": stream.seq, "complete": stream.complete} for name, stream in replays.items()}
        return {"streams": told}

    return Outcome(answer=answer, replay=may, groups=groups)


class Outgoing(msgspec.Struct, frozen=True, array_like=True):
    """One JSON text to publish to an exchange.

    Attributes:
        item: The text; :data:`IN_ITS_STREAM` if only the reference is stored.
        stream, seq: Reference to the stream entry that stores the push.
    """

    exchange: str
    routing_key: str
    item: msgspec.Raw
    stream: str = ""
    seq: int = 0

    @property
    def is_in_its_stream(self) -> bool:
        """Whether the text must be read from the stream before it can be published."""
        return self.item == IN_ITS_STREAM

    def by_place(self) -> "Outgoing":
        """The same without the text, if a stream stores the text."""
        if not self.stream:
            return self
        return Outgoing(self.exchange, self.routing_key, IN_ITS_STREAM, self.stream, self.seq)


#: JSON, because it is part of the JSON of a stored outcome.
IN_ITS_STREAM: Final = msgspec.Raw(b"0")


class Settled(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finished outcome as bytes: the inbox stores it, and every repetition publishes it again.

    Its answer never changes; its pushes change only by fields withheld from their stream since. Its membership
    changes and replays are reduced by :meth:`within`.

    Attributes:
        answer: Raw JSON of the answering envelope; empty if there is none (yet).
        asked: The fingerprint of the request, as stored in the inbox.
        complete: Whether ``subscribe`` names all groups of the connection.
        leaves: Users to be removed from groups before anything is pushed.
    """

    answer: msgspec.Raw = NO_JSON
    outgoing: list[Outgoing] = []
    subscribe: list[str] = []
    unsubscribe: list[str] = []
    replay: dict[str, int] = {}
    asked: str = ""
    complete: bool = False
    leaves: list[Leave] = []

    @property
    def changes_groups(self) -> bool:
        """Whether it subscribes, unsubscribes or sets groups."""
        return bool(self.subscribe or self.unsubscribe or self.complete or self.leaves)

    @property
    def heard(self) -> set[str]:
        """The groups and streams that it names."""
        return {*self.subscribe, *self.unsubscribe, *self.replay}

    def by_place(self) -> "Settled":
        """The form to store: a push that a stream stores becomes a reference, so that its text exists only there."""
        return msgspec.structs.replace(
            self, outgoing=[item.by_place() if item.stream else item for item in self.outgoing]
        )

    def within(self, right: Container[str], may_hear: Container[tuple[str, str]] = ()) -> "Settled":
        """The same, reduced to the membership changes that are correct now.

        Args:
            right: The groups and streams that the user may receive: only these may be joined, and only others may be
            left.
            may_hear: The same for the users in ``leaves``, as pairs of a user and a group.
        """
        return msgspec.structs.replace(
            self,
            subscribe=[group for group in self.subscribe if group in right],
            unsubscribe=[group for group in self.unsubscribe if group not in right],
            replay={stream: seq for stream, seq in self.replay.items() if stream in right},
            leaves=[leave for leave in self.leaves if (leave.user_id, leave.group) not in may_hear],
        )


def answer_data(answer: Answer) -> Mapping[str, Any]:
    """The ``data`` object of an answer."""
    if isinstance(answer, BaseModel):
        return answer.model_dump(mode="json", exclude_none=True)
    return answer


def outgoing(outcome: Outcome) -> list[Outgoing]:
    """The pushes and events of an outcome."""
    return [
        Outgoing(PUSH, tell.routing_key, msgspec.Raw(tell.envelope.to_json()))
        if not tell.kept or tell.envelope.stream is None or tell.envelope.seq is None
        else Outgoing(
            PUSH,
            tell.routing_key,
            msgspec.Raw(tell.envelope.to_json()),
            tell.envelope.stream,
            tell.envelope.seq,
        )
        for tell in outcome.tell
    ] + [Outgoing(EVENTS, event.action, msgspec.Raw(event.to_json())) for event in outcome.events]


def with_texts(items: Sequence[Outgoing], stored: Mapping[Place, bytes | None]) -> Sequence[Outgoing]:
    """``items``, with those named in ``stored`` replaced by its text, or dropped if it has none."""
    if not stored:
        return items
    found: list[Outgoing] = []
    for item in items:
        if (place := (item.stream, item.seq)) not in stored:
            found.append(item)
        elif (text := stored[place]) is not None:
            found.append(Outgoing(item.exchange, item.routing_key, msgspec.Raw(text)))
    return found
