"""Storage of positions, from which the next client continues.

* Nothing is saved before the stored positions are loaded, so that an interrupted start erases nothing.
* Saves run one after the other, at most every 200 ms, and once more at the end.
* A failure is reported as ``bad_storage``; the client continues, and saves again with the next change.
"""

import asyncio
import contextlib
import inspect
import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from towpath.client.envelope import whole
from towpath.client.errors import TowpathError

_SAVE_EVERY: Final = 0.2


class Storage(Protocol):
    """Keeps positions. Both methods may be coroutine functions; plain ones must not block.

    Example:
        >>> class DictStorage:
        ...     def __init__(self, rows: dict[str, dict[str, int]], user: str) -> None:
        ...         self.rows, self.user = rows, user
        ...
        ...     def load(self) -> dict[str, int] | None:
        ...         return self.rows.get(self.user)
        ...
        ...     def save(self, positions: dict[str, int], /) -> None:
        ...         self.rows[self.user] = positions
        >>> DictStorage({"ana": {"chat:lobby": 41}}, "ana").load()
        {'chat:lobby': 41}
    """

    def load(self) -> Mapping[str, int] | Awaitable[Mapping[str, int] | None] | None:
        """The positions saved last; ``None`` if there are none."""

    def save(self, positions: dict[str, int], /) -> Awaitable[None] | None:
        """Replace the stored positions."""


class MemoryStorage:
    """Keeps positions as long as the program runs: for clients that come and go.

    Example:
        >>> storage = MemoryStorage({"chat:lobby": 41})
        >>> storage.load()
        {'chat:lobby': 41}
    """

    def __init__(self, positions: Mapping[str, int] | None = None) -> None:
        self.positions = dict(positions or {})

    def load(self) -> dict[str, int]:
        """The positions saved last."""
        return self.positions

    def save(self, positions: dict[str, int], /) -> None:
        """Keep ``positions``."""
        self.positions = positions


class FileStorage:
    """Keeps positions in a JSON file, which is replaced as a whole: after a crash it is the old or the new one.

    Args:
        path: The file, one for each user and program; a missing folder is created.

    Raises:
        OSError: From ``load`` and ``save``, which the client reports as ``bad_storage``.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     storage = FileStorage(f"{folder}/ana/positions.json")
        ...     asyncio.run(storage.save({"chat:lobby": 41}))
        ...     asyncio.run(storage.load())
        {'chat:lobby': 41}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    async def load(self) -> dict[str, int] | None:
        """The positions saved last; ``None`` if there is no file."""
        return await asyncio.to_thread(self._read)

    async def save(self, positions: dict[str, int], /) -> None:
        """Replace the file."""
        await asyncio.to_thread(self._replace, positions)

    def _read(self) -> dict[str, int] | None:
        try:
            read: dict[str, int] = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return None
        return read

    def _replace(self, positions: dict[str, int]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(positions, file)
                file.flush()
                os.fsync(file.fileno())  # else a power cut may leave an empty file under the new name
            os.replace(name, self._path)  # noqa: PTH105  # atomic on POSIX, which Path.rename is not on Windows
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108
            raise


class Saving:
    """Loads once, and saves what changes.

    Args:
        storage: Where to.
        positions: Gives what to save.
        report: Called with failures.
    """

    def __init__(
        self,
        storage: Storage,
        positions: Callable[[], dict[str, int]],
        report: Callable[[BaseException], None],
    ) -> None:
        self._storage = storage
        self._positions = positions
        self._report = report
        self._saved: dict[str, int] | None = None  # None: not loaded yet
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()

    async def load(self, timeout: float) -> dict[str, int]:
        """The stored positions; empty if they cannot be loaded within ``timeout`` seconds."""
        positions: dict[str, int] = {}
        try:
            async with asyncio.timeout(timeout) as limit:
                positions = checked_positions(await _awaited(self._storage.load()))
        except Exception as cause:
            late = isinstance(cause, TimeoutError) and limit.expired()
            self._failed("loaded", TimeoutError(f"no answer within {timeout:g} s") if late else cause)
        self._saved = dict(positions)
        return positions

    def changed(self) -> None:
        """Positions may have changed."""
        self._changed.set()

    def end(self) -> None:
        """The client is closed: save what has changed, and no more."""
        self._ending.set()
        self._changed.set()

    async def run(self) -> None:
        """Save, until :meth:`end`."""
        ending = False
        while not ending:
            await self._changed.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SAVE_EVERY):
                    await self._ending.wait()
            self._changed.clear()
            ending = self._ending.is_set()
            await self._save()

    async def _save(self) -> None:
        positions = self._positions()
        if self._saved is None or positions == self._saved:
            return
        try:
            await _awaited(self._storage.save(dict(positions)))
            self._saved = positions
        except asyncio.CancelledError:
            self._failed("saved", TimeoutError("there was no time left"))
            raise
        except Exception as cause:
            self._failed("saved", cause)

    def _failed(self, what: str, cause: Exception) -> None:
        said = str(cause) or type(cause).__name__
        error = TowpathError("bad_storage", f"Positions could not be {what}: {said}", retryable=True)
        error.__cause__ = cause
        self._report(error)


async def _awaited(given: Any) -> Any:
    return await given if inspect.isawaitable(given) else given


def checked_positions(given: Any) -> dict[str, int]:
    """``given``, if it holds a position for each of some streams; none for ``None``.

    Raises:
        TypeError: It does not.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"these are not positions: {given!r}")
    for stream, seq in given.items():
        if not isinstance(stream, str) or whole(seq) is None or seq < 0:
            raise TypeError(f"{seq!r} is not a position of {stream!r}")
    return {stream: int(seq) for stream, seq in given.items()}
