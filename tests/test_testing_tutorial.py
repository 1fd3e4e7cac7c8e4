"""The tutorial "Test your handlers": its files and commands, and what it says one sees, in one walk.

Its last step, the wheels, is run by tests/test_wheels.py.
"""

import inspect
import re
from pathlib import Path

from towpath.testkit import Faults, Stack
from towpath.testkit.guarantee_checks import ANY, CHANGES, COMMANDS, EVENTS, READS

from .snippets import ROOT, Block, Play, Terminal, blocks_of, looks_like, rows, section

TUTORIAL = (ROOT / "docs/tutorial/test-your-handlers.md").read_text()
STEPS = re.findall(r"^## (\d\. .*)$", TUTORIAL, re.M)


async def types(console: Block, folder: Path) -> list[str]:
    """Type the commands of a terminal, see all lines that are shown, in their order; returns what was printed."""
    play = Play.read(console.text)
    async with Terminal.open(play.script, folder=folder) as terminal:
        for line in play.lines:
            await terminal.sees(line, seconds=120)
        assert await terminal.ends(timeout=120) == 0
    return terminal.printed


def must_show(printed: list[str], shown: str) -> None:
    """Each line of ``shown`` was printed, in this order."""
    lines = iter(printed)
    for line in shown.splitlines():
        assert any(looks_like(one, line) for one in lines), f"{line!r} is not in\n" + "\n".join(printed)


async def test_each_file_of_the_tutorial_passes_and_the_planted_mistake_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "towpath"
    folder.mkdir()
    (folder / ".venv").symlink_to(ROOT / ".venv")
    printed: list[str] = []
    for block in blocks_of(TUTORIAL.partition(f"## {STEPS[-1]}")[0]):
        if block.name is not None:
            (tmp_path / "own/ledger/tests" / block.name).write_text(block.text)
        elif block.language == "console":
            printed = await types(block, folder)
        else:
            must_show(printed, block.text)


def test_the_contents_list_every_step() -> None:
    for step in STEPS:
        number, _, title = step.partition(". ")
        assert f"{number}. [{title}](#{number}-{title.lower().replace(' ', '-')})" in TUTORIAL


def test_the_tables_name_every_fault_every_guarantee_and_all_that_a_stack_can_do() -> None:
    stack, checks, faults = (section(TUTORIAL, step) for step in STEPS[1:4])
    assert {name for name in _methods(Faults) if f"faults.{name}(" not in faults} == set()
    assert {name for name in _methods(Stack) if f"tack.{name}(" not in stack + faults} == set()
    known = {check.title for check in (*CHANGES, *COMMANDS, *EVENTS, *ANY, *READS)}
    listed = {row[0].replace("a command (an event)", "{noun}") for row in rows(checks)}
    assert known <= listed


def _methods(cls: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(cls, inspect.isroutine) if not name.startswith("_")}
