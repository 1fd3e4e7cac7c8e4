"""``towpath status``: gateways, services, who holds which partition, what waits and what is parked."""

import asyncio
import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from towpath.tools.operating import Reached, operate
from towpath.tools.ops import admin, screen, survey
from towpath.tools.ops.admin import AdminPage
from towpath.tools.ops.listening import Listening
from towpath.tools.ops.picture import Picture, ServicePicture
from towpath.tools.ops.screen import plain
from towpath.tools.trouble import Interrupted


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options, as typed.

    Attributes:
        services: Services that must run; the installed ones are shown as well.
        admin: Addresses of admin pages.
        every: Seconds between two pictures of ``--watch``; ``None`` for a single one.
        seconds: When a watch ends; ``None`` for Ctrl-C.
    """

    services: Sequence[str] = ()
    admin: Sequence[str] = ()
    every: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture, with the admin pages.

    Attributes:
        problems: The most important first.
    """

    picture: Picture
    pages: Sequence[AdminPage]
    problems: Sequence[str]

    def as_dict(self, expected: Sequence[str]) -> dict[str, Any]:
        """For ``--json``."""
        told = self.picture.as_dict(expected)
        return {**told, "problems": list(self.problems), "admin": [page.as_dict() for page in self.pages]}


def status(wanted: Wanted, *, as_json: bool, data: Path) -> bool:
    """Print it; returns whether all works."""

    async def look(reached: Reached) -> bool:
        async with Listening.begin(reached.broker) as listening:
            if wanted.every is None:
                shot = await _shoot(reached, listening, wanted)
                _print(shot, wanted, as_json=as_json)
                return not shot.problems
            await _watch(reached, listening, wanted, wanted.every, as_json=as_json)
            return True

    try:
        return operate(look, data, "status")
    except BrokenPipeError:  # of a reader such as `head`
        return True
    except Interrupted:
        if wanted.every is None:
            raise
        return True  # Ctrl-C is how a watch ends.


async def _watch(
    reached: Reached, listening: Listening, wanted: Wanted, every: float, *, as_json: bool
) -> None:
    """Draw one picture after the other; the last one is the first after ``seconds``."""
    loop = asyncio.get_running_loop()
    end = math.inf if wanted.seconds is None else loop.time() + wanted.seconds
    with contextlib.ExitStack() as stack:
        live = None if as_json else stack.enter_context(Live(console=screen.console(), auto_refresh=False))
        while True:
            shot = await _shoot(reached, listening, wanted)
            if live is None:
                _print(shot, wanted, as_json=True)
            else:
                live.update(drawn(shot), refresh=True)
            if loop.time() >= end:
                return
            await asyncio.sleep(min(every, max(0.0, end - loop.time())))


async def _shoot(reached: Reached, listening: Listening, wanted: Wanted) -> Shot:
    names = sorted({*survey.installed(), *wanted.services})
    picture, pages = await asyncio.gather(
        survey.take(reached.broker, listening, reached.version, names), admin.fetch(wanted.admin)
    )
    problems = [*picture.problems(wanted.services), *(one for page in pages if (one := page.problem()))]
    return Shot(picture, pages, problems)


def _print(shot: Shot, wanted: Wanted, *, as_json: bool) -> None:
    if as_json:
        screen.print_json(shot.as_dict(wanted.services))
    else:
        screen.console().print(drawn(shot))


def drawn(shot: Shot) -> RenderableType:
    """The tables."""
    picture = shot.picture
    state = Text("blocked", style="bold red") if picture.is_blocked else Text("ok", style="green")
    parts: list[RenderableType] = [Text.assemble(("Broker    ", "bold"), plain(picture.broker), "  ", state)]
    if picture.gateways:
        parts += [Text(), _gateways(picture)]
    parts += [Text(), _services(picture)]
    if shot.pages:
        parts += [Text(), _pages(shot.pages)]
    parts.append(Text())
    if shot.problems:
        parts += [Text.assemble(("wrong  ", "bold red"), plain(one)) for one in shot.problems]
    else:
        parts.append(Text("All of it works.", style="green"))
    return Group(*parts)


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


def _gateways(picture: Picture) -> Table:
    table = _table("gateway", "ready", "connections", "users", "groups", "waiting bytes", "routing", "up")
    for one in picture.gateways:
        table.add_row(
            plain(one.gateway_id),
            plain("yes", "green") if not one.failing else plain(", ".join(one.failing), "red"),
            f"{one.connections} of {one.connections_max}",
            str(one.users),
            str(one.groups),
            f"{screen.size(one.backlog_bytes)} of {one.backlogged}" if one.backlogged else "0",
            "selective" if one.is_selective else "everything",
            screen.duration(one.up_seconds),
        )
    return table


def _services(picture: Picture) -> Table:
    table = _table("service", "domain", "replicas", "waiting", "retrying", "parked", "partitions")
    for one in picture.services:
        known = one.has_run
        table.add_row(
            plain(one.name),
            plain(", ".join(one.domains) or "–"),
            str(len(one.replicas)),
            str(one.waiting) if known else "–",
            str(one.retrying) if known else "–",
            plain(str(one.parked) if known else "–", "yellow" if one.parked else ""),
            _partitions(one),
        )
    return table


def _partitions(service: ServicePicture) -> Text:
    if (problem := service.problem()) is not None and len(service.unheld) == len(service.queues):
        return plain(problem, "red" if service.has_run else "dim")
    by_holder: dict[str, list[str]] = {}
    for queue in service.queues:
        holder = queue.holders[0][:8] if queue.holders else "?"
        by_holder.setdefault(holder if queue.consumers else "not consumed", []).append(queue.name)
    parts = [
        Text.assemble(
            (" ".join(names), "red" if holder == "not consumed" else ""), (f" {shown_as(holder)}", "dim")
        )
        for holder, names in by_holder.items()
    ]
    return Text("; ").join(parts)


def shown_as(holder: str) -> str:
    """The holder of a partition; a replica that has not announced itself yet has no name."""
    return holder if holder == "not consumed" else f"→ {plain(holder).plain}"


def _pages(pages: Sequence[AdminPage]) -> Table:
    table = _table("admin pages", "ready", "metrics")
    for page in pages:
        metrics = "  ".join(f"{name}={value:g}" for name, value in page.metrics.items())
        problem = page.error or ", ".join(page.failing)
        table.add_row(
            plain(page.url), plain(problem, "red") if problem else plain("yes", "green"), plain(metrics)
        )
    return table
