"""STOMP 1.2 on a WebSocket, as RabbitMQ's Web-STOMP plugin speaks it; bodies are the envelopes of ``plain``.

Answers arrive on a temporary queue that the plugin makes for ``reply-to``; a room, and pushes to the user, are
subscriptions to an exchange: https://www.rabbitmq.com/docs/stomp#d.
"""

from collections.abc import Callable
from typing import Final

from bench.dialects import PADDING, Handshake
from bench.dialects.plain import PUSHES, Plain

#: User and password: for the time of a measurement, on its virtual host.
LOGIN: Final = "bench"
#: The queue of requests, and the exchange of rooms.
REQUESTS: Final = "bench.work"
ROOMS: Final = "bench.rooms"

_SEND: Final = (
    f"SEND\ndestination:/amq/queue/{REQUESTS}\nreply-to:/temp-queue/answers\npersistent:true\n\n".encode()
)


class Stomp(Plain):
    """See :class:`bench.dialects.Dialect`. A frame without an answer asks for a receipt."""

    def handshake(self, user: str) -> Handshake:
        return Handshake(subprotocols=["v12.stomp"])

    def opening(self, user: str) -> list[bytes]:
        return [
            _frame("CONNECT", f"accept-version:1.2\nlogin:{LOGIN}\npasscode:{LOGIN}\nheart-beat:0,0"),
            _frame("SUBSCRIBE", f"id:{user}\ndestination:/exchange/{PUSHES}/user.{user}\nreceipt:open"),
        ]

    def opened(self, frame: bytes) -> bool:
        return b"\nreceipt-id:open\n" in frame

    def request(self, kind: str, user: str) -> Callable[[int], bytes]:
        return _sent(super().request(kind, user))

    def join(self, room: str, number: int) -> bytes:
        return _frame("SUBSCRIBE", f"id:{room}\ndestination:/exchange/{ROOMS}/{room}\nreceipt:{number}")

    def leave(self, room: str, number: int) -> bytes:
        return _frame("UNSUBSCRIBE", f"id:{room}\nreceipt:{number}")

    def joined(self, frame: bytes) -> int | None:
        before, mark, after = frame.partition(b"\nreceipt-id:")
        return int(after[: after.index(b"\n")]) if mark and before == b"RECEIPT" else None

    def say(self, room: str, user: str, padding: str = PADDING) -> Callable[[int], bytes]:
        return _sent(super().say(room, user, padding))


def _frame(command: str, headers: str) -> bytes:
    return f"{command}\n{headers}\n\n\0".encode()


def _sent(make: Callable[[int], bytes]) -> Callable[[int], bytes]:
    return lambda number: b"%s%s\0" % (_SEND, make(number))


DIALECT: Final = Stomp()
