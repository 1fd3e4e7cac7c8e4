"""The lists of this repository that name each service, besides its entry point: two files that people edit.

Guarantee: :meth:`Insertion.out_of` the text that :meth:`Insertion.into` returns is the text as it was, byte for byte;
lines that have changed meanwhile are never removed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from towpath.tools.trouble import Trouble

LAYERS: Final = "pyproject.toml"
COMPOSE: Final = "docker-compose.yml"

_LAYER: Final = re.compile(r'^    "gateway( \| \w+)*"', re.M)
#: The containers behind all services, with the comment above them.
_AFTER_SERVICES: Final = re.compile(r"(?:^  #.*\n)*^  web:\n", re.M)
_AFTER_ACCOUNTS: Final = re.compile(r"^      TOWPATH_BROKER_PASSWORD_BACKEND: .*\n", re.M)
_AFTER_DATABASES: Final = re.compile(r"^    volumes:\n      - postgres:/", re.M)


class OddList(Trouble):
    """A list does not have the form that is expected."""


@dataclass(frozen=True, slots=True)
class Insertion:
    """Text in a file, for one service.

    Attributes:
        file: Its path in the repository.
        text: The inserted text.
        place: The offset of the place in a text without it.
        part: The part of a text that may have it, from offset to offset.
    """

    file: str
    text: str
    place: Callable[[str], int]
    part: Callable[[str], tuple[int, int]] = lambda text: (0, len(text))

    def into(self, before: str) -> str:
        """``before`` with the text.

        Raises:
            OddList: The place is missing.
        """
        at = self.place(before)
        return before[:at] + self.text + before[at:]

    def out_of(self, text: str) -> str:
        """``text`` without it.

        Raises:
            OddList: It is not there as it was inserted, or not exactly once.
        """
        begin, end = self.part(text)
        found = list(re.finditer(re.escape(self.text) + r"(?!\w)", text[begin:end]))
        if len(found) != 1:
            lines = self.text.strip("\n").splitlines()
            raise OddList(
                f"{self.file}: the text of the service, from {lines[0].strip()!r} on, is not as it was made; "
                "remove it by hand, or restore it, and repeat the command"
            )
        return text[: begin + found[0].start()] + text[begin + found[0].end() :]


def insertions(name: str, block: str, *, with_storage: bool) -> list[Insertion]:
    """All insertions for a service.

    Args:
        block: Its block in the compose file, with the empty line behind it.
    """
    found = [
        Insertion(LAYERS, f" | {name}", lambda text: _layer(text)[1] - 1, _layer),
        Insertion(COMPOSE, block, _before(COMPOSE, _AFTER_SERVICES, "the container `web`")),
        Insertion(
            COMPOSE,
            _password(f"TOWPATH_BROKER_PASSWORD_{name.upper()}"),
            _before(COMPOSE, _AFTER_ACCOUNTS, "TOWPATH_BROKER_PASSWORD_BACKEND of `accounts`"),
        ),
    ]
    if with_storage:
        found.append(
            Insertion(
                COMPOSE,
                _password(f"{name.upper()}_DATABASE_PASSWORD"),
                _before(COMPOSE, _AFTER_DATABASES, "the volumes of `postgres`"),
            )
        )
    return found


def _password(variable: str) -> str:
    return f"      {variable}: ${{{variable}:?run make up}}\n"


def _layer(text: str) -> tuple[int, int]:
    """The layer of services, with its quotes."""
    found = list(_LAYER.finditer(text))
    if len(found) != 1:
        raise OddList(
            f"{LAYERS}: import-linter has no layer that begins with gateway; add the service by hand"
        )
    return found[0].span()


def _before(file: str, pattern: re.Pattern[str], what: str) -> Callable[[str], int]:
    def place(text: str) -> int:
        match = pattern.search(text)
        if match is None:
            raise OddList(f"{file}: {what} is not where it was; add the service by hand")
        return match.start()

    return place
