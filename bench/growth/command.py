"""The command: every axis in turn, then the page."""

import asyncio
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.databases import Databases
from bench.facts import facts
from bench.growth import connections, load, replicas, report, rooms, services, stored, units
from bench.growth.axis import Axis
from bench.growth.ground import Field, Scale
from bench.growth.points import Growth, Point
from towpath.tools.rabbitmq_node import RabbitNode
from towpath.tools.trouble import Trouble

#: In the order of the page.
AXES: Final = (
    connections.AXIS,
    load.AXIS,
    rooms.AXIS,
    replicas.AXIS,
    services.AXIS,
    stored.AXIS,
    units.AXIS,
)
_FULL: Final = Path("docs")
_PARTIAL: Final = Path(".towpath/bench")


def run(*, quick: bool, names: Collection[str], out: Path | None, console: Console) -> None:
    """Measure, show the tables, and write growth.json, scaling.md and images/growth-*.svg.

    Args:
        quick: Whether for a first look.
        names: The axes to measure; the others stay as they are in the folder.
        out: The folder, if it is not the usual one.

    Raises:
        Trouble: A measurement failed, or there is no run to add it to. The finished ones are in growth.json.
    """
    chosen = [axis for axis in AXES if axis.name in names]
    folder = out or (_PARTIAL if quick else _FULL)
    earlier = _earlier(folder / "growth.json") if len(chosen) < len(AXES) else None
    growth = asyncio.run(_measure(Scale(quick), chosen, console))
    report.show(growth, chosen, console)
    growth = growth if earlier is None else earlier.with_axes(growth)
    folder.mkdir(parents=True, exist_ok=True)
    growth.save(folder / "growth.json")
    if growth.failures:
        reasons = "; ".join(f"{axis}: {reason}" for axis, reason in growth.failures.items())
        raise Trouble(f"the page was not written, because something is missing: {reasons}")
    console.print(f"Written: {report.write(growth, AXES, folder)}")


def _earlier(file: Path) -> Growth:
    try:
        return Growth.load(file)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise Trouble(f"there is no earlier run to add these axes to: {file}: {why}") from None


async def _measure(scale: Scale, axes: Sequence[Axis], console: Console) -> Growth:
    points: list[Point] = []
    failures: dict[str, str] = {}
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    async with RabbitNode() as broker:
        with Databases() as databases, progress:
            bar = progress.add_task("Growth")

            def measured(point: Point) -> None:
                points.append(point)
                progress.advance(bar)

            field = Field(broker, databases, scale, measured)
            progress.update(bar, total=sum(len(axis.chosen(field)) * axis.variants for axis in axes))
            for axis in axes:
                progress.update(bar, description=axis.title)
                try:
                    await axis.measure(field, axis.chosen(field))
                except Exception as error:
                    failures[axis.name] = _reason(error)
        known = facts(broker)
    return Growth(" ".join(["python -m bench", *sys.argv[1:]]), known, points, failures)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
