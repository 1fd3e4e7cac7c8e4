"""Directed items, checked one by one: requests of services on ``connection.<gateway>`` and ``control.<user>``.

Guarantees: an item returned by :func:`read` can be carried out, and its envelope is a valid envelope in strict JSON;
an invalid item affects only itself, as far as the body can be split into items at all.
"""

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from json import JSONDecoder
from typing import Final

import msgspec

from towpath.protocol.envelope import ERROR, checked
from towpath.protocol.errors import BadEnvelope, ErrorCode
from towpath.protocol.messages import Directed, TooManyItems, read_directed, split_batch
from towpath.protocol.routes import group_key

#: Close codes that may stand in a close frame (RFC 6455, section 7.4); 1005, 1006 and 1015 may not.
_CLOSE_CODES: Final = range(1000, 5000)
_UNSENDABLE: Final = frozenset({1004, 1005, 1006, 1015})

#: Group names that are encoded at once: about 2 ms.
_NAMES: Final = 1000

_ERROR_CODES: Final = frozenset(code.value for code in ErrorCode)

_JSON: Final = JSONDecoder()
_ARRAY: Final = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*")
_COMMA: Final = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")


class _Data(msgspec.Struct):
    code: str = ErrorCode.INTERNAL.value


class _Error(msgspec.Struct):
    data: _Data


_ERROR: Final = msgspec.json.Decoder(_Error)


class GroupChange(msgspec.Struct, frozen=True, gc=False):
    """The membership changes of an item; groups are named by their routing keys.

    Attributes:
        as_of, complete, inbox: See :class:`~towpath.protocol.messages.Directed`.
    """

    subscribe: list[str]
    unsubscribe: list[str]
    as_of: int
    complete: bool
    inbox: int


class Item(msgspec.Struct, frozen=True, gc=False):
    """One item that can be carried out.

    Attributes:
        envelope: The envelope to deliver, unchanged; empty if there is none.
        correlation_id, traceparent: Of the envelope.
        error: The code of the error that the envelope is, if it is one; ``internal`` for one without a known code.
        groups: Its membership changes, if any.
        disconnect: Close code and reason.
    """

    connection_id: str | None
    envelope: bytes
    correlation_id: str | None
    groups: GroupChange | None
    disconnect: tuple[int, str] | None
    traceparent: str | None = None
    error: str | None = None


def read(body: bytes) -> Iterator[Item | BadEnvelope | None]:
    """The items of a body, in order; an invalid item is replaced by the error.

    An item may name a million groups: ``None`` after each thousand of them, so that the caller can do other work.
    """
    try:
        items: Iterable[Directed | BadEnvelope] = read_directed(body)
    except TooManyItems as error:
        # Not item by item: their number is what makes it too expensive.
        items = [error]
    except BadEnvelope:
        # The fast decoder refuses a body as a whole. Item by item costs more, and only a faulty sender pays for it.
        items = map(_one, split(body))
    for item in items:
        try:
            if isinstance(item, BadEnvelope):
                yield item
            elif item.subscribe or item.unsubscribe or item.complete:
                yield _checked(item, (yield from _change(item)))
            else:
                yield _checked(item, None)
        except BadEnvelope as error:
            yield error
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            yield BadEnvelope(f"This is not a directed item: {error}.")


def split(body: bytes) -> Iterator[bytes | BadEnvelope]:
    """The JSON texts of a body, as far as it is JSON; the rest is one :class:`BadEnvelope`."""
    try:
        yield from split_batch(body)
    except TooManyItems as error:
        yield error
    except BadEnvelope as error:
        yield from _split_as_far_as_possible(body)
        yield error


def _split_as_far_as_possible(body: bytes) -> Iterator[bytes]:
    # Latin-1 has one character per byte, so that offsets in the text are offsets in the body.
    text = body.decode("latin-1")
    if not (start := _ARRAY.match(text)):
        return
    at = start.end()
    try:
        while True:
            _, end = _JSON.raw_decode(text, at)
            yield body[at:end]
            if not (comma := _COMMA.match(text, end)):
                return
            at = comma.end()
    except (ValueError, RecursionError):
        return


def _one(text: bytes | BadEnvelope) -> Directed | BadEnvelope:
    try:
        return text if isinstance(text, BadEnvelope) else read_directed(text)[0]
    except (BadEnvelope, IndexError):
        return BadEnvelope("This is not a directed item.")


def _checked(item: Directed, groups: GroupChange | None) -> Item:
    envelope = bytes(item.envelope)
    if envelope == b"null":
        envelope = b""  # Some encoders write absent members as null.
    head = checked(envelope) if envelope else None
    return Item(
        item.connection_id,
        envelope,
        None if head is None else head.correlation_id,
        groups,
        None if item.disconnect is None else (_close_code(item.disconnect.code), item.disconnect.reason),
        None if head is None else head.traceparent,
        _error_code(envelope) if head is not None and head.action == ERROR else None,
    )


def _error_code(error: bytes) -> str:
    try:
        code = _ERROR.decode(error).data.code
    except msgspec.DecodeError:
        return ErrorCode.INTERNAL.value
    return code if code in _ERROR_CODES else ErrorCode.INTERNAL.value


def _change(item: Directed) -> Generator[None, None, GroupChange]:
    return GroupChange(
        (yield from _keys(item.subscribe)),
        (yield from _keys(item.unsubscribe)),
        item.as_of,
        # A list without a number cannot be ordered among other changes, so it is not complete.
        item.complete and bool(item.as_of),
        item.inbox,
    )


def _keys(groups: Sequence[str]) -> Generator[None, None, list[str]]:
    keys = [group_key(group) for group in groups[:_NAMES]]
    for start in range(_NAMES, len(groups), _NAMES):
        yield
        keys += [group_key(group) for group in groups[start : start + _NAMES]]
    return keys


def _close_code(code: int) -> int:
    if code not in _CLOSE_CODES or code in _UNSENDABLE:
        raise ValueError(f"{code} is not a close code")
    return code
