"""Towpath's contract as clients speak it: tokens, keys, chat and orders."""

import re
from collections.abc import Callable
from typing import Final

from bench.dialects import PADDING, Handshake, Publication
from bench.dialects.plain import Plain, envelopes, numbered_texts
from towpath.testkit.tokens import a_token

_POSITION: Final = re.compile(rb'"stream":"[^"]*","seq":([0-9]+)')
_STORED: Final = re.compile(rb'"data":\{"room":"[^"]*","seq":([0-9]+)')


class Towpath(Plain):
    """See :class:`bench.dialects.Dialect`. Rooms are those of chat, and all that is said there is stored."""

    def handshake(self, user: str) -> Handshake:
        return Handshake({"Authorization": f"Bearer {a_token(user)}"}, ["towpath.v1"])

    def request(self, kind: str, user: str) -> Callable[[int], bytes]:
        """A function that makes the nth request of a kind.

        ``echo``; ``compute`` and ``wait`` of 5 ms; ``order.get`` of the one order that ``order.first`` made;
        ``order.submit`` of a new one.
        """
        match kind:
            case "echo":
                return envelopes("echo.say", f'"text":"{PADDING}"')
            case "compute" | "wait":
                return envelopes(f"slow.{kind}", "")
            case "order.first":
                return envelopes("order.submit", f'"order_id":"{user}-first","amount":"9.90"')
            case "order.get":
                return envelopes("order.get", f'"order_id":"{user}-first"')
            case "order.submit":
                return lambda number: envelopes(
                    "order.submit", f'"order_id":"{user}-{number}","amount":"9.90"'
                )(number)
        raise KeyError(kind)

    def join(self, room: str, number: int) -> bytes:
        return envelopes("chat.join", f'"room":"{room}"', f',"key":"{room}"')(number)

    def leave(self, room: str, number: int) -> bytes:
        return envelopes("chat.leave", f'"room":"{room}"', f',"key":"{room}"')(number)

    def say(self, room: str, user: str, padding: str = PADDING) -> Callable[[int], bytes]:
        return numbered_texts("chat.send", f'"room":"{room}",', f',"key":"{room}"', padding)

    def push(self, user: str) -> Callable[[int], Publication]:
        make = numbered_texts("user.note")
        return lambda number: Publication("towpath.push", f"user.{user}", make(number))

    def resume(self, room: str, seq: int, number: int) -> bytes:
        """Asks for what came after ``seq`` in a room's stream."""
        return envelopes("chat.resume", f'"positions":{{"chat:{room}":{seq}}}')(number)

    def position(self, frame: bytes) -> int | None:
        """The ``seq`` of a push that has one; ``None`` for any other frame."""
        found = _POSITION.search(frame)
        return None if found is None else int(found[1])

    def stored(self, frame: bytes) -> int:
        """The ``seq`` that the answer to a message names."""
        found = _STORED.search(frame)
        assert found is not None, frame
        return int(found[1])


DIALECT: Final = Towpath()
