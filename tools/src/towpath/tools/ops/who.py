"""``towpath who``: on which gateways a push to a user would be heard, by which connections, and why not."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from rich.text import Text

from towpath.protocol.operators import LISTED_MAX, ConnectionReport, GatewayReport
from towpath.protocol.routes import check_user_id, group_key
from towpath.servicekit.broker.interface import Unroutable
from towpath.tools.operating import Reached, operate
from towpath.tools.ops import screen
from towpath.tools.ops.listening import Listening
from towpath.tools.ops.screen import plain
from towpath.tools.token import BadUser
from towpath.tools.trouble import Trouble

#: Gateways answer within some milliseconds; one that is overloaded may take longer.
_ANSWERS_SECONDS: Final = 1.5
#: Once each gateway that announced itself has answered, so much longer: others may not have announced themselves.
_QUIET_SECONDS: Final = 0.4


class BadGroup(Trouble):
    """A group whose name cannot be used."""

    status = 2


def who(user: str, group: str, *, as_json: bool, data: Path) -> bool:
    """Print it; returns whether a push would be heard by at least one connection.

    Args:
        group: A push to this group instead of one to the user; empty for the user.

    Raises:
        BadUser, BadGroup
    """
    try:
        check_user_id(user)
    except ValueError as error:
        raise BadUser(f"user {user[:70]!a} cannot be used: {error}") from None
    try:
        if group:
            group_key(group)
    except ValueError as error:
        raise BadGroup(f"group {group[:70]!a} cannot be used: {error}") from None

    async def ask(reached: Reached) -> bool:
        reports, silent = await answers(reached, user=user, group=group, most=LISTED_MAX)
        lines = list(explained(reports, silent, user, group))
        heard = sum(1 for report in reports for one in report.of_user if hears(one, group))
        if as_json:
            screen.print_json(_as_dict(reports, silent, user, group, lines))
        else:
            for bad, text in lines:
                screen.console().print(Text.assemble(plain(text, "yellow" if bad else "")))
        return heard > 0

    return operate(ask, data, "who")


async def answers(
    reached: Reached, *, user: str = "", group: str = "", most: int = 20
) -> tuple[list[GatewayReport], list[str]]:
    """The reports of all gateways, and those that announced themselves meanwhile and did not answer."""
    loop = asyncio.get_running_loop()
    async with Listening.begin(reached.broker) as listening:
        try:
            await listening.ask(user=user, group=group, most=most)
        except Unroutable:
            return [], []
        deadline = loop.time() + _ANSWERS_SECONDS
        while await listening.until(min(deadline, loop.time() + _QUIET_SECONDS)):
            pass
        programs = listening.programs
        reports = [report for report, _ in programs.reports.values()]
        answered = {report.gateway_id for report in reports}
        silent = {name for name, _ in programs.gateways} - answered
        return sorted(reports, key=lambda one: one.gateway_id), sorted(silent)


def hears(connection: ConnectionReport, group: str) -> bool:
    """Whether a push reaches a connection."""
    return not connection.closing and (connection.in_group or not group)


def explained(
    reports: Sequence[GatewayReport], silent: Sequence[str], user: str, group: str
) -> Iterator[tuple[bool, str]]:
    """Lines for people, each with whether it names a problem."""
    if not reports:
        yield True, "no gateway answers: a push would be heard by no connection"
    for report in reports:
        if not report.of_user_count:
            yield False, f"{report.gateway_id}: no connection of {user}"
            continue
        for one in report.of_user:
            yield _connection(report, one, group)
        if (more := report.of_user_count - len(report.of_user)) > 0:
            yield False, f"{report.gateway_id}: {more} more connections of {user}"
        if report.failing:
            yield True, f"{report.gateway_id}: it is not ready ({', '.join(report.failing)})"
    for name in silent:
        yield (
            True,
            f"{name}: it announces itself and does not answer; it is of an earlier version, or overloaded",
        )
    if reports and not any(report.of_user_count for report in reports):
        yield (
            True,
            f"{user} is not connected: a push is dropped; a stream's entries arrive when {user} connects and resumes",
        )


def _connection(report: GatewayReport, one: ConnectionReport, group: str) -> tuple[bool, str]:
    where = f"{report.gateway_id}: {one.connection_id}"
    if one.closing:
        return True, f"{where} does not hear it: it is closing"
    if group and not one.in_group:
        return True, f"{where} does not hear it: its service has not subscribed it to {group}"
    if one.backlog_bytes:
        return (
            True,
            f"{where} hears it behind {screen.size(one.backlog_bytes)} that its client has not read yet",
        )
    return False, f"{where} hears it"


def _as_dict(
    reports: Sequence[GatewayReport],
    silent: Sequence[str],
    user: str,
    group: str,
    lines: Sequence[tuple[bool, str]],
) -> dict[str, Any]:
    return {
        "user": user,
        "group": group or None,
        "connections": [
            {
                "gateway": report.gateway_id,
                "connection_id": one.connection_id,
                "hears": hears(one, group),
                "backlog_bytes": one.backlog_bytes,
                "closing": one.closing,
            }
            for report in reports
            for one in report.of_user
        ],
        "gateways": [
            {"gateway": report.gateway_id, "connections": report.of_user_count, "failing": report.failing}
            for report in reports
        ],
        "silent_gateways": list(silent),
        "explained": [text for _, text in lines],
    }
