"""The page on upgrades: its example of a migration does what is said about it."""

from pathlib import Path
from typing import Final

import pytest
from structlog.testing import capture_logs

from towpath.servicekit import Database, NewerSchema

from .snippets import ROOT, blocks_of

PAGE: Final = (ROOT / "docs/operations/upgrade.md").read_text()


def release(folder: Path, last: int, example: tuple[str, str] | None = None) -> Path:
    """Migrations that change nothing, up to ``last``, and then that of the page."""
    folder.mkdir()
    for number in range(1, last + 1):
        before = f"{number - 1:04}" if number > 1 else None
        text = f"revision, down_revision = '{number:04}', {before!r}\n\n\ndef upgrade():\n    pass\n"
        (folder / f"{number:04}_step.py").write_text(text)
    if example is not None:
        (folder / example[0]).write_text(example[1])
    return folder


async def test_the_mark_of_the_page_lets_the_releases_start_that_it_says(
    database_url: str, tmp_path: Path
) -> None:
    [block] = blocks_of(PAGE, "python")
    assert block.name is not None
    third = release(tmp_path / "third", 6, (block.name, block.text))
    async with Database.open(database_url, service="orders", migrations=third):
        pass
    with capture_logs() as logs:
        second = release(tmp_path / "second", 6)
        async with Database.open(database_url, service="orders", migrations=second):
            pass
    assert [line["event"] for line in logs] == ["schema_is_newer"]
    with pytest.raises(NewerSchema) as problem:
        async with Database.open(database_url, service="orders", migrations=release(tmp_path / "first", 5)):
            pass
    [shown] = blocks_of(PAGE, "text")
    assert shown.text == f"{problem.value}\n"
