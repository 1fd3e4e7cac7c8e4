"""Numbers of the house: how much code there is, and how far one request walks through it.

::

    .venv/bin/python scripts/house.py                 tables of this repository, and the walk of one chat.send
    .venv/bin/python scripts/house.py --json          the same for a program
    .venv/bin/python scripts/house.py FOLDER ...      the first table of any folders with Python code, without a walk

Another commit is measured with its own interpreter, from the root of its worktree:
``.venv/bin/python <here>/scripts/house.py --root .``

How it counts:

* *Code* is a line that is not blank, not a comment alone and not part of a docstring.
* *Comments* are lines with a comment, for each 100 lines of code. Directives (``# noqa``, ``# type:``), docstrings,
  ``#:``, which documents a constant, and the licence above the first statement do not count.
* A *function* is as long as its text without its docstring. *Parameters* are those of an ``__init__`` without
  ``self``, *fields* those of a dataclass, so that moving parameters into a record is visible.
* The *walk* goes from the frame that a gateway reads to the frames that it writes to two clients, and to the ack,
  with the gateway, chat, the memory broker and SQLite in one process. A *call* is a function of this project that
  begins; comprehensions, and coroutines that continue, do not count. A *change* is a call in another module than the
  call before.
"""

import argparse
import ast
import asyncio
import dis
import inspect
import io
import json
import re
import sys
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
_PACKAGES: Final = (
    "libs/*/src/towpath/*",
    "services/*/src/towpath/*",
    "tools/src/towpath/*",
    "clients/python/src/towpath/*",
)
#: Migrations are written once and stay as they are.
_MIGRATION: Final = re.compile(r"\d{4}_")
_DIRECTIVES: Final = ("#:", "# noqa", "# type:", "# fmt:", "# pragma", "# pyright", "# pylint", "#!")
_GENERATORS: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
#: With RabbitMQ the broker is another process, behind other modules of this folder.
_BROKER: Final = "servicekit/broker/"
#: Traced requests; the one with the fewest calls counts, because work in the background only adds.
_WALKS: Final = 7
#: Seconds from the last frame until the delivery is certainly acked, and from start until everything is cached.
_ACK_SECONDS: Final = 0.05
_WARM_SECONDS: Final = 1.0


@dataclass
class Numbers:
    """One row: a package, or a folder of it, without its tests and migrations.

    Attributes:
        code: Lines without blank lines, comments and docstrings.
        comments: Lines inside code that are a comment, or end with one.
        depth: Folders below the package.
        longest_function: Lines, and its name; as all pairs here.
    """

    name: str
    modules: int = 0
    lines: int = 0
    code: int = 0
    comments: int = 0
    depth: int = 0
    classes: int = 0
    functions: int = 0
    longest_module: tuple[int, str] = (0, "")
    longest_function: tuple[int, str] = (0, "")
    most_parameters: tuple[int, str] = (0, "")
    most_fields: tuple[int, str] = (0, "")

    @property
    def comment_share(self) -> float:
        """Comments for each 100 lines of code."""
        return 100 * self.comments / self.code if self.code else 0.0


@dataclass
class Walk:
    """The calls of one request.

    Attributes:
        changes: Calls in another module than the call before.
        by_module: Calls per module.
    """

    name: str
    calls: int
    modules: int
    changes: int
    by_module: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, calls: Sequence[str]) -> "Walk":
        """Count ``calls``, the modules of the calls in their order."""
        changes = sum(one != other for one, other in pairwise(calls))
        by_module = Counter(calls)
        return cls(name, len(calls), len(by_module), changes, dict(by_module.most_common()))


# How much there is


def packages(root: Path) -> Iterator[Numbers]:
    """A row for each package of the repository at ``root``, and below it one for each of its folders."""
    found = sorted(path for pattern in _PACKAGES for path in root.glob(pattern) if any(path.glob("*.py")))
    for path in found:
        yield numbers(path.name, path, path.rglob("*.py"))
        shelves = sorted({file.parent for file in path.glob("*/*.py") if file.parent.name != "migrations"})
        if shelves:
            yield numbers(f"{path.name}, no folder", path, path.glob("*.py"))
        for shelf in shelves:
            yield numbers(f"{path.name}/{shelf.name}", path, shelf.rglob("*.py"))


def numbers(name: str, package: Path, files: Iterable[Path]) -> Numbers:
    """The row of ``files``, which are named from ``package`` on."""
    row = Numbers(name)
    for file in sorted(files):
        if not _MIGRATION.match(file.name):
            _count(row, file, file.relative_to(package))
    return row


def _count(row: Numbers, file: Path, place: Path) -> None:
    text = file.read_text()
    tree = ast.parse(text)
    lines = text.count("\n")
    row.modules += 1
    row.lines += lines
    row.depth = max(row.depth, len(place.parts) - 1)
    row.longest_module = max(row.longest_module, (lines, str(place)))
    code = {
        n for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.lstrip().startswith("#")
    }
    row.code += len(code - _docstring_lines(tree))
    begin = tree.body[0].lineno if tree.body else 0
    row.comments += sum(
        token.type == tokenize.COMMENT
        and token.start[0] >= begin
        and not token.string.startswith(_DIRECTIVES)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            row.classes += 1
            _count_class(row, node, f"{place}:{node.name}")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            row.functions += 1
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                length -= len(_lines_of(node.body[0]))
            row.longest_function = max(row.longest_function, (length, f"{place}:{node.name}"))


def _docstring_lines(tree: ast.AST) -> set[int]:
    found: set[int] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            found.update(_lines_of(node))
    return found


def _lines_of(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _count_class(row: Numbers, node: ast.ClassDef, name: str) -> None:
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            given = member.args
            count = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1
            row.most_parameters = max(row.most_parameters, (count, name))
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        count = sum(isinstance(member, ast.AnnAssign) for member in node.body)
        row.most_fields = max(row.most_fields, (count, name))


# How far a request walks


@cache
def _first_step(code: CodeType) -> int:
    """The offset at which a coroutine or generator begins; its frame is entered behind it when it continues."""
    return next(step.offset for step in dis.get_instructions(code) if step.opname == "RESUME")


def begins(frame: FrameType) -> bool:
    """Whether a *call* event is a function that begins.

    Python 3.11 also reports the creation of a coroutine (at -1), and every version that it continues.
    """
    if frame.f_code.co_name.startswith("<") and frame.f_code.co_name != "<lambda>":
        return False
    if frame.f_code.co_flags & _GENERATORS:
        return 0 <= frame.f_lasti <= _first_step(frame.f_code)
    return True


class _Trace:
    """Notes the module of each call of this project in the loop's thread."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __enter__(self) -> "_Trace":
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        _, found, module = frame.f_code.co_filename.partition("/src/towpath/")
        if event == "call" and found and not module.startswith("testkit/") and begins(frame):
            self.calls.append(module.removesuffix(".py"))


async def walks() -> list[Walk]:
    """Trace one ``chat.send`` in a room of two: all of it, and without the broker."""
    # Imported late: another repository's numbers need none of it.
    import structlog

    from towpath.chat.app import serve as serve_chat
    from towpath.chat.settings import ChatSettings
    from towpath.servicekit.broker.memory import MemoryHub
    from towpath.testkit.eventually import eventually
    from towpath.testkit.gateway import a_gateway

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    hub, stop = MemoryHub(), asyncio.Event()
    with tempfile.TemporaryDirectory() as folder:
        database = f"sqlite+aiosqlite:///{folder}/chat.sqlite"
        settings = ChatSettings(amqp_url="memory://", database_url=database, admin_port=0)
        async with AsyncExitStack() as stack:
            chat = asyncio.create_task(serve_chat(settings, stop, lambda _, name: hub.connect(name=name)))
            gateway = await stack.enter_async_context(a_gateway(hub))
            ana = await stack.enter_async_context(gateway.connect("ana"))
            ben = await stack.enter_async_context(gateway.connect("ben"))

            async def is_there() -> bool:
                answer = await ana.request("chat.join", {"room": "harbour"})
                return str(answer["action"]) == "chat.join.ok"

            async def send() -> None:
                before = len(ben.pushes("chat.message"))
                answer = await ana.request("chat.send", {"room": "harbour", "text": "hello"})
                assert answer["action"] == "chat.send.ok", answer
                await eventually(lambda: len(ben.pushes("chat.message")) > before)

            await eventually(is_there, timeout=20)
            await ben.request("chat.join", {"room": "harbour"})
            await send()
            await asyncio.sleep(_WARM_SECONDS)
            traced = []
            for _ in range(_WALKS):
                with _Trace() as trace:
                    await send()
                    await asyncio.sleep(_ACK_SECONDS)
                traced.append(trace.calls)
            stop.set()
            await chat
    calls = min(traced, key=len)
    outside = [module for module in calls if not module.startswith(_BROKER)]
    return [Walk.of("all", calls), Walk.of("without the broker", outside)]


# Output

_COLUMNS: Final = ("", "modules", "lines", "code", "comments %", "depth", "classes", "functions")
_EXTREMES: Final = ("longest module", "longest function", "most parameters", "most fields")


def render(rows: Sequence[Numbers], walked: Sequence[Walk]) -> str:
    """The tables, in Markdown."""
    lines = [_line(_COLUMNS), _rule(_COLUMNS)]
    for row in rows:
        share = f"{row.comment_share:.1f}"
        counts = (row.modules, row.lines, row.code, share, row.depth, row.classes, row.functions)
        lines.append(_line((row.name, *map(str, counts))))
    lines += ["", _line(("", *_EXTREMES)), _rule(("", *_EXTREMES))]
    for row in rows:
        extremes = (row.longest_module, row.longest_function, row.most_parameters, row.most_fields)
        lines.append(_line((row.name, *(f"{count} {name}".strip() for count, name in extremes))))
    if walked:
        heads = ("one chat.send", "calls", "modules", "changes of module")
        lines += ["", _line(heads), _rule(heads)]
        lines += [
            _line((walk.name, str(walk.calls), str(walk.modules), str(walk.changes))) for walk in walked
        ]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(cells: Sequence[str]) -> str:
    return _line(["---", *("---:" for _ in cells[1:])])


def main(arguments: Sequence[str]) -> str:
    """The text for the command line ``arguments``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="other folders to count")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository to count")
    parser.add_argument("--json", action="store_true", help="all numbers, also the calls per module")
    chosen = parser.parse_args(arguments)
    if chosen.folders:
        rows = [numbers(folder.name, folder, folder.rglob("*.py")) for folder in chosen.folders]
        walked = []
    else:
        rows, walked = list(packages(chosen.root.resolve())), asyncio.run(walks())
    if chosen.json:
        table = [asdict(row) | {"comment_share": round(row.comment_share, 1)} for row in rows]
        return json.dumps({"packages": table, "walks": [asdict(walk) for walk in walked]}, indent=2) + "\n"
    return render(rows, walked)


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1:]))
