"""Lists on a terminal: what strangers wrote is shown as it is, and does nothing."""

import io
import sys
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.text import Text

_WIDE: Final = 200


def console() -> Console:
    """Standard output; wide enough for a row where it is not a terminal."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal without UTF-8 lacks letters: that must not hide the messages they stand in.
        sys.stdout.reconfigure(errors="backslashreplace")
    made = Console(highlight=False, soft_wrap=True)
    return made if made.is_terminal else Console(highlight=False, soft_wrap=True, width=_WIDE)


def when(at: int | None) -> str:
    """A time in Unix milliseconds, in UTC."""
    if at is None:
        return "–"
    try:
        return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "–"


def plain(text: str) -> Text:
    """Text of strangers: nothing in it moves the cursor or colours the screen."""
    return Text("".join(letter if letter.isprintable() else "·" for letter in text))
