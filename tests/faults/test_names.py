"""Whatever people and rooms are called, and whenever their tokens end: each hears what is theirs."""

from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

from .conftest import StartSystem
from .trial import Trial


async def test_names_that_look_like_routing_keys_reach_only_their_receivers(
    system: System, trial: Trial
) -> None:
    users = ["a", "b", "a.b", "*", "#", "a.#", "user.a", "A%2Eb", "а", "everyone"]
    rooms = ["x", "x.y", "*", "#", "group.x", "x%2Ey", "х"]
    fault = "users and rooms called #, *, a.b, %2E"
    async with trial.of(fault, system, users=users, rooms=rooms) as load:
        await load.flows(600, timeout=60)


async def test_tokens_that_expire_are_renewed_without_a_gap(
    rabbitmq: Rabbit, start_system: StartSystem, trial: Trial
) -> None:
    system = await start_system(rabbitmq, expiry_notice=2)
    async with trial.of("tokens that live for 5 s", system, token_seconds=5) as load:
        await load.flows(500, timeout=60)
