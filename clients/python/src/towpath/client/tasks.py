"""The tasks of one client: none of them outlives it, and every exception of a task is reported."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

#: How long a task that was cancelled may take to end, in seconds.
_CANCEL_TIME = 1.0


class Tasks:
    """Runs coroutines in the background."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._finishing: set[asyncio.Task[Any]] = set()

    def spawn(
        self, coroutine: Coroutine[Any, Any, None], failed: Callable[[BaseException], None]
    ) -> "asyncio.Task[None]":
        """Run ``coroutine``; what it raises goes to ``failed``."""

        def ended(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                failed(error)

        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(ended)
        return task

    def cancel(self) -> None:
        """Cancel all tasks, except the one that asks for it."""
        for task in self._others():
            task.cancel()

    async def finish(self, timeout: float) -> None:
        """Wait for all tasks, and cancel what is left after ``timeout`` seconds, or when the wait is cancelled.

        A task may call this itself; it is not waited for, nor is another one that waits here.
        """
        me = asyncio.current_task()
        assert me is not None
        clock = me.get_loop().time
        deadline = clock() + timeout
        self._finishing.add(me)
        try:
            while (others := self._others()) and (left := deadline - clock()) > 0:
                await asyncio.wait(others, timeout=left)
        finally:
            self._finishing.discard(me)
            self.cancel()
        if others := self._others():
            await asyncio.wait(others, timeout=_CANCEL_TIME)

    def _others(self) -> "set[asyncio.Task[None]]":
        return {task for task in self._tasks - self._finishing if task is not asyncio.current_task()}
