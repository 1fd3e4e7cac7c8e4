"""Resuming: which streams to ask for, when to ask again, and what the answers mean. No I/O.

Asks ``<domain>.resume`` for every domain with positions after each (re)connect and on ``session.resync``, and for one
domain when a push of it shows a hole. Until every hole of a domain is filled it keeps asking, with backoff.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from towpath.client.actions import Action, Cancel, Incomplete, Push, Report, Timer
from towpath.client.envelope import Envelope, position_of, whole
from towpath.client.errors import TowpathError
from towpath.client.positions import Positions, domain_of
from towpath.client.reconnect import Wait, advised, backoff
from towpath.client.views import Views
from towpath.protocol.envelope import ACCEPTED, ERROR

#: Streams of one request; the server takes 1000, and names may be long.
_STREAMS_A_REQUEST: Final = 200

#: A resume waits in the broker while its service is down, so there is no hurry to ask again.
_ANSWER_TIME: Final = Wait(30_000, 30_000)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A resume under way, and the positions it was asked with."""

    domain: str
    positions: dict[str, int]


class Resumption:
    """The streams of a session.

    Args:
        positions: The last ``seq`` of each stream.
        act: Puts an action out.
        ask: Sends a request of the session's own; gives its ``msg_id``.
        now: Unix milliseconds.

    Attributes:
        positions: The last ``seq`` of each stream.
        views: The views of the streams.
    """

    def __init__(
        self,
        positions: Mapping[str, int],
        act: Callable[[Action], None],
        ask: Callable[[str, Mapping[str, Any]], str],
        now: Callable[[], int],
    ) -> None:
        self.positions: Positions[Envelope] = Positions(positions)
        self.views = Views(act, self, now)
        self._act = act
        self._ask = ask
        self._asked: dict[str, _Asked] = {}  # by msg_id
        self._tries: dict[str, int] = {}  # failed tries of each domain with a timer set
        self._followed: set[str] = set()  # streams that this connection has subscribed to, or has asked for
        self._connected = False

    def start(self) -> None:
        """A connection is there: ask for every domain."""
        self._connected = True
        self.all()

    def stop(self) -> None:
        """The connection is gone, and with it whatever was asked on it."""
        self._connected = False
        for domain in self._tries:
            self._act(Cancel(f"resume:{domain}"))
        self._tries.clear()
        self._asked.clear()
        self._followed.clear()

    def all(self) -> None:
        """Ask for every domain."""
        for domain in self.positions.domains():
            self.domain(domain)

    def domain(self, domain: str) -> None:
        """Ask for one domain; what is under way for it is overtaken.

        Without a connection nothing is to be done: the next one asks anyway.
        """
        if not self._connected:
            return
        self._overtake(domain)
        if streams := self.positions.of_domain(domain):
            self._ask_in_parts(domain, streams)
        else:
            self._settled(domain)

    def time_up(self, domain: str) -> None:
        """No answer in time, or the wait before another try is over."""
        self._tries[domain] = self._tries.get(domain, 0) + 1
        self.domain(domain)

    def arrive(self, stream: str, seq: int, push: Envelope) -> None:
        """A durable push came in."""
        self._pass(self.positions.arrive(stream, seq, push))
        self._ask_for(stream)

    def position(self, stream: str) -> int | None:
        """The last ``seq``; ``None`` if there is none yet."""
        return self.positions.position(stream)

    def is_known(self, stream: str) -> bool:
        """Whether the stream has a position, or waits for one."""
        return self.positions.is_known(stream)

    def open(self, stream: str) -> None:
        """The position of the stream is asked for: its pushes wait for the answer."""
        self.positions.open(stream)

    def unopened(self, stream: str) -> None:
        """One who asked for the position has not got it."""
        self._pass(self.positions.unopened(stream))
        self._ask_for(stream)

    def follow(self, stream: str, seq: int) -> None:
        """Receive what comes after ``seq``, also if no request has subscribed this connection to the stream."""
        self._pass(self.positions.track(stream, seq))
        domain = domain_of(stream)
        if not self._connected or stream in self._followed:
            self._ask_for(stream)
        # Else a request for the whole domain is about to be repeated.
        elif domain not in self._tries or self._under_way(domain):
            # This stream alone: a page of a hundred views would else resume a hundred streams a hundred times.
            self._ask_in_parts(domain, [(stream, self.positions.position(stream) or 0)])

    def opened(self, stream: str, said: Any, again: bool) -> None:
        """Such a request has ended.

        Args:
            stream: The stream.
            said: The ``seq`` of its answer; anything but an integer says nothing.
            again: The request was sent again on another connection: the answer may be the one of the first time, and
                pushes between the two connections are lost.
        """
        seq = whole(said)
        if seq is None or seq < 0:
            self.unopened(stream)
            return
        self._pass(self.positions.track(stream, seq))
        self.positions.reaches(stream, seq)
        if again:
            self.domain(domain_of(stream))
            return
        self._followed.add(stream)
        self._ask_for(stream)

    def track(self, stream: str, seq: int) -> None:
        """Take a position learned elsewhere."""
        self._pass(self.positions.track(stream, seq))
        self._ask_for(stream)

    def forget(self, stream: str) -> None:
        """Drop the position, and what is held."""
        self.positions.forget(stream)
        self._followed.discard(stream)

    def answer(self, correlation_id: str, answer: Envelope) -> bool:
        """Take an answer if it is one to a resume; says whether it was."""
        request = self._asked.get(correlation_id)
        # `accepted` is not the answer: the resume waits in the broker.
        if request is None or answer["action"] == ACCEPTED:
            return request is not None
        del self._asked[correlation_id]
        if answer["action"] == ERROR:
            self._refused(request, TowpathError.from_wire(answer["data"]))
        else:
            streams = answer["data"].get("streams")
            self._resumed(request, streams if isinstance(streams, dict) else {})
        return True

    def _resumed(self, request: _Asked, streams: dict[str, Any]) -> None:
        for stream, position in request.positions.items():
            answered = streams.get(stream)
            seq = whole(answered.get("seq")) if isinstance(answered, dict) else None
            if answered is None or seq is None or seq < 0:
                # The service has left the stream out: to wait for more would hold its pushes back for ever.
                self._give_up(stream)
                continue
            ready, complete = self.positions.resumed(stream, position, seq, answered.get("complete") is True)
            if complete:
                self.views.complete(stream)
            else:
                # Nothing is missing, and still not complete: the user does not receive the stream.
                self._incomplete(stream, seq, refused=seq == position)
            self._pass(ready)
        # Many streams are asked for in several requests: the last answer decides.
        if self._under_way(request.domain):
            return
        if self.positions.has_hole(request.domain):
            # Pushes arrived that no answer covers. With backoff, since the service may be behind as well.
            self._later(request.domain)
        else:
            self._settled(request.domain)

    def _refused(self, request: _Asked, error: TowpathError) -> None:
        if error.retryable:
            # An answer to another part of the domain must not end the wait for this one.
            self._overtake(request.domain)
            self._later(request.domain, error.retry_after_ms)
            return
        # The same request would be refused each time.
        self._act(Report(error))
        for stream in request.positions:
            self._give_up(stream)
        if not self._under_way(request.domain):
            self._settled(request.domain)

    def _ask_for(self, stream: str) -> None:
        """Ask for what is missing of this stream, if anything; what is asked already finds it as well."""
        if self.positions.is_behind(stream) and (domain := domain_of(stream)) not in self._tries:
            self.domain(domain)

    def _settled(self, domain: str) -> None:
        if self._tries.pop(domain, None) is not None:
            self._act(Cancel(f"resume:{domain}"))

    def _give_up(self, stream: str) -> None:
        """The missed part of this stream is unknown: report it, and hold nothing back."""
        ready = self.positions.skip(stream)
        self._incomplete(stream, None)
        self._pass(ready)

    def _incomplete(self, stream: str, seq: int | None, *, refused: bool = False) -> None:
        if refused:
            self._followed.discard(stream)
        self._act(Incomplete(stream, seq))
        self.views.incomplete(stream, seq, refused=refused)

    def _overtake(self, domain: str) -> None:
        self._asked = {msg_id: asked for msg_id, asked in self._asked.items() if asked.domain != domain}

    def _ask_in_parts(self, domain: str, positions: Iterable[tuple[str, int]]) -> None:
        streams = iter(positions)
        while some := dict(islice(streams, _STREAMS_A_REQUEST)):
            self._followed.update(some)
            self._asked[self._ask(f"{domain}.resume", {"positions": some})] = _Asked(domain, some)
        self._wait(domain, _ANSWER_TIME)

    def _later(self, domain: str, retry_after_ms: float | None = None) -> None:
        self._wait(domain, backoff(self._tries.get(domain, 0), advised(retry_after_ms)))

    def _wait(self, domain: str, wait: Wait) -> None:
        self._tries.setdefault(domain, 0)
        self._act(Timer(f"resume:{domain}", *wait))

    def _under_way(self, domain: str) -> bool:
        return any(request.domain == domain for request in self._asked.values())

    def _pass(self, pushes: list[Envelope]) -> None:
        for envelope in pushes:
            self._act(Push(envelope))
            if (position := position_of(envelope)) is not None:
                self.views.arrive(*position, envelope)
