"""Stubs for tests of the gateway's sessions without a listener and without a broker's probe."""

from collections.abc import Callable


class SocketStub:
    """The session's part of a WebSocket (:class:`towpath.gateway.sessions.session.Socket`); stores sent frames.

    Args:
        written: Called after each write.
        closed: Called once, with the close code.

    Attributes:
        closing: A close has begun.
        texts: The envelopes sent to this connection alone, such as answers, in their order.
        pushed: The envelopes of frames that may go to several connections, in their order.
        pings: Number of pings sent.
    """

    def __init__(
        self, *, written: Callable[[], None] = lambda: None, closed: Callable[[int], None] = lambda _: None
    ) -> None:
        self.last_seen = 0.0
        self.address = "127.0.0.1"
        self.texts: list[bytes] = []
        self.pushed: list[bytes] = []
        self.pings = 0
        self.closing = False
        self._written = written
        self._closed = closed
        self._is_paused = False

    def send_text(self, text: bytes) -> None:
        self.texts.append(text)
        self._written()

    def send_frames(self, frames: bytes) -> None:
        self.pushed += texts_of(frames)
        self._written()

    def write_frames(self, frames: bytes) -> None:
        self.send_frames(frames)

    def backlog_size(self) -> int:
        return 0

    def send_ping(self) -> None:
        self.pings += 1

    def pause_reading(self, seconds: float) -> bool:
        was_paused, self._is_paused = self._is_paused, True
        return not was_paused

    def resume_reading(self) -> None:
        self._is_paused = False

    def close_with(self, code: int, reason: str) -> None:
        if not self.closing:
            self.closing = True
            self._closed(code)

    def take_pushed(self) -> list[bytes]:
        """The pushed envelopes since the last call."""
        pushed, self.pushed = self.pushed, []
        return pushed

    def take_texts(self) -> list[bytes]:
        """The envelopes to this connection alone since the last call."""
        texts, self.texts = self.texts, []
        return texts


class ArrivalsStub:
    """The observer of arrivals in the inbox, when no probe waits for them."""

    def arrived(self) -> None: ...
    def received(self, key: str) -> None: ...


def texts_of(frames: bytes) -> list[bytes]:
    """The texts of unmasked frames (RFC 6455, section 5.2)."""
    texts, at = [], 0
    while at < len(frames):
        length, head = frames[at + 1], 2
        if length == 126:
            length, head = int.from_bytes(frames[at + 2 : at + 4]), 4
        elif length == 127:
            length, head = int.from_bytes(frames[at + 2 : at + 10]), 10
        texts.append(frames[at + head : at + head + length])
        at += head + length
    return texts
