"""At the door: handshakes that do not end, too many sockets, people who come and go, and ten thousand who leave."""

import shutil
import time
from typing import Final

import pytest

from tests.faults.conftest import StartSystem
from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System
from towpath.testkit.tokens import SECRET, a_token

from .bounds import HUNDREDS, MANY_CONNECTIONS, ONE_CONNECTION, Bounds
from .plans import HalfOpen, Storm
from .program import Program
from .trial import Trial
from .wire import Wire

_IDLE: Final = 10_000
_DRAIN_SECONDS: Final = 30.0


@pytest.mark.parametrize(
    ("manner", "addresses"), [("silent", 1), ("headers", 100), ("drip", 1), ("drip", 100)]
)
async def test_handshakes_without_an_end_block_no_client(
    rabbitmq: Rabbit,
    start_system: StartSystem,
    processes: Processes,
    trial: Trial,
    manner: str,
    addresses: int,
) -> None:
    system = await start_system(rabbitmq)
    await _limit_descriptors(system, processes, 1_024)
    said = {"silent": "silent", "headers": "all but the last line", "drip": "byte by byte"}[manner]
    where = "one address" if addresses == 1 else f"{addresses} addresses"
    attack = f"1,500 handshakes without an end ({said}) at nofile 1,024, from {where}"
    async with trial.of(attack, system, MANY_CONNECTIONS) as ground:
        async with Program.start("newcomers", {"port": _port(system), "seconds": 12}) as newcomers:
            newcomers.go()
            await ground.attack(HalfOpen(1_500, manner, addresses=addresses))
            came = await newcomers.result()
        waits = came["waits"]
        ground.note(f"{len(waits)} newcomers, the slowest in {max(waits, default=0):.2f} s")
        ground.expect(not came["failed"], f"newcomers were shut out: {came['failed']}")
        ground.expect(max(waits, default=0) <= 1, f"a newcomer waited {max(waits, default=0):.1f} s")


@pytest.mark.parametrize(
    ("attack", "storm", "bounds"),
    [
        ("one user connects and disconnects", Storm(), MANY_CONNECTIONS),
        ("one user connects and disconnects, from 100 addresses", Storm(parallel=50, addresses=100),
         MANY_CONNECTIONS),
        ("100 users connect and disconnect", Storm(users=100, parallel=50), HUNDREDS),
    ],
)  # fmt: skip
async def test_users_who_connect_and_disconnect_at_full_speed_delay_others_by_a_second_at_most(
    system: System, trial: Trial, attack: str, storm: Storm, bounds: Bounds
) -> None:
    async with trial.of(attack, system, bounds) as ground:
        await ground.attack(storm)


async def test_a_user_with_too_many_connections_does_not_delay_others(system: System, trial: Trial) -> None:
    async with trial.of("one user holds 1,000 connections", system, ONE_CONNECTION) as ground:
        wires = []
        with ground.attacking():
            for number in range(1_000):
                source = f"127.0.3.{number % 250 + 1}"
                try:
                    wires.append(await Wire.open(_port(system), a_token("eve"), source=source))
                except Exception as refused:  # whatever it is: the gateway's answer to too many
                    ground.note(f"after {len(wires)} connections: {refused!r}")
                    break
        ground.end()
        ground.got_in(f"{len(wires):,} connections")
        for wire in wires:
            wire.abort()


async def test_ten_thousand_idle_connections_are_advised_and_drained_in_time(
    rabbitmq: Rabbit, start_system: StartSystem, trial: Trial
) -> None:
    system = await start_system(rabbitmq, gateways=1, drain_timeout=_DRAIN_SECONDS)
    async with trial.counted(f"a gateway with {_IDLE:,} idle connections is stopped") as line:
        plan = {"name": "idle", "count": _IDLE, "ports": [_port(system)]}
        async with Program.start("people", plan, timeout=150) as people:
            people.go()
            began = time.monotonic()
            status = await system.gateways[0].terminate(timeout=90)
            took = time.monotonic() - began
            people.go()
            counted = await people.result()
        codes = ", ".join(f"{code} × {count:,}" for code, count in counted["codes"].items())
        line.got_in = f"drained in {took:.1f} s; {counted['advised']:,} advised; closed with {codes}"
        if took > _DRAIN_SECONDS or status != 0:
            line.failures.append(f"drained in {took:.1f} s with status {status}")
        if counted["advised"] != _IDLE:
            line.failures.append(f"{counted['advised']:,} of {_IDLE:,} got a time to reconnect")


async def _limit_descriptors(system: System, processes: Processes, limit: int) -> None:
    """A gateway with few descriptors in the place of the first."""
    prlimit = shutil.which("prlimit")
    assert prlimit is not None, "prlimit is missing (Debian's package util-linux)"
    program = shutil.which("towpath-gateway")
    assert program is not None
    gone = system.gateways[0]
    settings = {name.removeprefix("TOWPATH_").lower(): value for name, value in gone.settings.items()}
    settings |= {"port": str(free_port()), "admin_port": str(free_port()), "auth_secret": SECRET}
    gateway = processes.launch(
        prlimit, f"--nofile={limit}:{limit}", program, name="towpath-gateway", **settings
    )
    await gateway.ready()
    await gone.terminate()
    system.gateways[0] = gateway


def _port(system: System) -> int:
    return int(system.gateways[0].settings["TOWPATH_PORT"])
