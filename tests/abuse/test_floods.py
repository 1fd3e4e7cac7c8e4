"""One client, or a hundred, send as fast as the gateway takes it: the others do not wait."""

import pytest

from towpath.testkit.system import System

from .bounds import MANY_CONNECTIONS, ONE_CONNECTION
from .plans import Flood
from .trial import Trial


@pytest.mark.parametrize(
    ("attack", "kind"),
    [
        pytest.param("36,000 unreadable one-byte frames", "unreadable",
                     marks=pytest.mark.abuse_short),
        ("36,000 empty frames", "empty"),
        ("36,000 pings", "ping"),
        ("36,000 pongs", "pong"),
        ("36,000 unknown session.*", "unknown session"),
    ],
)  # fmt: skip
async def test_a_burst_of_frames_does_not_delay_other_users(
    system: System, trial: Trial, attack: str, kind: str
) -> None:
    async with trial.of(attack, system, ONE_CONNECTION) as ground:
        await ground.attack(Flood(kind, count=36_000))


@pytest.mark.parametrize(
    ("attack", "kind"),
    [
        ("pings at full speed", "ping"),
        ("pings in one-byte fragments at full speed", "fragments"),
        ("empty fragments at full speed", "empty fragments"),
        ("chat.typing at full speed", "typing"),
        ("order.list at full speed", "orders"),
        ("unknown domains at full speed", "unknown domain"),
        ("unknown verbs at full speed", "unknown verb"),
        ("unknown fields of 60 KB at full speed", "big field"),
        ("pings of 60 KB at full speed", "big ping"),
        ("30 KB of nested arrays at full speed", "nested"),
        ("forged tokens in session.refresh at full speed", "refresh"),
        ("chat.send of 4,000 letters at full speed", "send"),
        ("protocol pongs at full speed", "protocol pong"),
    ],
)
async def test_one_connection_at_full_speed_does_not_delay_others(
    system: System, trial: Trial, attack: str, kind: str
) -> None:
    async with trial.of(attack, system, ONE_CONNECTION) as ground:
        await ground.attack(Flood(kind))


@pytest.mark.parametrize(
    ("attack", "kind"),
    [
        ("protocol pings, and never reads", "protocol ping"),
        ("pings, and never reads", "ping"),
        ("order.list, and never reads", "orders"),
    ],
)
async def test_a_client_that_never_reads_costs_bounded_memory(
    system: System, trial: Trial, attack: str, kind: str
) -> None:
    async with trial.of(attack, system, ONE_CONNECTION) as ground:
        await ground.attack(Flood(kind, reads=False))


@pytest.mark.parametrize(
    ("kind", "addresses"),
    [("unreadable", 1), ("ping", 100), ("typing", 1), ("typing", 100), ("orders", 100), ("big field", 1),
     ("send", 1), ("read", 100)],
)  # fmt: skip
async def test_ten_users_on_ten_connections_each_delay_others_by_a_second_at_most(
    system: System, trial: Trial, kind: str, addresses: int
) -> None:
    where = "one address" if addresses == 1 else f"{addresses} addresses"
    attack = f"100 connections of 10 users, {kind}, from {where}"
    async with trial.of(attack, system, MANY_CONNECTIONS) as ground:
        await ground.attack(Flood(kind, users=10, connections=10, addresses=addresses))
