"""``towpath connections``: how many each gateway has, of how many users, and the slow ones."""

from pathlib import Path
from typing import Any

from rich.table import Table

from towpath.protocol.operators import GatewayReport
from towpath.tools.operating import Reached, operate
from towpath.tools.ops import screen
from towpath.tools.ops.picture import gateway_dict
from towpath.tools.ops.screen import plain
from towpath.tools.ops.who import answers


def connections(*, slow: int, as_json: bool, data: Path) -> bool:
    """Print it; returns whether at least one gateway answers, and each is ready.

    Args:
        slow: Slow connections of each gateway to list at most.
    """

    async def ask(reached: Reached) -> bool:
        reports, silent = await answers(reached, most=slow)
        if as_json:
            for report in reports:
                screen.print_json(_as_dict(report))
        else:
            _print(reports, silent)
        return bool(reports) and not silent and not any(report.failing for report in reports)

    return operate(ask, data, "connections")


def _as_dict(report: GatewayReport) -> dict[str, Any]:
    slow = [
        {"connection_id": one.connection_id, "user": one.user_id, "backlog_bytes": one.backlog_bytes}
        for one in report.slowest
    ]
    return gateway_dict(report) | {"slowest": slow}


def _print(reports: list[GatewayReport], silent: list[str]) -> None:
    console = screen.console()
    if not reports:
        console.print(plain("no gateway answers", "red"))
    else:
        table = Table(
            *(
                "gateway",
                "open",
                "of at most",
                "users",
                "groups",
                "being routed",
                "slow",
                "waiting bytes",
                "state",
            ),
            box=None,
            pad_edge=False,
        )
        for one in reports:
            table.add_row(
                plain(one.gateway_id),
                *map(str, (one.connections, one.connections_max, one.users, one.groups, one.waiting)),
                str(one.backlogged),
                screen.size(one.backlog_bytes),
                plain(", ".join(one.failing), "red") if one.failing else plain("ready", "green"),
            )
        console.print(table)
    for report in reports:
        for slow in report.slowest:
            console.print(
                plain(
                    f"slow: {slow.user_id} on {report.gateway_id}, connection {slow.connection_id}: "
                    f"{screen.size(slow.backlog_bytes)} wait" + (", closing" if slow.closing else "")
                )
            )
    for name in silent:
        console.print(plain(f"{name} announces itself and does not answer", "yellow"))
