"""Programs started, waited for and ended."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Processes
from towpath.tools.packages import RABBITMQ

PROGRAM = """
import os, signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        ready = self.path == "/health/ready" and time.monotonic() > started + 0.2
        self.send_response(200 if ready else 503)
        self.end_headers()

    def log_message(self, *_):
        pass

def drain(*_):
    print("drained", flush=True)
    os._exit(3)

started = time.monotonic()
signal.signal(signal.SIGTERM, drain)
print("greets", os.environ["TOWPATH_GREETING"], os.environ.get("TOWPATH_STRAY"), sys.argv[1:], flush=True)
HTTPServer(("127.0.0.1", int(os.environ["TOWPATH_ADMIN_PORT"])), Health).serve_forever()
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "towpath-example"
    path.write_text(f"#!{sys.executable}\n{PROGRAM}")
    path.chmod(0o755)
    return str(path)


async def test_a_started_program_has_the_given_settings_and_no_others(
    program: str, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOWPATH_STRAY", "of the shell")
    example = await processes.start(program, "--fast", greeting="ahoy")
    assert example.status is None
    assert example.output == "greets ahoy None ['--fast']\n"
    assert await example.terminate() == 3
    assert example.output.endswith("drained\n")


async def test_programs_start_the_rabbitmq_of_the_test_run(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RABBITMQ.variable, "/opt/rabbitmq-server")
    code = f"import os; print(os.environ[{RABBITMQ.variable!r}])"
    program = processes.launch(sys.executable, "-c", code, name="example")
    assert await program.ended() == 0
    assert program.output == "/opt/rabbitmq-server\n"


async def test_a_program_that_ends_early_is_reported_with_its_output(
    program: str, processes: Processes
) -> None:
    with pytest.raises(AssertionError, match=r"ended with status 1\. It printed:\n(?s:.*)KeyError"):
        await processes.start(program)


async def test_a_program_that_is_never_ready_is_reported_with_its_output(
    program: str, processes: Processes
) -> None:
    with pytest.raises(AssertionError, match=r"is not ready after 0\.1 s\. It printed:"):
        await processes.start(program, greeting="ahoy", timeout=0.1)


async def test_a_paused_program_answers_again_when_resumed(program: str, processes: Processes) -> None:
    example = await processes.start(program, greeting="ahoy")
    example.pause()
    with pytest.raises(AssertionError):
        await example.ready(timeout=0.1)
    example.resume()
    await example.ready()
    await example.kill()
    assert example.status == -9


async def test_every_process_ends_with_its_test(program: str) -> None:
    with Processes() as processes:
        example = await processes.start(program, greeting="ahoy")
        example.pause()
    assert not is_alive(example.pid)


def test_processes_end_when_the_test_run_is_killed(program: str) -> None:
    script = (
        "import asyncio, time; from towpath.testkit.processes import Processes\n"
        f"print(asyncio.run(Processes().start({program!r}, greeting='ahoy')).pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        os.kill(pid, 0)
        run.kill()
    deadline = time.monotonic() + 30
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_the_output_of_a_failed_tests_programs_is_shown(program: str, tmp_path: Path) -> None:
    test = tmp_path / "test_failing.py"
    test.write_text(
        "async def test_it(processes):\n"
        f"    await processes.start({program!r}, name='example', greeting='ahoy')\n"
        "    assert False\n"
    )
    plugin = ["-p", "towpath.testkit.repository", "-o", "asyncio_mode=auto", "--rootdir", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, str(test)], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 1
    assert "Output of example" in run.stdout
    assert "greets ahoy None []" in run.stdout


async def test_eventually_returns_the_value_of_its_condition() -> None:
    given = iter([None, 0, "", "there"])
    assert await eventually(lambda: next(given)) == "there"


async def test_eventually_waits_for_an_assertion_to_hold() -> None:
    seen = []

    async def three_seen() -> bool:
        seen.append(1)
        assert len(seen) == 3, f"seen {len(seen)}"
        return True

    assert await eventually(three_seen)


async def test_eventually_reports_the_last_value() -> None:
    async def never() -> None:
        raise AssertionError("two are missing")

    with pytest.raises(AssertionError, match="two are missing"):
        await eventually(never, timeout=0.05)
    with pytest.raises(AssertionError, match=r"After 0\.05 s it still gives \[\]\."):
        await eventually(list[int], timeout=0.05)
