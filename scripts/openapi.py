"""Writes docs/reference/openapi.json, the HTTP interface of the ingress, from its code: ``make docs``.

A test fails when it differs from the code.
"""

import json
from pathlib import Path
from typing import Final, NoReturn

from towpath.ingress.api import build

FILE: Final = Path(__file__).parent.parent / "docs/reference/openapi.json"


def render() -> str:
    """The document."""

    def nothing() -> NoReturn:
        raise AssertionError("no request is made")

    return json.dumps(build(nothing).openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
