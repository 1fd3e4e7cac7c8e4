"""The command: every axis in turn, then the page."""

import asyncio
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.databases import Databases
from bench.facts import facts
from bench.growth import connections, load, replicas, report, rooms, services, stored, units
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


def run(*, quick: bool, out: Path | None, console: Console) -> None:
    """Measure, show the tables, and write growth.json, scaling.md and images/growth-*.svg.

    Raises:
        Trouble: Something could not be measured. What could is in growth.json.
    """
    growth = asyncio.run(_measure(Scale(quick), console))
    folder = out or (_PARTIAL if quick else _FULL)
    report.show(growth, AXES, console)
    folder.mkdir(parents=True, exist_ok=True)
    growth.save(folder / "growth.json")
    if growth.failures:
        reasons = "; ".join(f"{axis}: {reason}" for axis, reason in growth.failures.items())
        raise Trouble(f"the page was not written, because something is missing: {reasons}")
    console.print(f"Written: {report.write(growth, AXES, folder)}")


async def _measure(scale: Scale, console: Console) -> Growth:
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

            def told(point: Point) -> None:
                points.append(point)
                progress.advance(bar)

            field = Field(broker, databases, scale, told)
            progress.update(bar, total=sum(len(axis.chosen(field)) * axis.variants for axis in AXES))
            for axis in AXES:
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
