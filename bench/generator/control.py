"""Messages between the runner and its generator: lines of JSON over the generator's pipes.

The generator stops at each *mark* of its script until the runner has looked: ``{"mark": "begin"}`` out, ``go`` in. In
between it may report its progress. Last comes ``{"result": …}``, or ``{"failure": …}``.
"""

import asyncio
import json
import sys
import time
from typing import Any


class Control:
    """The generator's end.

    Args:
        lines: The lines of the runner.
    """

    def __init__(self, lines: asyncio.StreamReader) -> None:
        self._lines = lines
        self._reported = 0.0

    async def mark(self, name: str, **facts: Any) -> None:
        """Say that the script is here, and wait until the runner lets it go on."""
        self._say({"mark": name, **facts})
        if not await self._lines.readline():
            raise ConnectionError("The runner is gone.")

    def progress(self, share: float) -> None:
        """Say how much of the script is done (0–1); five times a second are enough, the rest is dropped."""
        now = time.monotonic()
        if now - self._reported >= 0.2:
            self._reported = now
            self._say({"progress": round(share, 3)})

    def result(self, result: dict[str, Any]) -> None:
        """Say what came out."""
        self._say({"result": result})

    def failure(self, reason: str) -> None:
        """Say why there is no result."""
        self._say({"failure": reason})

    def _say(self, line: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


async def lines_of_stdin() -> asyncio.StreamReader:
    """Standard input, without blocking."""
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader
