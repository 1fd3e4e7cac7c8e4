"""Listeners by name.

A listener that raises does not affect the others: the error goes to the ``error`` listeners, or is logged if there
are none. Plain functions are called at once, in the order they were added. Coroutine functions run as tasks of
their own: two calls of one may overlap.
"""

import inspect
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from towpath.client.tasks import Tasks

log = logging.getLogger("towpath.client")

Listener = Callable[..., object]

#: The arguments of listeners, by event; listeners for pushes are registered by the action's name.
_SIGNATURES: Final = {
    "state": ("state", "error"),
    "error": ("error",),
    "incomplete": ("incomplete",),
    "retry": ("retry",),
}
_PUSH: Final = ("data", "envelope")


class Listeners:
    """All listeners of one client; their coroutines run in ``tasks``."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._by_name: dict[str, tuple[Listener, ...]] = {}

    def add(self, name: str, listener: Listener) -> Callable[[], None]:
        """Add a listener; what is returned takes it off.

        A listener may leave out parameters at the end that it has no use for.

        Raises:
            TypeError: It cannot be called with what there is.
        """
        fitted = _fitted(listener, _SIGNATURES.get(name, _PUSH))
        self._by_name[name] = (*self._by_name.get(name, ()), fitted)

        def off() -> None:
            self._by_name[name] = tuple(one for one in self._by_name[name] if one is not fitted)

        return off

    def emit(self, name: str, *values: object) -> None:
        """Call the listeners of ``name``."""
        for listener in self._by_name.get(name, ()):
            self.call(listener, *values)

    def call(self, listener: Listener, *values: object) -> None:
        """Call one listener, or begin it."""
        self._call(listener, values, self.report)

    def report(self, error: BaseException) -> None:
        """Report a background error."""
        listeners = self._by_name.get("error", ())
        for listener in listeners:
            self._call(listener, (error,), _log)
        if not listeners:
            _log(error)

    def _call(
        self, listener: Listener, values: tuple[object, ...], failed: Callable[[BaseException], None]
    ) -> None:
        try:
            result = listener(*values)
        except Exception as error:
            failed(error)
        else:
            if inspect.iscoroutine(result):
                self._tasks.spawn(_to_its_end(result), failed)


async def _to_its_end(coroutine: Coroutine[Any, Any, object]) -> None:
    await coroutine


def _log(error: BaseException) -> None:
    log.error("%s", error, exc_info=error)


def _fitted(listener: Listener, names: tuple[str, ...]) -> Listener:
    """``listener``, called with as many of the values as it takes."""
    try:
        signature = inspect.signature(listener)
    except ValueError:  # some functions written in C have no signature
        return partial(listener)
    for count in range(len(names), -1, -1):
        try:
            signature.bind(*names[:count])
        except TypeError:
            continue
        return partial(_first, count, listener)
    raise TypeError(f"{listener!r} is called with ({', '.join(names)}); it takes {signature}.")


def _first(count: int, listener: Listener, *values: object) -> object:
    return listener(*values[:count])
