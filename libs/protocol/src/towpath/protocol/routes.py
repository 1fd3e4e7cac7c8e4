"""Exchanges, routing keys and queue names of the wire contract: pure functions and constants.

Guarantees: words that come from outside (user, group) are percent-encoded, so that no id can yield the key of
another user; the form of a user id is decided here alone (:func:`check_user_id`); the partition of a key is
the same in every run and language (CRC-32 as in zlib and PNG).
"""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote
from zlib import crc32

COMMANDS: Final = "towpath.commands"
EVENTS: Final = "towpath.events"
PUSH: Final = "towpath.push"
EXCHANGES: Final = (COMMANDS, EVENTS, PUSH)

#: Command queues a domain. Fixed by the contract: changing it would reorder what is on the way.
PARTITIONS: Final = 8

EVERYONE: Final = "everyone"
#: First word of keys by which gateways check bindings; nothing is delivered under them.
PROBE: Final = "probe"

SESSION_STARTED: Final = "session.started"
SESSION_ENDED: Final = "session.ended"
SESSION_ALIVE: Final = "session.alive"
#: Published periodically by each replica of a service on :data:`EVENTS`.
SERVICE_ALIVE: Final = "service.alive"
#: Replicas of a service to each other: which of its queues each of them consumes.
SERVICE_REPLICA: Final = "service.replica"

#: Waits before another try, longest last. Names are part of queue names; values are milliseconds.
RETRY_DELAYS: Final = {"5s": 5_000, "30s": 30_000, "2min": 120_000, "10min": 600_000}

#: The longest user id, in characters and in bytes once percent-encoded.
USER_ID_CHARACTERS: Final = 128
USER_ID_BYTES: Final = 200

_MAX_KEY_BYTES = 255  # AMQP 0-9-1 short string
_PLAIN: Final = re.compile(r"[A-Za-z0-9_:-]*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


# Cached, since each message needs it; bounded, since ids come from outside.
@lru_cache(maxsize=8192)
def encode_word(word: str) -> str:
    """Percent-encode ``word`` outside ``A-Z a-z 0-9 _ - :``, the dot included.

    Raises:
        ValueError: The word is empty, or too long for an AMQP routing key once encoded.
    """
    if not word:
        raise ValueError("an empty word cannot stand in a routing key")
    encoded = _encoded(word)
    # 32 bytes are left for the other word of the key and the dot.
    if len(encoded) > _MAX_KEY_BYTES - 32:
        raise ValueError(f"{word[:40]!r}… is too long for a routing key ({len(encoded)} bytes encoded)")
    return encoded


@lru_cache(maxsize=8192)
def check_user_id(user_id: str) -> str:
    """Return ``user_id`` as it is, if it is one. Code that takes a user id from outside calls this.

    :func:`user_key` takes longer words, too: rows of a database may name users from before these limits.

    Raises:
        ValueError: It is empty, too long, has a control character, or is not valid Unicode; the text gives the
            reason.
    """
    if not user_id:
        raise ValueError("a user id must not be empty")
    if len(user_id) > USER_ID_CHARACTERS:
        raise ValueError(f"a user id has at most {USER_ID_CHARACTERS} characters, this one {len(user_id)}")
    if _CONTROL.search(user_id):
        raise ValueError("a user id must not contain control characters")
    try:
        size = len(_encoded(user_id))
    except UnicodeEncodeError:
        raise ValueError("a user id must not contain lone surrogates") from None
    if size > USER_ID_BYTES:
        raise ValueError(f"a user id has at most {USER_ID_BYTES} bytes when percent-encoded, this one {size}")
    return user_id


def decode_word(word: str) -> str:
    """The inverse of :func:`encode_word`.

    Raises:
        ValueError: The encoded bytes are not UTF-8 (``UnicodeDecodeError`` is a ``ValueError``).
    """
    return unquote(word, errors="strict")


def _encoded(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    # quote() never touches letters, digits and _ . - ~ (RFC 3986), so "." and "~" are done by hand.
    return quote(word, safe=":").replace(".", "%2E").replace("~", "%7E")


def partition(key: str) -> int:
    """The partition of an ordering key: CRC-32 of its UTF-8 bytes, modulo :data:`PARTITIONS`."""
    return crc32(key.encode()) % PARTITIONS


@lru_cache(maxsize=8192)
def command_key(domain: str, key: str) -> str:
    """Routing key on :data:`COMMANDS` for an envelope of ``domain`` with ordering key ``key``."""
    return f"{domain}.{partition(key)}"


def user_key(user_id: str) -> str:
    """Routing key on :data:`PUSH` that reaches every connection of a user."""
    return f"user.{encode_word(user_id)}"


def group_key(group_id: str) -> str:
    """Routing key on :data:`PUSH` that reaches every member connection of a group."""
    return f"group.{encode_word(group_id)}"


def connection_key(gateway_id: str) -> str:
    """Routing key on :data:`PUSH` for items directed at connections of one gateway replica."""
    return f"connection.{encode_word(gateway_id)}"


def control_key(user_id: str) -> str:
    """Routing key on :data:`PUSH` for items directed at all connections of a user, on all replicas."""
    return f"control.{encode_word(user_id)}"


def command_queue(service: str, number: int) -> str:
    """Name of the queue that holds partition ``number`` of a service's commands."""
    return f"{service}.commands.{number}"


def events_queue(service: str) -> str:
    """Name of the queue of the events a service has bound."""
    return f"{service}.events"


def retry_queue(service: str, delay: str) -> str:
    """Name of the queue (and its exchange) where failures wait for ``delay`` (of :data:`RETRY_DELAYS`)."""
    return f"{service}.retry.{delay}"


def again_exchange(service: str) -> str:
    """Name of the exchange that routes what is tried again to the queue of ``service`` that it came from."""
    return f"{service}.again"


def dead_queue(service: str) -> str:
    """Name of the queue (and its exchange) where a service parks what it cannot handle."""
    return f"{service}.dead"
