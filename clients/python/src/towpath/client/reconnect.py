"""When to reconnect, and how soon.

Close codes carry the verdict by range, so that old clients obey new codes (:mod:`towpath.protocol.close_codes`).
Waiting times use full jitter, the first one included, so that the users of a restarted gateway do not return all at
once (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

from typing import Any, Final, NamedTuple

from towpath.client.errors import is_number
from towpath.protocol.close_codes import CloseCode

GOING_AWAY: Final = 1001
#: No close frame came (RFC 6455, section 7.1.5).
ABNORMAL: Final = 1006

#: The first ceiling of a backoff, where one client alone has a reason to wait.
FIRST_CEILING_MS: Final = 1_000
#: The least ceiling once a connection was lost: all clients of a replica lose theirs in the same second.
SPREAD_MS: Final = 6_000

#: A connection, or the state of a view, that held this long has earned a fresh backoff; one that flaps has not.
STEADY_MS: Final = 10_000

_LAST_CEILING_MS: Final = 30_000
_LONGEST_ADVICE_MS: Final = 300_000

#: The replica is gone or going: another address is the better bet.
_REPLICA_GONE: Final = frozenset(
    {
        GOING_AWAY,
        ABNORMAL,
        CloseCode.SERVICE_RESTART,
        CloseCode.TRY_AGAIN_LATER,
        CloseCode.HEARTBEAT_LOST,
    }
)


class Wait(NamedTuple):
    """A range to draw a wait from, evenly."""

    min_ms: float
    max_ms: float


def should_move_on(code: float) -> bool:
    """Whether the next attempt goes to the next address."""
    return code in _REPLICA_GONE


def backoff(attempt: int, advice_ms: float = 0, first_ms: int = FIRST_CEILING_MS) -> Wait:
    """The range of the next wait.

    The server's advice is a floor and the jitter comes on top of it; otherwise all clients with the same advice would
    reconnect together.

    Args:
        attempt: 0 for the first.
        advice_ms: The time that the server asked for, see :func:`advised`.
        first_ms: The least ceiling.
    """
    # RFC 6455, section 7.2.3: a random wait before the first reconnect, and longer ones after it. The exponent is
    # bounded, since a client may be offline for months.
    ceiling = min(_LAST_CEILING_MS, max(first_ms, FIRST_CEILING_MS * 2 ** min(attempt, 30)))
    return Wait(advice_ms, advice_ms + ceiling)


def advised(retry_after_ms: Any) -> float:
    """The wait that a ``retry_after_ms`` asks for, within reason; 0 when there is none or it makes no sense."""
    return min(max(retry_after_ms, 0), _LONGEST_ADVICE_MS) if is_number(retry_after_ms) else 0
