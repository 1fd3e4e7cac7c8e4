"""The headers of a failed message: why it failed, how often, and where it came from. Pure functions.

A message that waits in a retry queue or in the dead queue carries them, so that an operator can read its history and
publish it again: ``x-attempt`` (failed attempts so far), ``x-attempts`` (time, error and code location of the last
failures), ``x-first-failed-at`` (Unix ms), ``x-error``, ``x-reason``, ``x-effect``, ``x-sender``, ``x-queue``,
``x-exchange``, ``x-routing-key``, ``x-replayed``, ``traceparent``.

Guarantees: any sender may write anything into these headers, so each is read as if it were forged: what cannot be
read counts as absent, numbers are clamped. The header table stays below the limit of RabbitMQ, which is one frame.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

import msgspec

from towpath.protocol.envelope import now_ms
from towpath.protocol.routes import RETRY_DELAYS
from towpath.servicekit.broker.interface import Delivery, HeaderValue
from towpath.servicekit.broker.limits import MAX_KEY_BYTES
from towpath.servicekit.runtime.error_text import describe_error

ATTEMPT: Final = "x-attempt"
ATTEMPTS: Final = "x-attempts"
FIRST_FAILED_AT: Final = "x-first-failed-at"
ERROR: Final = "x-error"
REASON: Final = "x-reason"
QUEUE: Final = "x-queue"
EXCHANGE: Final = "x-exchange"
ROUTING_KEY: Final = "x-routing-key"
REPLAYED: Final = "x-replayed"
#: ``none`` on a command whose sender got the answer that it had no effect.
EFFECT: Final = "x-effect"
NO_EFFECT: Final = "none"

#: ``x-reason`` of a message whose attempts all failed.
FAILED: Final = "failed"
#: ``x-reason`` of a message that no broker accepts.
UNPUBLISHABLE: Final = "unpublishable"

ERROR_LETTERS: Final = 500
_HISTORY: Final = 10
_HISTORY_ERROR_LETTERS: Final = 200
_REPLAYED_MAX: Final = 1_000_000


class Attempt(msgspec.Struct, frozen=True):
    """One failure in ``x-attempts``.

    Attributes:
        at: Unix milliseconds.
        where: The function and line that raised it; empty if it was not raised in project code.
    """

    at: int
    error: str
    where: str = ""


_ATTEMPTS: Final = msgspec.json.Decoder(list[Attempt])


def attempts(headers: Mapping[str, Any]) -> int:
    """Number of failed attempts, from 0 to the number of retry delays."""
    return min(number(headers, ATTEMPT), len(RETRY_DELAYS))


def number(headers: Mapping[str, Any], name: str) -> int:
    """An integer header; 0 if it is not an integer or is negative."""
    count = headers.get(name)
    return max(count, 0) if isinstance(count, int) and not isinstance(count, bool) else 0


def history(headers: Mapping[str, Any]) -> list[Attempt]:
    """The last failures of a message, oldest first; empty if the header cannot be read."""
    text = headers.get(ATTEMPTS)
    try:
        known = _ATTEMPTS.decode(text) if isinstance(text, str) else []
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return []
    return [
        Attempt(one.at, one.error[:_HISTORY_ERROR_LETTERS], one.where[:_HISTORY_ERROR_LETTERS])
        for one in known[-_HISTORY:]
    ]


def after_failure(delivery: Delivery, error: BaseException) -> dict[str, HeaderValue]:
    """The headers of ``delivery`` after one more failure.

    The first failure and the first routing key survive retries and replays: they say where the message came from,
    while the delivery itself came from a retry queue.
    """
    known = delivery.headers
    first, replayed = number(known, FIRST_FAILED_AT), min(number(known, REPLAYED), _REPLAYED_MAX)
    text, now = describe_error(error), now_ms()
    this = Attempt(now, text[:_HISTORY_ERROR_LETTERS], _where(error.__traceback__))
    headers: dict[str, HeaderValue] = {
        FIRST_FAILED_AT: first if 0 < first <= now else now,
        ERROR: text[:ERROR_LETTERS],
        ATTEMPTS: msgspec.json.encode([*history(known), this][-_HISTORY:]).decode(),
        QUEUE: delivery.queue,
        ROUTING_KEY: _key(known.get(ROUTING_KEY)) or delivery.routing_key,
    }
    if replayed:
        headers[REPLAYED] = replayed
    return headers


def of_unpublishable(exchange: str, routing_key: str, error: Exception) -> dict[str, HeaderValue]:
    """The headers of a message that no broker accepts. Its address may be the reason, so that is made encodable."""
    return {
        REASON: UNPUBLISHABLE,
        ERROR: _encodable(str(error))[:ERROR_LETTERS],
        FIRST_FAILED_AT: now_ms(),
        EXCHANGE: _encodable(exchange)[:MAX_KEY_BYTES],
        ROUTING_KEY: _encodable(routing_key)[:MAX_KEY_BYTES],
    }


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _key(value: Any) -> str:
    """The routing key in a header; empty if it is not a valid key."""
    return value if isinstance(value, str) and len(value.encode("utf-8", "replace")) <= MAX_KEY_BYTES else ""


def _where(traceback: TracebackType | None) -> str:
    """The function and line that raised the error, in one line."""
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    frame = traceback.tb_frame
    return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_name}:{traceback.tb_lineno}"[:200]
