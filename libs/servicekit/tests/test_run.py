"""Start and stop of a program, as its supervisor sees it."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from towpath.servicekit.runtime.run import or_stopped
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes

PROGRAM: Final = """
import asyncio
import sys

from towpath.servicekit.broker.interface import BrokerRefused, Exchange, Message, Topology, TopologyMismatch
from towpath.servicekit.broker.memory import MemoryHub
from towpath.servicekit.messaging.lanes import LaneKind, Lanes
from towpath.servicekit.runtime.run import run
from towpath.servicekit.runtime.settings import BadSetting, BrokerSettings
from towpath.servicekit.runtime.telemetry import Telemetry


async def finish(settings, stop):
    print("serving", flush=True)
    await stop.wait()
    await asyncio.sleep(0.05)
    print("finished", flush=True)


async def hang(settings, stop):
    print("serving", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("left", flush=True)


async def wait_for_a_confirm(settings, stop):
    hub = MemoryHub()
    async with (
        Telemetry.open("example", settings) as telemetry,
        hub.connect(name="example", publish_timeout=600) as broker,
    ):
        await broker.declare(Topology([Exchange("towpath.push")]))
        kind = LaneKind(app_id="example", persistent=True, mandatory=False)
        async with Lanes.open(broker, "towpath.push", kind, settings, telemetry) as lanes:
            hub.hold_confirms()
            lanes.send("user.ana", b"{}")
            print("serving", flush=True)
            await stop.wait()


async def stop_itself(settings, stop):
    stop.set()
    print("serving", flush=True)
    await asyncio.sleep(0.5)
    print("finished", flush=True)


async def stop_itself_and_hang(settings, stop):
    stop.set()
    await asyncio.Event().wait()


async def in_a_group(work):
    async with asyncio.TaskGroup() as outer:
        async def inner():
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(asyncio.sleep(60))
                tasks.create_task(work)
        outer.create_task(inner())


def fail_with(error):
    async def fail(settings, stop):
        async def work():
            raise error
        await in_a_group(work())
    return fail


SERVE = {
    "finish": finish,
    "hang": hang,
    "stop itself": stop_itself,
    "stop itself and hang": stop_itself_and_hang,
    "unconfirmed": wait_for_a_confirm,
    "crash": fail_with(ZeroDivisionError("by zero")),
    "bad setting": fail_with(BadSetting("TOWPATH_PORT", 80, "is taken")),
    "refused": fail_with(BrokerRefused("wrong password")),
    "mismatch": fail_with(TopologyMismatch("queue 'q' exists with other arguments")),
}
run("example", SERVE[sys.argv[1]], BrokerSettings)
"""
SOON: Final = 20.0  # less than the 30 s that a drain may take


@pytest.fixture
def launch(processes: Processes, tmp_path: Path) -> Any:
    """Starts the program, with the given behaviour."""
    program = tmp_path / "example.py"
    program.write_text(PROGRAM)

    def launch(behaviour: str, **settings: object) -> Process:
        return processes.launch(sys.executable, str(program), behaviour, name=behaviour, **settings)

    return launch


async def serving(process: Process) -> Process:
    await eventually(lambda: "serving" in process.output, timeout=60)
    return process


def events(process: Process) -> list[str]:
    """Its log, line by line, and its output."""
    lines = process.output.splitlines()
    return [json.loads(line)["event"] if line.startswith("{") else line for line in lines]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_it_finish(launch: Any, number: signal.Signals) -> None:
    process = await serving(launch("finish"))
    os.kill(process.pid, number)
    assert await process.ended() == 0
    assert events(process) == ["serving", "draining", "finished", "stopped"]


async def test_a_log_line_is_json_with_time_level_and_service(launch: Any) -> None:
    process = await serving(launch("finish"))
    await process.terminate()
    line = json.loads(next(line for line in process.output.splitlines() if "draining" in line))
    assert (line["service"], line["level"], line["limit_s"]) == ("example", "info", 30.0)
    assert line["timestamp"].endswith("Z")


async def test_less_may_be_logged(launch: Any) -> None:
    process = await serving(launch("finish", log_level="warning"))
    assert await process.terminate() == 0
    assert process.output == "serving\nfinished\n"


async def test_a_second_signal_stops_it_at_once(launch: Any) -> None:
    process = await serving(launch("hang"))
    os.kill(process.pid, signal.SIGTERM)
    await eventually(lambda: "draining" in process.output)
    os.kill(process.pid, signal.SIGTERM)
    assert await process.ended(timeout=SOON) == 0
    assert events(process) == [
        "serving",
        "draining",
        "stopping_at_once",
        "left",
        "stopped_before_all_was_finished",
    ]


async def test_a_drain_over_its_time_limit_is_cut_short(launch: Any) -> None:
    process = await serving(launch("hang", drain_timeout=0.1))
    assert await process.terminate(timeout=SOON) == 0
    assert events(process) == ["serving", "draining", "left", "stopped_before_all_was_finished"]


async def test_a_program_that_stops_by_itself_drains_within_the_same_limit(launch: Any) -> None:
    process = launch("stop itself and hang", drain_timeout=0.1)
    assert await process.ended(timeout=SOON) == 0
    assert events(process) == ["draining", "stopped_before_all_was_finished"]


async def test_the_first_signal_to_a_program_that_stops_by_itself_cuts_nothing_short(launch: Any) -> None:
    process = await serving(launch("stop itself"))
    assert await process.terminate() == 0
    assert sorted(events(process)) == ["draining", "finished", "serving", "stopped"]


async def test_a_confirm_that_never_comes_holds_it_up_no_longer_than_the_drain_may_take(launch: Any) -> None:
    process = await serving(launch("unconfirmed", publish_timeout=600, drain_timeout=0.1))
    assert await process.terminate(timeout=SOON) == 0


async def test_a_setting_that_is_wrong_stops_it_with_one_line(launch: Any) -> None:
    process = launch("finish", admin_port="abc")
    assert await process.ended() == 78
    [line] = process.output.splitlines()
    assert line.startswith("towpath-example: TOWPATH_ADMIN_PORT='abc': Input should be a valid integer")


async def test_a_misspelt_variable_stops_it_with_the_right_name(launch: Any) -> None:
    process = launch("finish", amqp_uri="amqp://elsewhere/")
    assert await process.ended() == 78
    assert (
        process.output
        == "towpath-example: TOWPATH_AMQP_URI: is not a setting; did you mean TOWPATH_AMQP_URL?\n"
    )


async def test_a_variable_that_no_program_knows_is_logged_at_the_start(launch: Any) -> None:
    process = await serving(launch("finish", unheard_of="hunter2"))
    assert await process.terminate() == 0
    line = json.loads(process.output.splitlines()[0])
    assert (line["event"], line["name"]) == ("unknown_setting", "TOWPATH_UNHEARD_OF")
    assert "hunter2" not in process.output


@pytest.mark.parametrize(
    ("behaviour", "line", "status"),
    [
        ("bad setting", "TOWPATH_PORT='80': is taken", 78),
        ("refused", "wrong password", 77),
        ("mismatch", "queue 'q' exists with other arguments", 76),
    ],
)
async def test_so_does_one_that_shows_only_when_it_is_used_with_a_status_of_its_kind(
    launch: Any, behaviour: str, line: str, status: int
) -> None:
    process = launch(behaviour)
    assert await process.ended() == status
    assert process.output == f"towpath-example: {line}\n"


async def test_a_crash_is_logged_with_its_cause_and_sets_the_exit_status(launch: Any) -> None:
    process = launch("crash")
    assert await process.ended() == 1
    [line] = [json.loads(line) for line in process.output.splitlines()]
    assert (line["event"], line["level"]) == ("crashed", "error")
    assert "ZeroDivisionError: by zero" in line["exception"]


# Waiting for work or the end


async def test_work_that_is_done_first_is_done() -> None:
    stop = asyncio.Event()
    assert await or_stopped(asyncio.sleep(0), stop)


async def test_work_that_is_not_done_when_it_stops_is_cancelled() -> None:
    stop, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            stop.set()
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with asyncio.timeout(SOON):
        assert not await or_stopped(work(), stop)
    assert cancelled.is_set()


async def test_work_that_fails_fails() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await or_stopped(work(), asyncio.Event())


@pytest.mark.parametrize("program", ["towpath-gateway", "towpath-orders", "towpath-chat"])
def test_every_program_prints_its_settings_and_its_version(program: str) -> None:
    path = Path(sys.executable).parent / program
    broken = {"TOWPATH_AMQP_URL": "carrier pigeon"}  # neither reads a setting

    def printed(argument: str) -> str:
        ran = subprocess.run([path, argument], env=broken, capture_output=True, text=True, check=True)
        assert ran.stderr == ""
        return ran.stdout

    assert re.fullmatch(
        rf"{program} \d+\.\d+\.\d+ \(towpath-servicekit \d+\.\d+\.\d+\)\n", printed("--version")
    )
    shown = printed("--help")
    assert shown.startswith(f"Usage: {program} [--help | --version]\n")
    assert shown == printed("-h")
    names = re.findall(r"^  (TOWPATH_\w+)=", shown, re.M)
    assert len(names) == len(set(names))
    assert {"TOWPATH_AMQP_URL", "TOWPATH_ADMIN_PORT", "TOWPATH_LOG_LEVEL"} <= set(names)
    assert shown.count("\n      ") == len(names)  # each with its meaning
    assert "docs/reference/settings.md" in shown


def test_a_program_in_one_file_has_them_as_well(tmp_path: Path) -> None:
    program = tmp_path / "mill.py"
    program.write_text(
        "from towpath.servicekit import ServiceSettings, run\nrun('mill', None, ServiceSettings)\n"
    )
    ran = subprocess.run([sys.executable, program, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"mill\.py \(towpath-servicekit \d+\.\d+\.\d+\)\n", ran.stdout)
