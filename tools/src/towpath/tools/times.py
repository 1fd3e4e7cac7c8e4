"""Points in time and durations, as options of commands give them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from towpath.tools.trouble import Trouble

_DURATION: Final = re.compile(r"(\d{1,6})(s|m|h|d)")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class BadTime(Trouble):
    """An invalid point in time, or duration."""

    status = 2


def since(text: str, *, option: str = "--since", now: datetime | None = None) -> int:
    """A point in time, Unix milliseconds: ``90s``, ``30m``, ``2h`` and ``7d`` ago, or ISO 8601 (UTC where it says
    nothing else).

    Raises:
        BadTime
    """
    try:
        if ago := _DURATION.fullmatch(text):
            at = (now or datetime.now(UTC)) - _timedelta(ago)
        else:
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
        at = at.astimezone(UTC)
        return int(at.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise BadTime(
            f"{option} {text[:70]!a}: must be like 30m, 2h, 7d or 2026-11-23T10:30 (UTC unless it says otherwise)"
        ) from None


def seconds(text: str, *, option: str) -> float:
    """A duration: ``90s``, ``30m``, ``2h``, ``7d``.

    Raises:
        BadTime
    """
    if (found := _DURATION.fullmatch(text)) is None:
        raise BadTime(f"{option} {text[:70]!a}: must be like 90s, 30m, 2h or 7d")
    return _timedelta(found).total_seconds()


def _timedelta(found: re.Match[str]) -> timedelta:
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
