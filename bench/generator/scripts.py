"""The scripts a generator can run, by name."""

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any, Final

Script = Callable[..., Awaitable[dict[str, Any]]]

#: Name → module of this folder; its function is called ``run``.
_MODULES: Final = {
    "request": "requesting",
    "room": "speaking",
    "push": "pushing",
    "idle": "idling",
    "death": "outliving",
    "resume": "resuming",
    "connect": "connecting",
    "churn": "churning",
    "crowd": "crowding",
    "converse": "conversing",
    "read": "reading",
}


def script(name: str) -> Script:
    """The script of this name: a coroutine function that takes a :class:`~bench.generator.control.Control`."""
    found: Script = import_module(f"bench.generator.{_MODULES[name]}").run
    return found
