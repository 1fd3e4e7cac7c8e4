"""A publisher for programs without an event loop: Flask, Django, scripts.

It runs a :class:`~towpath.publisher.Publisher` on a loop in a thread of its own; all threads of the program may use
it at once. Open it after a fork, in each worker process: a thread does not survive a fork.
"""

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from towpath.publisher.errors import PublisherClosed
from towpath.publisher.message import Event
from towpath.publisher.publisher import Publisher, Result

_STOP_SECONDS: Final = 10.0

T = TypeVar("T")


class SyncPublisher:
    """The calls of :class:`~towpath.publisher.Publisher`, which block the calling thread.

    Args:
        url, app_id, options: As of :class:`~towpath.publisher.Publisher`.

    Example::

        with SyncPublisher("amqp://shop:…@broker/", app_id="shop") as publisher:
            publisher.publish("order.paid", {"order_id": "o-1", "user_id": "ana"})
    """

    def __init__(self, url: str, *, app_id: str, **options: Any) -> None:
        self._url = url
        self._options = {"app_id": app_id, **options}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._publisher: Publisher | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        """Connect; raises as :meth:`Publisher.__aenter__` does."""
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> Self:
        """Connect, for programs whose start and end are not one block; :meth:`close` ends it."""
        if self._loop is not None:
            raise PublisherClosed("this publisher is open already")
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="towpath-publisher", daemon=True)
        self._thread.start()
        try:
            self._publisher = self._run(self._opened())
        except BaseException:
            self._stop()
            raise
        return self

    def close(self) -> None:
        """Close the connection, and end the thread."""
        if self._loop is None or self._pid != os.getpid():
            return
        try:
            if self._publisher is not None:
                self._run(self._publisher.__aexit__(None, None, None))
        finally:
            self._publisher = None
            self._stop()

    def publish(
        self,
        event: Event | str,
        data: Mapping[str, Any] | None = None,
        *,
        msg_id: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """See :meth:`Publisher.publish`."""
        return self._run(self._open_one().publish(event, data, msg_id=msg_id, timeout=timeout))

    def publish_many(self, events: Iterable[Event], *, timeout: float | None = None) -> list[Result]:
        """See :meth:`Publisher.publish_many`."""
        return self._run(self._open_one().publish_many(list(events), timeout=timeout))

    def push(
        self,
        user_id: str,
        event: Event | str,
        data: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
    ) -> str:
        """See :meth:`Publisher.push`."""
        return self._run(self._open_one().push(user_id, event, data, timeout=timeout))

    async def _opened(self) -> Publisher:
        return await Publisher(self._url, **self._options).__aenter__()

    def _open_one(self) -> Publisher:
        if self._publisher is None:
            raise PublisherClosed("the publisher is not open: use `with SyncPublisher(…)`")
        if self._pid != os.getpid():
            raise PublisherClosed(
                "the publisher was opened before a fork: open it in each worker process (post_fork in gunicorn)"
            )
        return self._publisher

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            # Each call of the publisher has a time limit of its own.
            return future.result()
        except concurrent.futures.CancelledError:
            raise PublisherClosed("the publisher was closed meanwhile") from None
        except BaseException:
            future.cancel()
            raise

    def _stop(self) -> None:
        loop, thread, self._loop = self._loop, self._thread, None
        assert loop is not None
        assert thread is not None
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_STOP_SECONDS)
        if not thread.is_alive():
            loop.close()
