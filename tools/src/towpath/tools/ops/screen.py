"""The output of operators' commands: tables for people, JSON for programs.

Guarantee: names that others chose cannot move the cursor or change what a terminal shows.
"""

import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from towpath.protocol.names import shown
from towpath.tools.visible import as_json


def console(*, stderr: bool = False) -> Console:
    """A console for plain text; without a terminal its lines are as long as they are."""
    made = Console(highlight=False, stderr=stderr)
    if not made.is_terminal:
        made.width = 200
    return made


def plain(text: str, style: str = "") -> Text:
    """A text of others, as it is and visible."""
    return Text(shown(text), style=style)


def print_json(value: Any) -> None:
    """One line of JSON on standard output."""
    line(as_json(value))


def line(text: str) -> None:
    """One line on standard output, at once.

    Raises:
        BrokenPipeError: The reader is gone, as `head` is.
    """
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end: https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def duration(seconds: float) -> str:
    """A time for people: the two largest units."""
    whole = int(seconds)
    for unit, length, smaller, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60)):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {smaller}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
