"""Values of other people's messages as JSON text that a terminal shows and does not obey."""

import json
from typing import Any


def as_json(value: Any, *, indent: int | None = None) -> str:
    r"""``value`` as JSON, in which every letter that a terminal would not print is an escape of JSON.

    Escape sequences, controls of direction and hidden letters cannot change the screen then; letters of all scripts
    stay as they are, and the text is still JSON.

    Args:
        indent: Blanks a level; ``None`` for one line.

    Example:
        >>> print(as_json({"text": "\x1b[2J\x9b1m 早"}))
        {"text": "\u001b[2J\u009b1m 早"}
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return "".join(letter if letter.isprintable() or letter == "\n" else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    return json.dumps(letter)[1:-1]
