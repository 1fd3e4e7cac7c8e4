"""A view as an async iterator: the state of a stream, and then every later change of it.

Updates that were not taken yet are kept, up to a limit. If it is exceeded they are dropped, and the state is loaded
again once the reader asks for the next update. A new state replaces what is kept: it includes all of it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

from towpath.client.envelope import Envelope, whole
from towpath.client.errors import TowpathError

State = TypeVar("State")

#: Gives a state, such as the answer to a request.
Load: TypeAlias = Callable[[], Awaitable[State]]


@dataclass(frozen=True, slots=True)
class Reset(Generic[State]):
    """The state of the stream. It replaces all that came before.

    Attributes:
        state: The result of ``load``.
        seq: The position that it includes.

    Example:
        >>> Reset({"room": "lobby", "messages": [], "seq": 41}, seq=41).state["messages"]
        []
    """

    state: State
    seq: int


@dataclass(frozen=True, slots=True)
class Change:
    """The next push of the stream.

    Attributes:
        action: Such as ``chat.message``.
        data: Its payload.
        seq: Its position.
        envelope: All of it.

    Example:
        >>> Change("chat.message", {"text": "Hello!"}, 42, {}).data
        {'text': 'Hello!'}
    """

    action: str
    data: dict[str, Any]
    seq: int
    envelope: Envelope


class View(Generic[State]):
    """The state of a stream and its changes; made by ``Client.open_view``. It is for one task.

    ``async with`` closes it at the end. A view that is no longer referenced is closed as well.

    Example:
        >>> from towpath.client import connect
        >>> client = connect("wss://example.org/ws", token="a JWT")
        >>> async def show_orders() -> None:
        ...     orders: dict[str, Any] = {}
        ...     async with client.open_view("order:ana", lambda: client.request("order.list")) as view:
        ...         async for update in view:
        ...             match update:
        ...                 case Reset(state):
        ...                     orders = {order["order_id"]: order for order in state["orders"]}
        ...                 case Change("order.updated", order):
        ...                     orders[order["order_id"]] = {**orders.get(order["order_id"], {}), **order}
        ...             print(len(orders), "orders")
    """

    def __init__(self, feed: "Feed[State]") -> None:
        self._feed = feed

    @property
    def stream(self) -> str:
        """The name of the stream."""
        return self._feed.stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> "Reset[State] | Change":
        """The next update; the first one is a :class:`Reset`.

        Raises:
            TowpathError: The error that ended the view, after all that was kept.
        """
        return await self._feed.take()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the view. Its updates are dropped, a load under way is cancelled. A second call has no effect."""
        self._feed.close()

    def __del__(self) -> None:
        self._feed.leave()


class Feed(Generic[State]):
    """The client's side of one view. It has no reference to the :class:`View`, so that that can be garbage-collected.

    Args:
        stream: The name of the stream.
        load: Gives a state.
        position: Gives the position that a state includes; ``None`` for its ``seq``.
        limit: Number of updates that are kept.
        timeout: Seconds that one load may take.
        reload: Called when the reader is back and needs a state.
        closed: Called once, when nothing more is wanted.
    """

    def __init__(
        self,
        stream: str,
        load: Load[State],
        *,
        position: Callable[[State], int] | None,
        limit: int,
        timeout: float,
        reload: Callable[[], None],
        closed: Callable[[], None],
    ) -> None:
        self.stream = stream
        self.load = load
        self.timeout = timeout
        self.loading: asyncio.Task[None] | None = None
        self._position = position
        self._limit = limit
        self._reload = reload
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._kept: deque[Reset[State] | Change] = deque()
        self._is_behind = False  # updates were dropped for want of room
        self._over = False
        self._error: TowpathError | None = None
        self._news: asyncio.Future[None] | None = None

    def position_of(self, state: State) -> int:
        """The position that ``state`` includes.

        Raises:
            TowpathError: ``load_failed``: it has none.
        """
        given: Any = state
        if self._position is not None:
            given = self._position(state)
        else:
            given = given.get("seq") if isinstance(given, Mapping) else getattr(given, "seq", None)
        seq = whole(given)
        if seq is None or seq < 0:
            message = (
                f"load() gave no position of {self.stream} but {given!r}: "
                "its state needs a seq, or open_view the argument position."
            )
            raise TowpathError("load_failed", message)
        return seq

    def put(self, update: Reset[State] | Change) -> None:
        """Something for the reader."""
        if self._over or self._is_behind:
            return
        if isinstance(update, Reset):
            self._kept.clear()
        if len(self._kept) < self._limit:
            self._kept.append(update)
            self._wake()
        else:
            self._kept.clear()
            self._is_behind = True

    def end(self, error: TowpathError | None) -> None:
        """Nothing more will come; ``error`` is what the reader gets in its place."""
        if self._over:
            return
        self._over = True
        self._is_behind = False
        self._error = error
        if self.loading is not None:
            self.loading.cancel()
        self._wake()
        self._closed()

    async def take(self) -> Reset[State] | Change:
        """The next update."""
        while not self._kept:
            if self._over:
                # Raised once; after that the iteration is over.
                error, self._error = self._error, None
                raise StopAsyncIteration if error is None else error.copied()
            if self._news is not None:
                raise RuntimeError(f"Two tasks read one view of {self.stream}; open one for each.")
            if self._is_behind:
                self._is_behind = False
                self._reload()
                continue
            self._news = self._loop.create_future()
            try:
                await self._news
            finally:
                self._news = None
        return self._kept.popleft()

    def close(self) -> None:
        """The reader is done."""
        self._kept.clear()
        self.end(None)
        self._error = None

    def leave(self) -> None:
        """The reader is gone; called at any moment, in any thread."""
        if not self._over:
            # The loop is closed: so is the client.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.close)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
