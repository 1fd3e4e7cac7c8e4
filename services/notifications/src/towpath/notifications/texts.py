"""Texts of notifications and mails, in each language, from the templates in ``texts/``.

Guarantees: words of users and backends are values and never templates; templates run in Jinja's sandbox
(https://jinja.palletsprojects.com/en/stable/sandbox/) and change nothing; values are escaped in HTML. Every value is
one line without control characters, and is cut to :data:`VALUE_LETTERS`, before it is filled in. A word that a
template names and a caller does not give is an error.
"""

import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from jinja2 import FileSystemLoader, StrictUndefined, Template, select_autoescape
from jinja2.sandbox import ImmutableSandboxedEnvironment

#: Letters of a value in a text, such as the name of a room.
VALUE_LETTERS: Final = 200
_FOLDER: Final = Path(__file__).parent / "texts"
#: Control characters and line separators; and the formats that reorder text, such as U+202E.
_HIDDEN: Final = frozenset({"Cc", "Zl", "Zp"})
_REORDERING: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def one_line(value: str) -> str:
    """``value`` on one line, without characters that break or reorder it, cut to :data:`VALUE_LETTERS`.

    >>> one_line("a\\r\\nBcc: all")
    'a Bcc: all'
    """
    letters = (
        " " if unicodedata.category(letter) in _HIDDEN else letter
        for letter in value
        if letter not in _REORDERING and unicodedata.category(letter) != "Cs"
    )
    line = " ".join("".join(letters).split())
    return line if len(line) <= VALUE_LETTERS else line[: VALUE_LETTERS - 1] + "…"


def title_and_text(language: str, kind: str, values: Mapping[str, str]) -> tuple[str, str]:
    """The two lines of a notification."""
    texts = _texts(language)[kind]
    plain = {name: one_line(value) for name, value in values.items()}
    return texts["title"].render(plain), texts["text"].render(plain)


def mail(language: str, items: Sequence[Mapping[str, str]], more: int) -> tuple[str, str, str]:
    """The subject, the plain text and the HTML of a mail.

    Args:
        items: ``title``, ``text`` and ``url`` (or ``""``) of each notification, oldest first.
        more: The number of notifications that are not in it.
    """
    texts = _texts(language)["mail"]
    count = len(items) + more
    subject = texts["subject_one"] if count == 1 else texts["subject_many"]
    values = {
        "language": language,
        "items": items,
        "more": texts["more"].render(more=more) if more else "",
        "greeting": texts["greeting"].render(),
        "footer": texts["footer"].render(),
    }
    plain, html = (_environment().get_template(f"mail.{form}").render(values) for form in ("txt", "html"))
    return one_line(subject.render(title=items[0]["title"], count=count)), plain, html


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(_FOLDER),
        undefined=StrictUndefined,
        # The short texts are plain text; the page of a mail escapes them like any value.
        autoescape=select_autoescape(["html"], default_for_string=False),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@lru_cache(maxsize=16)
def _texts(language: str) -> Mapping[str, Mapping[str, Template]]:
    """The short texts of a language, by kind and name; they are plain text."""
    found = tomllib.loads((_FOLDER / f"{language}.toml").read_text(encoding="utf-8"))
    environment = _environment()
    return {
        kind: {name: environment.from_string(text) for name, text in texts.items()}
        for kind, texts in found.items()
    }
