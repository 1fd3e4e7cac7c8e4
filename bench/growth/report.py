"""Where growth goes: the page and its pictures, and the terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as Shown

from bench.growth.axis import Axis
from bench.growth.page import TEMPLATE, page, picture, picture_name, table
from bench.growth.points import Growth


def write(growth: Growth, axes: Sequence[Axis], folder: Path) -> Path:
    """Write ``scaling.md`` and its pictures; returns the page.

    Raises:
        Missing: A figure of the page was not measured.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for axis in axes:
        if axis.panels:
            (images / picture_name(axis)).write_text(picture(growth, axis))
    written = folder / "scaling.md"
    written.write_text(page(growth, axes, TEMPLATE.read_text()))
    return written


def show(growth: Growth, axes: Sequence[Axis], console: Console) -> None:
    """The tables, on the terminal."""
    for axis in axes:
        made = table(growth, axis)
        shown = Shown(title=axis.title, title_justify="left", title_style="bold")
        for place, head in enumerate(made.heads):
            shown.add_column(head, justify="right" if 0 < place < len(made.heads) - 1 else "left")
        for row in made.rows:
            shown.add_row(*row)
        console.print(shown)
