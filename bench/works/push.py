"""A push from another backend to one user of ten thousand."""

from typing import Any, Final

from bench.stage import Stage, measured
from bench.works.interface import Case, Scale, Work

_USERS: Final = 10_000
_USERS_QUICK: Final = 500
_IN_FLIGHT: Final = 20


def cases(scale: Scale) -> list[Case]:
    """One gateway, and two."""
    users = _USERS_QUICK if scale.quick else _USERS
    return [
        Case(f"{users:,} users on {number} gateway{'s' * (number > 1)}", {"clients": users}, gateways=number)
        for number in ((1,) if scale.quick else (1, 2))
    ]


async def measure(stage: Stage, case: Case, scale: Scale) -> dict[str, Any]:
    """Push to users that a dice picks."""
    result = await stage.generate(
        "push",
        amqp_url=stage.amqp_url,
        in_flight=_IN_FLIGHT,
        warm_up=scale.warm_up,
        seconds=scale.seconds,
        **case.parameters,
    )
    return measured(result)


WORK: Final = Work(
    name="push",
    title="Another backend reaches one user",
    about=(
        "A program with access to RabbitMQ only publishes to one user of ten thousand, with confirms, and to the "
        "next after the arrival; 20 pushes are in flight at any time. With two gateways each has half of the users. "
        "The generator's CPU includes that of the backend."
    ),
    unit="pushes a second",
    cases=cases,
    measure=measure,
)
