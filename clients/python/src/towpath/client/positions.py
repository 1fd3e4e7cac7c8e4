"""Positions in streams: nothing missed, nothing twice. No I/O.

A durable push carries ``stream`` and ``seq``, and ``seq`` grows by exactly 1. A push the client has is dropped, the
next one is passed on, and one that comes after a hole is held until a resume fills the hole. So pushes of one stream
leave here in order, each once.

A stream is *opening* while a request is in flight whose answer has the position of the stream: pushes of the
meantime are held until then, because the pushes before them are unknown.
"""

from collections.abc import Mapping
from typing import Final, Generic, TypeVar

Push = TypeVar("Push")

#: Past this many held pushes of one stream the rest is dropped and left to a resume, which replays it.
_HELD_LIMIT: Final = 1_000


class Positions(Generic[Push]):
    """The last ``seq`` of each stream, and what is held beyond it.

    Attributes:
        changes: The number of changes of positions; the holder of a copy sees whether it is outdated.
    """

    def __init__(self, positions: Mapping[str, int]) -> None:
        self.changes = 0
        self._last: dict[str, int] = dict(positions)
        self._held: dict[str, _Ahead[Push]] = {}  # streams with a hole
        self._opening: dict[str, _Ahead[Push]] = {}  # these have no position

    def arrive(self, stream: str, seq: int, push: Push) -> list[Push]:
        """Take a push, and say what may go to the application now, in order.

        The first push of an unknown stream counts as the next one.
        """
        last = self._last.get(stream)
        opening = self._opening.get(stream)
        if opening is not None:
            opening.add(seq, push)
        elif last is None or seq == last + 1:
            self._move(stream, seq)
            return [push, *self._release(stream, seq)] if stream in self._held else [push]
        elif seq > last:
            self._held.setdefault(stream, _Ahead()).add(seq, push)
        return []

    def open(self, stream: str) -> None:
        """An answer will have the position of this stream. One that has a position continues from it."""
        if stream not in self._last:
            self._opening.setdefault(stream, _Ahead()).openers += 1

    def track(self, stream: str, seq: int) -> list[Push]:
        """Take a position learned elsewhere, and give what was held meanwhile and follows it.

        Where a position is known already it stays: to jump ahead would drop what is still on its way.
        """
        if stream in self._last or seq < 0:
            return []
        self._move(stream, seq)
        held = self._opening.pop(stream, None)
        if held is None:
            return []
        self._held[stream] = held
        return self._release(stream, seq)

    def reaches(self, stream: str, seq: int) -> None:
        """The stream is known to go up to ``seq``; if its position is before that, something is missing."""
        if seq > self._last.get(stream, 0):
            held = self._held.setdefault(stream, _Ahead())
            held.reach = max(held.reach, seq)

    def unopened(self, stream: str) -> list[Push]:
        """One of the answers with the position of this stream will not come.

        If no other one is expected, the first held push counts as the next one.
        """
        held = self._opening.get(stream)
        if held is None:
            return []
        held.openers -= 1
        if held.openers > 0:
            return []
        del self._opening[stream]
        if not held.pushes:
            return []
        self._held[stream] = held
        return self._release(stream, min(held.pushes))

    def resumed(self, stream: str, asked: int, seq: int, complete: bool) -> tuple[list[Push], bool]:
        """Take over what a resume answered for one stream.

        Args:
            stream: Its name.
            asked: The position the resume was asked with.
            seq: The current position of the stream, from the answer.
            complete: Whether everything up to there was replayed, says the answer.

        Returns:
            The pushes that may go to the application now, and whether it has everything.
        """
        if stream not in self._last:
            return [], True  # forgotten meanwhile
        if seq < asked:
            # The stream is behind this client: it was restarted. Keeping the old position would drop all
            # later pushes.
            self._held.pop(stream, None)
            self._move(stream, seq)
            return [], False
        return self._release(stream, seq), complete

    def skip(self, stream: str) -> list[Push]:
        """Give up on the holes of a stream that cannot be resumed; gives what was held."""
        held = self._held.get(stream)
        if held is None:
            return []
        held.reach = 0
        return self._release(stream, max(held.pushes, default=0))

    def forget(self, stream: str) -> None:
        """Drop the position, and what is held."""
        if self._last.pop(stream, None) is not None:
            self.changes += 1
        self._held.pop(stream, None)
        self._opening.pop(stream, None)

    def position(self, stream: str) -> int | None:
        """The last ``seq``; ``None`` if there is none yet."""
        return self._last.get(stream)

    def is_known(self, stream: str) -> bool:
        """Whether the stream has a position, or is opening."""
        return stream in self._last or stream in self._opening

    def is_behind(self, stream: str) -> bool:
        """Whether something of this stream is known to be missing."""
        return stream in self._held

    def has_hole(self, domain: str) -> bool:
        """Whether something of this domain is known to be missing."""
        return any(domain_of(stream) == domain for stream in self._held)

    def domains(self) -> list[str]:
        """Domains that have a position, each once."""
        return list(dict.fromkeys(domain_of(stream) for stream in self._last))

    def of_domain(self, domain: str) -> list[tuple[str, int]]:
        """Streams and positions to resume with."""
        return [(stream, seq) for stream, seq in self._last.items() if domain_of(stream) == domain]

    def as_dict(self) -> dict[str, int]:
        """The last ``seq`` of each stream."""
        return dict(self._last)

    def _move(self, stream: str, seq: int) -> None:
        self._last[stream] = seq
        self.changes += 1

    def _release(self, stream: str, seq: int) -> list[Push]:
        """Move up to ``seq``, and on over what follows without a hole; what is held on the way is handed out."""
        before = self._last.get(stream, 0)
        last = max(seq, before)
        held = self._held.get(stream)
        ready: list[Push] = []
        if held is not None:
            for following in sorted(held.pushes):
                if following > last + 1:
                    break
                push = held.pushes.pop(following)
                # An entry up to the old position was put out already.
                if following > before:
                    ready.append(push)
                last = max(last, following)
            # Nothing is missing up to where the stream is known to go.
            if not held.pushes and held.reach <= last:
                del self._held[stream]
        if last != self._last.get(stream):
            self._move(stream, last)
        return ready


class _Ahead(Generic[Push]):
    """The state of a stream beyond its position.

    Attributes:
        pushes: Pushes that arrived too early, by ``seq``.
        reach: How far the stream is known to go besides: what was dropped for want of room, or what an answer said.
        openers: The number of answers that may have the position of an opening stream.
    """

    __slots__ = ("openers", "pushes", "reach")

    def __init__(self) -> None:
        self.pushes: dict[int, Push] = {}
        self.reach = 0
        self.openers = 0

    def add(self, seq: int, push: Push) -> None:
        if len(self.pushes) < _HELD_LIMIT or seq in self.pushes:
            self.pushes.setdefault(seq, push)
        else:
            self.reach = max(self.reach, seq)


def domain_of(stream: str) -> str:
    """The service a stream belongs to: ``chat:lobby`` is chat's."""
    return stream.partition(":")[0]
