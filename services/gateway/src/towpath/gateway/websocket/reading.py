"""A reading connection: the incoming direction of a WebSocket, from bytes to frames to the receiver.

Frames are handled as they are parsed: no handling waits, so a queue and a task per connection would only cost time.

Guarantees:

* No data frame is handled before :meth:`ReadingConnection.begin`, and none is lost: the early ones are stored, and
  after 16 of them the socket is not read.
* Parsing takes no more than its share of a loop iteration (:mod:`~towpath.gateway.websocket.parse_turns`). Bytes that
  wait for their share are those of one read: the socket is not read meanwhile, so the TCP window slows the sender
  down.
* After a close has begun, only the client's close frame matters. Later bytes and frames are bounded;
  a client that sends more is aborted a second later.

The states, as five flags. ``_pause`` is a handle of the event loop: while it exists, nothing is read or parsed.

============  ===========  ==============  =============  ===============  ==========================================
state         ``closing``  ``_is_paused``  ``_pause``     ``_is_cut_off``  left by
============  ===========  ==============  =============  ===============  ==========================================
reads         no           no              none           no               a large read; a limit; a close
waits a turn  no or yes    yes             none           no               :meth:`~ReadingConnection.parse_slice` of
                                                                           the last bytes: it reads again
rests         no or yes    yes             a timer        no               the timer or :meth:`resume_reading
                                                                           <ReadingConnection.resume_reading>`: it
                                                                           waits a turn, or reads
closes        yes          no              none           no               the client's close frame; too many bytes
is cut off    yes          yes             the abort      yes              the abort: nothing else ends it
============  ===========  ==============  =============  ===============  ==========================================

``_is_at_end`` can be added to all but the last: the client has ended its direction while bytes waited. It takes
effect after the last of them. The 16 early frames pause the transport beside these states, until ``begin``.
"""

import asyncio
from typing import Any, Final

from websockets.frames import DATA_OPCODES, Frame, Opcode

from towpath.gateway.admission.credentials import Identity
from towpath.gateway.websocket.counted import CountedConnection
from towpath.gateway.websocket.parse_turns import ParseTurns
from towpath.gateway.websocket.receiver import Receiver

#: Data frames that may arrive before the session is ready: a client may send requests right behind its handshake.
_EARLY_FRAMES: Final = 16
#: Bytes parsed at once: about 150 of the smallest frames. Slices of a large frame grow until it ends.
_SLICE: Final = 1024
_LARGEST_SLICE: Final = 64 * 1024
#: Bytes that may arrive after a close has begun: an honest client's bytes in flight, including its close frame.
_AFTER_CLOSE_BYTES: Final = 128 * 1024
#: The same in frames: small frames cost more than their bytes.
_AFTER_CLOSE_FRAMES: Final = 512
#: Seconds until a client that sends more than that is aborted.
_LAST_SECONDS: Final = 1.0
#: Control frames, which cost the gateway an answer or at least a check.
_CHARGED: Final = frozenset({Opcode.PING, Opcode.PONG})


class ReadingConnection(CountedConnection):
    """A connection that is read in slices, and paused when its client is too fast.

    Attributes:
        identity: Set when the handshake is admitted.
        owner: The user, or the address while the user is unknown; parse time is divided by it.
        connection_id: Of its session; empty before that is open.
        last_seen: Loop time of the last bytes from the client.
        closing: A close has begun.
        receiver: Gets the data frames, from :meth:`begin` on.
    """

    identity: Identity
    connection_id: str = ""
    last_seen: float = 0.0
    closing: bool = False
    receiver: Receiver | None = None
    _bytes_after_close: int = 0
    _frames_after_close: int = 0
    _is_paused: bool = False
    _is_cut_off: bool = False
    #: While it exists, nothing is read and nothing is parsed.
    _pause: asyncio.Handle | None = None

    def __init__(self, *args: Any, parse_turns: ParseTurns, **options: Any) -> None:
        super().__init__(*args, **options)
        self._parse_turns = parse_turns
        self._early: list[Frame] = []
        self._unparsed = memoryview(b"")
        self._is_at_end = False
        self._slice = _SLICE
        self.owner = self.address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.owner = self.address

    # Bytes

    def data_received(self, data: bytes) -> None:
        # Any bytes count as a sign of life, also half a frame: a slow upload must not be closed as silent.
        self.last_seen = self.loop.time()
        if self.closing:
            # Parsed only for the client's close frame, for which the closing handshake waits (RFC 6455, section
            # 7.1.2). Section 7.1.1 lets an endpoint discard all other bytes.
            self._bytes_after_close += len(data)
            if self._bytes_after_close > _AFTER_CLOSE_BYTES:
                self._stop_reading()
                return
        if self._unparsed or self._pause:  # read before the transport had paused
            # Appended, since bytes keep their order. It can happen once a pause: afterwards the transport does not
            # read.
            self._unparsed = memoryview(b"".join((self._unparsed, data)))
            return
        if len(data) <= _SLICE and (began := self._parse_turns.begin_small()):
            self.parse_bytes(data)  # The usual case of an honest client.
            self._parse_turns.end_small(began)
            return
        self._unparsed = memoryview(data)
        if self._parse_turns.take(self):
            # The rest waits for its turn. Without this the kernel would hand over more, and `_unparsed` would have no
            # bound.
            self._pause_transport()

    def parse_slice(self) -> bool:
        """Parse a part of the bytes read: at most some tens of frames, or a piece of a large one.

        Returns:
            Whether more bytes wait and may be parsed now.
        """
        if self._pause or not self._unparsed:  # it is paused, or the connection was lost meanwhile
            return False
        # A memoryview: to cut a slice off does not copy the rest, which would make a large read quadratic.
        part = self._unparsed[: self._slice]
        self._unparsed = self._unparsed[self._slice :]
        before = self.events_parsed
        self.parse_bytes(bytes(part))
        # A slice in which no frame ends is cheap, so a large frame is read in larger slices.
        self._slice = min(2 * self._slice, _LARGEST_SLICE) if self.events_parsed == before else _SLICE
        if self._pause:
            # A frame of this slice went over a limit, so its client waits; `_pause_ended` queues the rest again.
            return False
        if self._unparsed:
            return True
        self._parsed_all()
        return False

    def _parsed_all(self) -> None:
        if self._is_at_end:
            self.parse_end()
        # With 16 early frames reading goes on in `begin`: before that, nothing takes frames away.
        elif self._is_paused and not self._is_full_of_early_frames:
            self._is_paused = False
            self.transport.resume_reading()

    def eof_received(self) -> None:
        if self._unparsed or self._pause:
            self._is_at_end = True  # Handled after the bytes that came before it.
        else:
            self.parse_end()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._pause is not None:
            self._pause.cancel()
        # Otherwise the queue would hold a connection that has ended.
        self._parse_turns.forget(self)
        self._unparsed = memoryview(b"")
        super().connection_lost(exc)

    # Frames

    def on_frame(self, frame: Frame) -> None:
        # No frame is handled here: the library's parser sees the client's close frame by itself. They are counted,
        # since small frames cost more than their bytes.
        if self.closing:
            self._frames_after_close += 1
            if self._frames_after_close > _AFTER_CLOSE_FRAMES:
                self._stop_reading()
        # Sections 5.4 and 5.5: control frames may arrive between the fragments of a message, so they never go through
        # the receiver, which would take one for a fragment.
        elif frame.opcode not in DATA_OPCODES:
            if self.receiver is not None and frame.opcode in _CHARGED:
                # Charged first: section 5.5.2 demands a pong for each ping, so a flood of pings costs as much as a
                # flood of messages.
                self.receiver.charge(len(frame.data))
            self.handle_control(frame)
        elif self.receiver is not None:
            self.receiver.take(frame)
        else:
            self._early.append(frame)
            if len(self._early) == _EARLY_FRAMES:
                # RFC 6455, section 4.1 lets a client send once it has read the 101, but its session may wait for a
                # binding by then.
                self.transport.pause_reading()

    def begin(self, receiver: Receiver) -> None:
        """Pass each data frame to ``receiver`` from now on, starting with the early frames."""
        # Read before the receiver is set, which makes it false.
        was_full = self._is_full_of_early_frames
        self.receiver = receiver
        for frame in self._early:
            # An early frame may have closed the connection: the frames behind it are not handled then, as in
            # `on_frame`.
            if not self.closing:
                receiver.take(frame)
        # Otherwise `_parsed_all` resumes reading, once the bytes that wait or the pause are over.
        if was_full and not self._unparsed and not self._pause:
            self.transport.resume_reading()
        self._early.clear()

    @property
    def _is_full_of_early_frames(self) -> bool:
        return self.receiver is None and len(self._early) >= _EARLY_FRAMES

    # Pauses

    def pause_reading(self, seconds: float) -> bool:
        """Stop reading and parsing for a moment: the TCP window then slows down the sender.

        Returns:
            Whether a pause begins now; ``False`` while another lasts, or when the connection closes.
        """
        if self._pause is not None or self.closing:
            return False
        self._pause = self.loop.call_later(seconds, self._pause_ended)
        self._pause_transport()
        return True

    def resume_reading(self) -> None:
        """End a pause soon. Not at once: the caller may be writing an answer."""
        # After a cut-off the handle is the abort: to cancel it would leave a connection that is neither read nor
        # closed.
        if self._pause is not None and not self._is_cut_off:
            self._pause.cancel()
            self._pause = self.loop.call_soon(self._pause_ended)

    def _pause_transport(self) -> None:
        if not self._is_paused:
            # Asked once: the transport is paused both for a turn and for a limit, and those overlap.
            self._is_paused = True
            self.transport.pause_reading()

    def _pause_ended(self) -> None:
        self._pause = None
        if self.transport.is_closing():
            return
        if not self._unparsed:
            self._parsed_all()
        else:
            # Through the turns and not at once: pauses of many connections may end in the same iteration.
            self._parse_turns.take(self)

    def _stop_reading(self) -> None:
        """Stop reading for good, and abort a second later.

        Not at once: the kernel answers unread bytes with a reset, and a reset discards what the client has
        not read yet (RFC 9112, section 9.6 describes the same for HTTP): it would miss the close frame.
        """
        if not self._is_cut_off:
            self._is_cut_off = True
            if self._pause is not None:
                self._pause.cancel()
            self._pause = self.loop.call_later(_LAST_SECONDS, self.transport.abort)
            self._pause_transport()
        # Also dropped when it is repeated: bytes may have arrived before the transport had paused.
        self._unparsed = memoryview(b"")
