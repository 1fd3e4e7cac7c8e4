"""Socket.IO 5 over Engine.IO 4, as python-socketio speaks it on a WebSocket.

A frame begins with the Engine.IO type (``0`` open, ``2`` ping, ``3`` pong, ``4`` message), a message with the
Socket.IO type (``0`` connect, ``2`` event, ``3`` acknowledgement): https://socket.io/docs/v4/socket-io-protocol/.
"""

import json
from collections.abc import Callable
from typing import Final

from bench.dialects import PADDING, Handshake, Publication, number_after


class SocketIo:
    """A dialect; see :class:`bench.dialects.Dialect`.

    Answers are the event ``answer``. A message to a room is ``said``, a push is ``note``: in both the text begins
    with the number.
    """

    answered = staticmethod(number_after(b'"answer",{"number":"'))
    heard = staticmethod(number_after(b',{"text":"'))

    def handshake(self, user: str) -> Handshake:
        return Handshake()

    def opening(self, user: str) -> list[bytes]:
        return [b'40{"user":"%s"}' % user.encode()]

    def opened(self, frame: bytes) -> bool:
        return frame.startswith(b"40")

    def request(self, kind: str, user: str) -> Callable[[int], bytes]:
        head, tail = b'42["%s",{"number":"' % kind.encode(), b'","text":"%s"}]' % PADDING.encode()
        return lambda number: b"%s%010d%s" % (head, number, tail)

    def refused(self, frame: bytes) -> int | None:
        return None

    def join(self, room: str, number: int) -> bytes:
        return b'42%d["join",{"room":"%s"}]' % (number, room.encode())

    def leave(self, room: str, number: int) -> bytes:
        return b'42%d["leave",{"room":"%s"}]' % (number, room.encode())

    def joined(self, frame: bytes) -> int | None:
        return int(frame[2 : frame.index(b"[")]) if frame.startswith(b"43") else None

    def say(self, room: str, user: str, padding: str = PADDING) -> Callable[[int], bytes]:
        head, middle = b'42["say",{"number":"', b'","room":"%s","text":"' % room.encode()
        tail = b'%s"}]' % padding.encode()
        return lambda number: b"%s%010d%s%010d%s" % (head, number, middle, number, tail)

    def push(self, user: str) -> Callable[[int], Publication]:
        # The message of a write-only manager for `emit("note", {"text": …}, room=user)`.
        emit = {
            "method": "emit",
            "event": "note",
            "data": [{"text": f"\0{PADDING}"}],
            "binary": False,
            "namespace": "/",
            "room": user,
            "skip_sid": None,
            "callback": None,
            "host_id": "bench",
        }
        before, _, after = json.dumps(emit).encode().partition(rb"\u0000")
        return lambda number: Publication("bench.emits", "*", b"%s%010d%s" % (before, number, after))

    def reply(self, frame: bytes) -> bytes | None:
        return b"3" if frame == b"2" else None


DIALECT: Final = SocketIo()
