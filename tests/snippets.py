"""Contents of the documentation's pages: code blocks as files, shell blocks as scripts, terminals as plays.

* A block whose first line is a comment with a file's name, such as ``# chat.py``, is that file.
* A ``console`` block is what a person sees in a terminal: commands after ``$``, what is printed, and what is typed.
* ``…`` in an output matches anything.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_NAME = re.compile(r"\A(?:#|//|<!--) (\S+\.\w+)(?: -->)?\n")
_SECONDS = 20.0


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: The word behind the fence.
        name: The file's, if it has one.
        text: Without the line that names it.
    """

    language: str
    name: str | None
    text: str


def blocks_of(page: str, language: str | None = None) -> list[Block]:
    """The blocks of a page, in their order."""
    blocks = []
    for found, text in _BLOCK.findall(page):
        name = _NAME.match(text)
        blocks.append(Block(found, name and name[1], text[name.end() :] if name else text))
    return [block for block in blocks if language in (None, block.language)]


def section(page: str, title: str) -> str:
    """The text below a heading of the second level, up to the next one."""
    fenced = [found.span() for found in _BLOCK.finditer(page)]
    headings = [
        found
        for found in re.finditer(r"^## (.*)$", page, re.M)
        if not any(begin < found.start() < end for begin, end in fenced)
    ]
    ends = [*(found.start() for found in headings[1:]), len(page)]
    (text,) = (
        page[found.end() : end] for found, end in zip(headings, ends, strict=True) if found[1] == title
    )
    return text


def rows(text: str) -> list[list[str]]:
    """The rows of all tables in ``text``, without their heads."""
    bodies = re.findall(r"^\|(?: -+ \|)+\n((?:\|.*\n)+)", text, re.M)
    lines = [line for body in bodies for line in body.splitlines()]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def looks_like(printed: str, shown: str) -> bool:
    """Whether ``printed`` is what a page shows."""
    return re.fullmatch(".*".join(map(re.escape, shown.split("…"))), printed) is not None


class Terminal:
    """A shell that follows a page.

    Attributes:
        printed: The lines so far.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.printed: list[str] = []
        self._process = process
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._ended = asyncio.Event()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, script: str, *, folder: Path, settings: Mapping[str, str] | None = None
    ) -> AsyncIterator["Terminal"]:
        """Run shell commands in ``folder``; whatever they started has ended afterwards."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOWPATH_")}
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-euc",
            script,
            cwd=folder,
            env={**inherited, "PYTHONUNBUFFERED": "1", **(settings or {})},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        terminal = cls(process)
        listening = asyncio.create_task(terminal._listen())
        failure: BaseException | None = None
        try:
            yield terminal
        except BaseException as error:
            failure = error
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await listening
            if failure is not None:
                failure.add_note(f"The terminal of {script!r} showed:\n" + "\n".join(terminal.printed))

    async def sees(self, shown: str, *, seconds: float = _SECONDS) -> None:
        """Wait for the next line, which must be what is shown."""
        async with asyncio.timeout(seconds):
            line = await self._lines.get()
        assert line is not None, f"It ended, and did not print {shown!r}."
        assert looks_like(line, shown), f"It printed {line!r}, not {shown!r}."

    async def types(self, line: str) -> None:
        """Type a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def interrupts(self, *, timeout: float = _SECONDS) -> int:
        """Press Ctrl-C, wait until all is printed, and return the exit status."""
        os.killpg(self._process.pid, signal.SIGINT)
        return await self.ends(timeout=timeout)

    async def ends(self, *, timeout: float = _SECONDS) -> int:
        """Type Ctrl-D, wait until all is printed, and return the exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        async with asyncio.timeout(timeout):
            await self._ended.wait()
            return await self._process.wait()

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.printed.append(line.decode().rstrip("\n"))
            self._lines.put_nowait(self.printed[-1])
        self._lines.put_nowait(None)
        self._ended.set()


@dataclass(frozen=True)
class Play:
    """A ``console`` block: the commands, and then the lines in the order one sees them."""

    script: str
    lines: Sequence[str]

    @classmethod
    def read(cls, text: str) -> "Play":
        lines = text.splitlines()
        script = "\n".join(line.removeprefix("$ ") for line in lines if line.startswith("$ "))
        return cls(script, [line for line in lines if not line.startswith("$ ")])

    @staticmethod
    def is_printed(line: str) -> bool:
        """Whether a program says it: ``-- state`` or ``name: what``; all else is typed."""
        return re.match(r"-- |\w+: ", line) is not None

    async def perform(self, terminal: Terminal) -> None:
        """Wait for what is printed and type the rest, line by line."""
        for line in self.lines:
            await (terminal.sees(line) if self.is_printed(line) else terminal.types(line))


async def run(script: str, *, folder: Path, settings: Mapping[str, str] | None = None) -> list[str]:
    """Run shell commands to their end, and return what they printed.

    Raises:
        AssertionError: They failed.
    """
    async with Terminal.open(script, folder=folder, settings=settings) as terminal:
        status = await terminal.ends(timeout=120)
        assert status == 0, f"It ended with status {status}."
    return terminal.printed
