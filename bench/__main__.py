"""The command: ``make bench``, or ``python -m bench``."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import report
from bench import systems as known_systems
from bench import works as known_works
from bench.databases import Databases
from bench.facts import facts
from bench.growth import command as growing
from bench.measurement import Run
from bench.rounds import Rounds
from bench.screen import Screen
from bench.systems.interface import System, raise_file_limit
from bench.works.interface import Scale, Work
from towpath.tools.rabbitmq_node import RabbitNode
from towpath.tools.trouble import Trouble

_ROUNDS = 5
_FULL = Path("docs")
_PARTIAL = Path(".towpath/bench")

_SYSTEMS_HELP = (
    f"Of {', '.join(known_systems.NAMES)}; and, only when named, {', '.join(known_systems.ON_REQUEST)}."
)
_QUICK_HELP = "A first look, in three minutes: one short round; the peers in some works only."
_GROWTH_HELP = "How cost grows with connections, rooms, replicas and messages: writes scaling.md."
_AXES_HELP = (
    f"With --growth, of {', '.join(axis.name for axis in growing.AXES)}; the others stay as they are."
)
_PEERS_HELP = "Rounds in which the others than Towpath and the baseline are measured, too; by default all."
_OUT_HELP = f"Where results go: {_FULL} for a full run, {_PARTIAL} for any other."

app = typer.Typer(add_completion=False)


def _chosen(option: str, asked: str | None, known: tuple[str, ...]) -> list[str]:
    names = list(known) if asked is None else asked.replace(",", " ").split()
    for name in names:
        if name not in known:
            _stop(f"{option} {name!r}: there is none of that name; there are {', '.join(known)}.")
    return [name for name in known if name in names]


def _stop(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)  # noqa: T201  # one line for a person
    raise typer.Exit(2)


@app.command()
def main(
    works: Annotated[str | None, typer.Option(help=f"Of {', '.join(known_works.NAMES)}.")] = None,
    systems: Annotated[str | None, typer.Option(help=_SYSTEMS_HELP)] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help=f"How often; by default {_ROUNDS} times.")] = None,
    peer_rounds: Annotated[int | None, typer.Option(min=0, help=_PEERS_HELP)] = None,
    quick: Annotated[bool, typer.Option("--quick", help=_QUICK_HELP)] = False,
    compare: Annotated[Path | None, typer.Option(help="The performance.json of an earlier run.")] = None,
    growth: Annotated[bool, typer.Option("--growth", help=_GROWTH_HELP)] = False,
    axes: Annotated[str | None, typer.Option(help=_AXES_HELP)] = None,
    out: Annotated[Path | None, typer.Option(help=_OUT_HELP)] = None,
) -> None:
    """Measure Towpath beside its peers, and write down what came out.

    Writes performance.json, performance.md and images/performance-*.svg.
    """
    if growth:
        _grow([works, systems, rounds, compare], axes, quick, out)
        return
    if axes is not None:
        _stop("--axes chooses the axes of --growth: give both.")
    partial = quick or any(asked is not None for asked in (works, systems, rounds, peer_rounds))
    chosen_works = [known_works.work(name) for name in _chosen("--works", works, known_works.NAMES)]
    chosen_systems = [
        known_systems.system(name)
        for name in _chosen(
            "--systems",
            systems or ",".join(known_systems.NAMES),
            (*known_systems.NAMES, *known_systems.ON_REQUEST),
        )
    ]
    earlier = _earlier(compare)
    folder = out or (_PARTIAL if partial else _FULL)
    raise_file_limit()
    console = Console()
    often = rounds or (1 if quick else _ROUNDS)
    scale = Scale(
        quick=quick,
        narrow=quick and systems is None,
        peer_rounds=often if peer_rounds is None else peer_rounds,
    )
    try:
        run = asyncio.run(_measure(chosen_works, chosen_systems, often, scale, console))
    except Trouble as trouble:
        _stop(str(trouble))
    except KeyboardInterrupt:
        _stop("stopped; nothing was written.")
    report.show(run, console, earlier)
    console.print(f"Written: {report.write(run, folder, earlier)}")


def _grow(not_for_it: list[object], axes: str | None, quick: bool, out: Path | None) -> None:
    if any(option is not None for option in not_for_it):
        _stop(
            "--growth measures Towpath alone, in works of its own: besides it there are --axes, --quick and --out."
        )
    names = _chosen("--axes", axes, tuple(axis.name for axis in growing.AXES))
    raise_file_limit()
    try:
        growing.run(quick=quick, names=names, out=out, console=Console())
    except Trouble as trouble:
        _stop(str(trouble))
    except KeyboardInterrupt:
        _stop("stopped; nothing was written.")


def _earlier(file: Path | None) -> Run | None:
    if file is None:
        return None
    try:
        return Run.load(file)
    except (OSError, ValueError) as error:
        _stop(f"--compare {file}: {getattr(error, 'strerror', None) or error}")
        return None


async def _measure(
    works: list[Work], systems: list[System], rounds: int, scale: Scale, console: Console
) -> Run:
    command = " ".join(["python -m bench", *sys.argv[1:]])
    async with RabbitNode() as broker:
        with Screen(console, works, systems, rounds, scale) as screen, Databases() as databases:
            measured = await Rounds(broker, databases, scale, screen.report).run(works, systems, rounds)
        known = facts(broker)
    return Run(
        command,
        known,
        {system.name: system.title for system in systems},
        {system.name: system.differences for system in systems},
        measured,
    )


if __name__ == "__main__":
    app()
