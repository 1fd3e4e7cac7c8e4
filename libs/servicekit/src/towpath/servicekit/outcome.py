"""What a handler returns, and what the dispatcher makes of it.

A handler says *what* is to be answered and told; it knows no exchange, connection or batch.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from pydantic import BaseModel

from towpath.protocol.envelope import Envelope
from towpath.protocol.messages import NO_JSON, Session
from towpath.protocol.routes import EVENTS, EVERYONE, PUSH, group_key, user_key
from towpath.servicekit.streams import Replay

Answer = BaseModel | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tell:
    """One push; make it with :func:`to_user`, :func:`to_group` or :func:`to_everyone`."""

    routing_key: str
    envelope: Envelope


def to_user(user_id: str, envelope: Envelope) -> Tell:
    """Tell every connection of a user."""
    return Tell(user_key(user_id), envelope)


def to_group(group_id: str, envelope: Envelope) -> Tell:
    """Tell every connection that is subscribed to a group."""
    return Tell(group_key(group_id), envelope)


def to_everyone(envelope: Envelope) -> Tell:
    """Tell every connection."""
    return Tell(EVERYONE, envelope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What follows from one request or event.

    Attributes:
        answer: ``data`` of ``<action>.ok``; a function of the replay where the answer tells of it.
        tell: Pushes, in order.
        events: Envelopes for ``towpath.events``.
        subscribe, unsubscribe: Groups for the asking connection, and for the user's other connections.
        replay: Streams whose entries after the given position go to the asking connection, between the
            subscription and the answer, so that nothing falls between them.
        connection: The connection meant, where it is not the asking one (session events).
    """

    answer: Answer | Callable[[Mapping[str, Replay]], Answer] | None = None
    tell: Sequence[Tell] = ()
    events: Sequence[Envelope] = ()
    subscribe: Sequence[str] = ()
    unsubscribe: Sequence[str] = ()
    replay: Mapping[str, int] = field(default_factory=dict)
    connection: Session | None = None


def resumed(positions: Mapping[str, int], allowed: Container[str], subscribe: Sequence[str] = ()) -> Outcome:
    """The outcome of ``<domain>.resume``: replay what the session may see, then say where each stream stands.

    A stream that is not ``allowed`` is answered as not complete at the position that was asked, which tells nothing.
    """
    may = {name: seq for name, seq in positions.items() if name in allowed}

    def answer(replays: Mapping[str, Replay]) -> Answer:
        told = {name: {"seq": seq, "complete": False} for name, seq in positions.items()}
        told |= {name: {"seq": stream.seq, "complete": stream.complete} for name, stream in replays.items()}
        return {"streams": told}

    return Outcome(answer=answer, replay=may, subscribe=subscribe)


class Outgoing(msgspec.Struct, frozen=True, array_like=True):
    """One JSON text on its way to an exchange."""

    exchange: str
    routing_key: str
    item: msgspec.Raw


class Settled(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finished outcome as bytes: what the inbox keeps and every repetition publishes again.

    Its answer and pushes stay what they were. What it does to groups, and replays, is what :meth:`within` leaves.

    Attributes:
        answer: Raw JSON of the answering envelope; empty when there is none (yet).
        asked: The fingerprint of the request, as the inbox keeps it.
    """

    answer: msgspec.Raw = NO_JSON
    outgoing: list[Outgoing] = []
    subscribe: list[str] = []
    unsubscribe: list[str] = []
    replay: dict[str, int] = {}
    asked: str = ""

    @property
    def heard(self) -> set[str]:
        """The groups and streams it names."""
        return {*self.subscribe, *self.unsubscribe, *self.replay}

    def within(self, right: Container[str]) -> "Settled":
        """The same as far as it is right by now.

        Args:
            right: The groups and streams that the user may hear: only these are joined, and all others may be left.
        """
        return msgspec.structs.replace(
            self,
            subscribe=[group for group in self.subscribe if group in right],
            unsubscribe=[group for group in self.unsubscribe if group not in right],
            replay={stream: seq for stream, seq in self.replay.items() if stream in right},
        )


def answer_data(answer: Answer) -> Mapping[str, Any]:
    """The ``data`` object of an answer."""
    if isinstance(answer, BaseModel):
        return answer.model_dump(mode="json", exclude_none=True)
    return answer


def outgoing(outcome: Outcome) -> list[Outgoing]:
    """The pushes and events of an outcome."""
    return [
        Outgoing(PUSH, tell.routing_key, msgspec.Raw(tell.envelope.to_json())) for tell in outcome.tell
    ] + [Outgoing(EVENTS, event.action, msgspec.Raw(event.to_json())) for event in outcome.events]
