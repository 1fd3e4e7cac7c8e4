"""Connections that do nothing: memory, and what is used meanwhile."""

from pathlib import Path
from typing import Any, Final

from bench.stage import Stage, counted
from bench.works.interface import Case, Scale, Work

_CLIENTS: Final = 10_000
_CLIENTS_QUICK: Final = 2_000
#: Those that are there before, so that what the first ones cost once is not counted.
_SOME: Final = 500
#: Seconds until what connecting has stirred up is over.
_SETTLE: Final = 3.0
_SETTLE_QUICK: Final = 1.0
#: Long enough for one heartbeat of every connection.
_IDLE: Final = 25.0
_IDLE_QUICK: Final = 1.0
_MAIN: Final = "KiB a connection, gateway"


def cases(scale: Scale) -> list[Case]:
    """Many connections."""
    clients = _CLIENTS_QUICK if scale.quick else _CLIENTS
    return [Case(f"{clients:,} connections", {"clients": clients})]


async def measure(stage: Stage, case: Case, scale: Scale) -> dict[str, Any]:
    """Open connections, and leave them alone."""
    before: dict[str, float] = {}
    after: dict[str, float] = {}

    async def at_some(_: dict[str, Any]) -> None:
        before.update(memory(stage))

    async def at_all(_: dict[str, Any]) -> None:
        after.update(memory(stage))

    result = await stage.generate(
        "idle",
        at={"some": at_some, "all": at_all},
        some=_SOME,
        settle=_SETTLE_QUICK if scale.quick else _SETTLE,
        seconds=_IDLE_QUICK if scale.quick else _IDLE,
        **case.parameters,
    )
    added = case.parameters["clients"] - _SOME
    grown = {role: (after[role] - before[role]) / added for role in after}
    # Where the gateway is a part of the broker, the broker's memory is the gateway's.
    figures = {
        _MAIN: grown.get("gateway", grown["broker"]),
        "KiB a connection, service": grown.get("service", 0.0),
    }
    busy = {f"% of a core, {role}": 100 * used / result["seconds"] for role, used in result["cpu"].items()}
    return {**counted(result), "figures": figures if scale.quick else figures | busy}


def memory(stage: Stage) -> dict[str, float]:
    """Role → KiB that its processes hold, each page divided by those who share it."""
    return {role: sum(_kib(pid) for pid in pids) for role, pids in stage.pids.items() if pids}


def _kib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("Pss:"))


WORK: Final = Work(
    name="idle",
    title="Idle connections",
    about=(
        "Memory (proportional set size) that each further connection takes, and the CPU that all of them cost in "
        "25 s. Towpath and python-socketio send each connection a heartbeat in that time, the others none."
    ),
    main=_MAIN,
    unit="KiB a connection",
    lower_is_better=True,
    most_rounds=2,
    cases=cases,
    measure=measure,
)
