"""The works, by name."""

from importlib import import_module
from typing import Final

from bench.works.interface import Work

#: Each is a module; in the order of the page.
NAMES: Final = (
    "request",
    "steady",
    "orders",
    "room",
    "push",
    "chat",
    "idle",
    "death",
    "resume",
    "connect",
    "churn",
    "stalled",
)


def work(name: str) -> Work:
    """The work of this name.

    Raises:
        KeyError: There is none.
    """
    if name not in NAMES:
        raise KeyError(name)
    found = import_module(f"bench.works.{name}").WORK
    assert isinstance(found, Work)
    return found
