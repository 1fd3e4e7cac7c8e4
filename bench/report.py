"""Where a run goes: a file that another run can be compared with, the page, its pictures, and the terminal."""

from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table as Shown

from bench.comparison import comparison
from bench.measurement import Run
from bench.page import page, picture_name
from bench.pictures import picture
from bench.tables import Table, markdown, table
from bench.works import NAMES, work
from bench.works.interface import Work

_NAME: Final = "performance"


def write(run: Run, folder: Path, earlier: Run | None) -> Path:
    """Write ``performance.json``, ``performance.md`` and its pictures; returns the page."""
    works = _measured(run)
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    run.save(folder / f"{_NAME}.json")
    for one in works:
        (images / picture_name(one)).write_text(picture(run, one))
    compared = "" if earlier is None else "## Then and now\n\n" + markdown(comparison(earlier, run, works))
    written = folder / f"{_NAME}.md"
    written.write_text(page(run, works, compared))
    return written


def show(run: Run, console: Console, earlier: Run | None) -> None:
    """The tables, on the terminal."""
    works = _measured(run)
    for one in works:
        console.print(_shown(one.title, table(run, one)))
    if earlier is not None:
        console.print(_shown("Then and now", comparison(earlier, run, works)))


def _measured(run: Run) -> list[Work]:
    return [work(name) for name in NAMES if any(one.work == name for one in run.measurements)]


def _shown(title: str, made: Table) -> Shown:
    shown = Shown(title=title, title_justify="left", title_style="bold")
    last = len(made.heads) - 1
    for place, head in enumerate(made.heads):
        shown.add_column(head, justify="right" if 1 < place < last else "left")
    previous = None
    for row in made.rows:
        if previous not in (None, row[0]):
            shown.add_section()
        shown.add_row("" if row[0] == previous else row[0], *row[1:])
        previous = row[0]
    return shown
