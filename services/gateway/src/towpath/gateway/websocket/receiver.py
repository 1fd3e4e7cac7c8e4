"""The receiver: assembles the text messages of one connection from its data frames.

Guarantees: messages are passed on whole and in order, each valid UTF-8 (RFC 6455, section 8.1). After a binary frame
(1003), too many fragments (1009), invalid UTF-8 (1007) or an error of the gateway (1011) nothing is passed on.
"""

from collections.abc import Callable
from typing import Final

import structlog
from websockets.frames import CloseCode as StandardCode
from websockets.frames import Frame, Opcode

from towpath.protocol.close_codes import CloseCode

log = structlog.get_logger(__name__)

#: Maximum number of frames of one text message. The size of a message is bounded by the library; empty fragments add
#: nothing to it, and would fill the memory.
_FRAGMENTS: Final = 1024


class Receiver:
    """Assembles texts. The library has checked the order of the frames (RFC 6455, section 5.4).

    Args:
        received: Called with each text.
        refuse: Called once with a close code and a reason if the frames are not a valid text.
        charge: Called with the size of each frame that is not a message: fragments but the last, pings and pongs.
        connection_id: For the log.
    """

    def __init__(
        self,
        received: Callable[[bytes], None],
        refuse: Callable[[int, str], None],
        charge: Callable[[int], None] = lambda _: None,
        *,
        connection_id: str = "",
    ) -> None:
        self.charge = charge
        self._connection_id = connection_id
        self._received = received
        self._refuse = refuse
        self._fragments: list[bytes] = []
        self._refused = False

    def take(self, frame: Frame) -> None:
        """Take the next data frame."""
        # RFC 6455, section 7.1.7: an endpoint that fails a connection does not process further data of the peer.
        if self._refused:
            return
        if frame.opcode is Opcode.BINARY:
            # Section 7.4.1, 1003: "it has received a type of data it cannot accept". The contract has text frames
            # only.
            self._end(CloseCode.UNSUPPORTED_DATA, "send text frames, one JSON object each")
            return
        data = bytes(frame.data)
        # Section 5.4: the first of several fragments, or a continuation.
        if self._fragments or not frame.fin:
            self._fragments.append(data)
            # Section 10.4: a server with limits must protect itself against messages that exceed them once assembled;
            # 1009 says so.
            if len(self._fragments) > _FRAGMENTS:
                self._end(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
                return
            if not frame.fin:
                # The last fragment is charged as the message. Without this, one message could hide a thousand free
                # frames.
                self.charge(len(data))
                return
            data = b"".join(self._fragments)
            self._fragments.clear()
        try:
            # Section 8.1 demands that invalid UTF-8 fails the connection. Checked over the whole text: section 5.6
            # lets a fragment end within a character. The result is dropped, since the gateway forwards bytes.
            data.decode()
        except UnicodeDecodeError as error:
            self._end(StandardCode.INVALID_DATA, f"not UTF-8: {error.reason} at position {error.start}")
            return
        try:
            self._received(data)
        except Exception:
            # Only this connection ends. Its client reconnects, and another frame may well be handled.
            log.exception("frame_failed", connection_id=self._connection_id)
            self._end(StandardCode.INTERNAL_ERROR, "something went wrong here")

    def _end(self, code: int, reason: str) -> None:
        # Before the callback: whatever it does, nothing more is passed on.
        self._refused = True
        self._fragments.clear()
        self._refuse(code, reason)
