"""The envelope of Towpath's contract without its tokens: what the hand-written peers speak, so that all of them move
the same bytes."""

from collections.abc import Callable
from typing import Final

from bench.dialects import PADDING, Handshake, Publication, number_after

PUSHES: Final = "bench.push"


class Plain:
    """See :class:`bench.dialects.Dialect`. Listeners get ``room.said`` and ``user.note``."""

    heard = staticmethod(number_after(b'"text":"'))
    correlated = staticmethod(number_after(b'"correlation_id":"'))

    def handshake(self, user: str) -> Handshake:
        return Handshake(headers={"X-User": user})

    def opening(self, user: str) -> list[bytes]:
        return []

    def opened(self, frame: bytes) -> bool:
        return b'"action":"session.welcome"' in frame

    def request(self, kind: str, user: str) -> Callable[[int], bytes]:
        return envelopes("echo.say", f'"text":"{PADDING}"')

    def answered(self, frame: bytes) -> int | None:
        return self.correlated(frame) if b'.ok"' in frame else None

    def refused(self, frame: bytes) -> int | None:
        return self.correlated(frame)

    def join(self, room: str, number: int) -> bytes:
        return envelopes("room.join", f'"room":"{room}"')(number)

    def leave(self, room: str, number: int) -> bytes:
        return envelopes("room.leave", f'"room":"{room}"')(number)

    def joined(self, frame: bytes) -> int | None:
        return self.answered(frame)

    def say(self, room: str, user: str, padding: str = PADDING) -> Callable[[int], bytes]:
        return numbered_texts("room.say", f'"room":"{room}",', padding=padding)

    def push(self, user: str) -> Callable[[int], Publication]:
        make = numbered_texts("user.note")
        return lambda number: Publication(PUSHES, f"user.{user}", make(number))

    def reply(self, frame: bytes) -> bytes | None:
        return None


def envelopes(action: str, data: str, more: str = "") -> Callable[[int], bytes]:
    """Makes envelopes whose ``msg_id`` is the number.

    Args:
        data: The fields of ``data``, as JSON without its braces.
        more: Further fields of the envelope, each with a comma before it.
    """
    after = (
        f'","timestamp":1700000000000,"action":"{action}","data":{{{data}}},"version":"1.0"{more}}}'.encode()
    )
    return lambda number: b'{"msg_id":"%010d%s' % (number, after)


def numbered_texts(
    action: str, fields: str = "", more: str = "", padding: str = PADDING
) -> Callable[[int], bytes]:
    """Makes envelopes whose ``msg_id`` is the number, and whose ``text`` begins with it.

    Args:
        fields: Further fields of ``data``, each with a comma after it.
        more: As in :func:`envelopes`.
    """
    middle = f'","timestamp":1700000000000,"action":"{action}","data":{{{fields}"text":"'.encode()
    after = f'{padding}"}},"version":"1.0"{more}}}'.encode()
    return lambda number: b'{"msg_id":"%010d%s%010d%s' % (number, middle, number, after)


DIALECT: Final = Plain()
