"""The systems under measurement, by name; a module is loaded when its system is asked for."""

from collections.abc import Sequence
from importlib import import_module
from typing import Final

from bench.systems.interface import System

#: In the order of tables. ``bare`` is what the others are compared to.
NAMES: Final = ("towpath", "bare", "socketio", "socketio_tuned", "webstomp", "node", "limit")

#: Measured only when they are named.
ON_REQUEST: Final = ("rights", "traces_1", "traces_100", "before")


def system(name: str) -> System:
    """The system of this name.

    Raises:
        KeyError: There is none.
    """
    if name not in (*NAMES, *ON_REQUEST):
        raise KeyError(name)
    found = import_module(f"bench.systems.{name}").SYSTEM
    assert isinstance(found, System)
    return found


def systems(names: Sequence[str] = NAMES) -> list[System]:
    """The systems of these names."""
    return [system(name) for name in names]
