"""The death of a gateway full of people, as those notice it who publish."""

import os
import signal
from typing import Any, Final

from bench.stage import Stage, counted
from bench.works.interface import Case, Scale, Work

_USERS: Final = 5_000
_USERS_QUICK: Final = 1_000
_SECONDS: Final = 3.0
_SECONDS_QUICK: Final = 1.0
_MAIN: Final = "longest wait for a confirm, ms"


def cases(scale: Scale) -> list[Case]:
    """Many people."""
    users = _USERS_QUICK if scale.quick else _USERS
    return [Case(f"gateway with {users:,} users", {"clients": users}, gateways=2)]


async def measure(stage: Stage, case: Case, scale: Scale) -> dict[str, Any]:
    """Kill the gateway while a backend publishes."""

    async def kill(_: dict[str, Any]) -> None:
        os.kill(stage.running.pids["gateway"][0], signal.SIGKILL)

    result = await stage.generate(
        "death",
        at={"death": kill},
        amqp_url=stage.amqp_url,
        seconds=_SECONDS_QUICK if scale.quick else _SECONDS,
        **case.parameters,
    )
    figures = {_MAIN: result["after_ms"], "without a death, ms": result["before_ms"]}
    return {**counted(result), "figures": figures}


WORK: Final = Work(
    name="death",
    title="A gateway dies",
    about=(
        "A gateway is killed with all its connections. A backend that publishes to users of another gateway, one "
        "message after the other, shows how long RabbitMQ is busy with the queues and bindings of the dead one."
    ),
    main=_MAIN,
    unit="longest wait for a confirm, ms",
    lower_is_better=True,
    cases=cases,
    measure=measure,
)
