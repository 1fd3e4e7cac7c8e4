"""A stream's pushes as an async iterator: in order, each once, from the moment it is made.

Pushes that the reader has not taken yet are kept, up to a limit. If it is exceeded, or the client is closed for
good, the
reader still gets what is kept, and then the error: nothing is left out silently.

A push counts as read when the reader asks for the next one. The saved positions never pass an unread push
(:meth:`Readers.hold_back`), so that it is received again after a crash.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from towpath.client.envelope import Envelope, position_of
from towpath.client.errors import TowpathError


class StreamReader:
    """Reads one stream; made by ``Client.stream``. It is for one task.

    Example:
        >>> from towpath.client import connect
        >>> client = connect("wss://example.org/ws", token="a JWT")
        >>> async def show_messages() -> None:
        ...     async for envelope in client.stream("chat:lobby"):
        ...         print(envelope["seq"], envelope["data"])
    """

    def __init__(self, box: "_Box") -> None:
        self._box = box

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Envelope:
        """The next push.

        Raises:
            TowpathError: ``overrun`` or ``closed``, after all that was kept.
        """
        return await self._box.take()

    def close(self) -> None:
        """End the reader and drop its buffered pushes, which count as read. Leaving the loop does not drop them."""
        self._box.close()

    def __del__(self) -> None:
        self._box.leave()


class Readers:
    """All readers of one client.

    Args:
        moved: Called when a reader is done with a push.
    """

    def __init__(self, moved: Callable[[], None]) -> None:
        self._moved = moved
        self._boxes: dict[str, list[_Box]] = {}
        self._ended: TowpathError | None = None

    def open(self, stream: str, limit: int) -> StreamReader:
        """A reader of all pushes put from now on. Pushes left by earlier readers no longer hold back positions."""
        boxes = [box for box in self._boxes.get(stream, []) if not box.is_left]
        box = _Box(stream, limit, self._moved)
        if self._ended is not None:
            box.end(self._ended)
        self._boxes[stream] = [*boxes, box]
        return StreamReader(box)

    def put(self, envelope: Envelope) -> None:
        """A push came."""
        if not self._boxes or (position := position_of(envelope)) is None:
            return
        stream, seq = position
        if boxes := self._boxes.get(stream):
            for box in boxes:
                box.put(seq, envelope)
            if any(box.is_done for box in boxes):
                self._boxes[stream] = [box for box in boxes if not box.is_done]

    def end(self, error: TowpathError) -> None:
        """Nothing more will come."""
        self._ended = error
        for boxes in self._boxes.values():
            for box in boxes:
                box.end(error)

    def hold_back(self, positions: dict[str, int]) -> dict[str, int]:
        """``positions``, but none past what a reader has not read."""
        for stream, boxes in self._boxes.items():
            for box in boxes:
                if box.unread is not None and positions.get(stream, 0) >= box.unread:
                    positions[stream] = box.unread - 1
        return positions


class _Box:
    """The buffer of one reader. The reader has no other reference to the client, so that it can be
    garbage-collected."""

    def __init__(self, stream: str, limit: int, moved: Callable[[], None]) -> None:
        self.is_left = False
        self._stream = stream
        self._limit = limit
        self._moved = moved
        self._kept: deque[tuple[int, Envelope]] = deque()
        self._in_hand: int | None = None
        self._missed: int | None = None  # the first that there was no room for
        self._over = False
        self._error: TowpathError | None = None
        self._news: asyncio.Future[None] | None = None

    @property
    def unread(self) -> int | None:
        """The ``seq`` of the first push that the reader is not done with."""
        if self._in_hand is not None:
            return self._in_hand
        return self._kept[0][0] if self._kept else self._missed

    @property
    def is_done(self) -> bool:
        """Whether nothing of it matters any more."""
        return self._over and self.unread is None

    def put(self, seq: int, envelope: Envelope) -> None:
        if self._over:
            return
        if len(self._kept) < self._limit:
            self._kept.append((seq, envelope))
            self._wake()
            return
        # Holds the saved position back, so that it is received again after a restart.
        self._missed = seq
        position = self._kept[-1][0] if self._kept else seq - 1
        message = f"The reader of {self._stream} is {self._limit} pushes behind. Go on from {position}."
        self.end(TowpathError("overrun", message, details={"stream": self._stream, "position": position}))

    def end(self, error: TowpathError | None) -> None:
        if not self._over:
            self._over = True
            self._error = error
            self._wake()

    async def take(self) -> Envelope:
        if self._in_hand is not None:
            self._in_hand = None
            self._moved()
        while not self._kept:
            if self._over:
                # Raised once; after that the iteration is over.
                error, self._error = self._error, None
                raise StopAsyncIteration if error is None else error.copied()
            if self._news is not None:
                raise RuntimeError(f"Two tasks read {self._stream} with one reader; make one for each.")
            self._news = asyncio.get_running_loop().create_future()
            try:
                await self._news
            finally:
                self._news = None
        self._in_hand, envelope = self._kept.popleft()
        return envelope

    def leave(self) -> None:
        # Dropped without `close`: what was not read still holds back the saved positions.
        self._missed = self.unread
        self._in_hand = None
        self._kept.clear()
        self.end(None)
        self._error = None
        self.is_left = True

    def close(self) -> None:
        self._kept.clear()
        self._in_hand = self._missed = None
        self.end(None)
        self._error = None
        self._moved()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
