"""The texts of settings, from the docstrings of their models: for ``--help`` and for the page of all settings."""

import re
from collections.abc import Iterator

from pydantic import BaseModel


def setting_texts(model: type[BaseModel]) -> dict[str, str]:
    """The meaning of each field of ``model``, those of its bases included; in Markdown.

    A field that no docstring describes below ``Attributes:`` is missing here, as all are under ``python -OO``.
    """
    texts: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        texts |= dict(_described(parent.__doc__ or ""))
    return texts


def _described(docstring: str) -> Iterator[tuple[str, str]]:
    """Name and text of each entry below ``Attributes:``; several names may share a text."""
    _, _, section = docstring.partition("Attributes:\n")
    for entry in re.split(r"\n {8}(?=\w)", "\n" + section.rstrip()):
        names, colon, text = entry.partition(": ")
        if colon:
            for name in names.split(", "):
                yield name.strip(), " ".join(text.replace("``", "`").split())
