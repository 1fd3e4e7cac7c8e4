"""Waiting for what another process will do."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")


@overload
async def eventually(
    condition: Callable[[], Awaitable[T]], *, timeout: float = 30.0, every: float = 0.02
) -> T: ...
@overload
async def eventually(condition: Callable[[], T], *, timeout: float = 30.0, every: float = 0.02) -> T: ...
async def eventually(
    condition: Callable[[], T | Awaitable[T]], *, timeout: float = 30.0, every: float = 0.02
) -> T:
    """Ask again and again until ``condition`` holds, and return what it gave.

    Args:
        condition: Gives something true when it holds. An :class:`AssertionError` in it means "not yet".
        timeout: Seconds until it must hold.
        every: Seconds between two questions.

    Raises:
        AssertionError: It does not hold yet; the message has the last value, or is its own.
    """
    deadline = time.monotonic() + timeout
    while True:
        failure: AssertionError | None = None
        try:
            given = condition()
            value: T = await given if inspect.isawaitable(given) else given
            if value:
                return value
        except AssertionError as error:
            failure = error
        if time.monotonic() > deadline:
            raise failure or AssertionError(f"After {timeout:g} s it still gives {value!r}.")
        await asyncio.sleep(every)
