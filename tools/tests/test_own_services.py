"""``towpath dev --with``: services of one's own, from their source."""

import asyncio
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from towpath.servicekit.installed import installed_services
from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.testkit.bare_page import bare_page
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import SECRET, a_token
from towpath.tools.own_target import FILES_MAX, BadTarget, find

MILL = '''
from typing import Any

from pydantic import BaseModel

from towpath.servicekit import Handler, Outcome, Service, ServiceSettings, serve_domain
from .stones import STONES


class Grind(BaseModel):
    sacks: int


class MillSettings(ServiceSettings):
    """Settings of the mill.

    Attributes:
        miller: The name of the miller.
    """

    miller: str


async def serve(settings: MillSettings, stop: Any) -> None:
    def grind(request: Grind, session: Any, _: Any) -> Outcome:
        return Outcome(answer={"by": settings.miller, "stones": STONES})

    handlers = {"mill.grind": Handler(Grind, grind)}
    await serve_domain(Service(name="mill", domain="mill", commands=handlers), settings, stop)


MILL: Service[Any] = Service(name="mill", domain="mill", commands={})
'''
WAVE = """
from towpath.servicekit import Service

WAVE = Service(name="wave", domain="wave", commands={})
"""


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a package, and a file without one."""
    files = {"mill/__init__.py": "", "mill/app.py": MILL, "mill/stones.py": "STONES = 2\n", "wave.py": WAVE}
    return write(tmp_path / "src", files)


# In a running `towpath dev`


async def has_said(dev: Process, line: str, times: int = 1) -> None:
    def said() -> bool:
        assert dev.status is None, dev.output
        return len(re.findall(line, dev.output, re.M)) >= times

    await eventually(said, timeout=120)


async def test_a_service_starts_again_when_its_files_change_and_its_failure_stops_nothing_else(
    source: Path, processes: Processes, rabbitmq: Rabbit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source)
    port, data = free_port(), tmp_path / "towpath"
    dev = processes.launch(
        "towpath",
        *("dev", "--data", str(data), "--with", "mill", "--with", "wave.py"),
        port=port,
        web_port=free_port(),
        web_root=bare_page(tmp_path / "web"),
        amqp_url=rabbitmq.url,
        auth_secret=SECRET,
        miller="ben",
    )
    await has_said(dev, r"Ready\.")
    assert "mill, from mill/app.py\n" in dev.output
    parts = json.loads((data / "dev.json").read_text())["parts"]
    services = [service.name for service in installed_services()]
    assert parts.keys() == {"gateway", "ingress", "mill", "wave", *services}

    async with WireClient.connect(f"ws://127.0.0.1:{port}/ws", token=a_token("ana")) as ana:

        async def grind() -> object:
            return (await ana.request("mill.grind", {"sacks": 1}))["data"]

        assert await grind() == {"by": "ben", "stones": 2}
        write(source, {"mill/stones.py": "STONES = 4\n"})
        await has_said(dev, r"^mill: stones\.py changed; starting it again\nmill: ready$")
        assert await grind() == {"by": "ben", "stones": 4}

        write(source, {"mill/stones.py": "STONES = \x1b[2J\n"})
        await has_said(dev, r"^mill ended with status 65: \S+/mill/stones\.py:1: SyntaxError: ")
        assert "it is tried again when its files change" in dev.output
        assert "\x1b" not in dev.output
        assert (await ana.request("order.list"))["data"]["orders"] == []
        waiting = asyncio.create_task(grind())
        write(source, {"mill/stones.py": "STONES = 6\n"})
        await has_said(dev, r"^mill: ready$", times=2)
        assert await waiting == {"by": "ben", "stones": 6}

    now = json.loads((data / "dev.json").read_text())["parts"]
    assert now.pop("mill") != parts.pop("mill")
    assert now == parts
    assert await dev.terminate(timeout=40) == 0, dev.output
    with pytest.raises(ProcessLookupError):
        os.kill(now["wave"], 0)


def launched(source: Path, *arguments: str) -> tuple[int, str]:
    """A service's own process that gets no settings: its status, and its last line."""
    ran = subprocess.run(
        [sys.executable, "-m", "towpath.tools.own_program", *arguments],
        cwd=source,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ran.returncode, (ran.stderr.splitlines() or [""])[-1]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["many", "", ""],
            "many must define one Service, and defines several; name one: --with module:SERVICE",
        ),
        (["many", "LOCK", ""], "many has no Service named LOCK"),
        (
            ["none", "", ""],
            "none must define one Service, and defines none; name the module that does: --with …",
        ),
        (["broken", "", ""], "{folder}/broken.py:2: ZeroDivisionError: division by zero"),
        (["many", "ONE", ""], ""),
    ],
)
def test_the_reason_of_a_service_that_cannot_start_is_one_line(
    arguments: list[str], line: str, tmp_path: Path
) -> None:
    many = f"{WAVE}\nONE, TWO = WAVE, Service(name='two', domain='two', commands={{}})\n"
    write(tmp_path, {"many.py": many, "none.py": "", "broken.py": "\n1 / 0\n"})
    expected = line.replace("{folder}", str(tmp_path)).replace("…", "module:SERVICE")
    assert launched(tmp_path, *arguments) == (ExitStatus.BAD_SERVICE if line else 0, expected)


# Names


def test_a_service_is_named_by_module_package_or_file(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source)
    app = source / "mill" / "app.py"
    for given in ("mill.app", "mill"):
        target = find(given)
        assert (target.name, target.module, target.attribute, target.file) == ("mill", "mill.app", "", app)
        assert target.path is None
    assert find("mill.app:MILL").attribute == "MILL"
    monkeypatch.chdir(source.parent)
    for given in ("src/mill/app.py", str(app), "src/mill/"):
        target = find(given)
        assert (target.name, target.module, target.file, target.path) == ("mill", "mill.app", app, source)
    wave = find("src/wave.py:WAVE")
    assert (wave.name, wave.module, wave.attribute, wave.path) == ("wave", "wave", "WAVE", source)
    assert find("towpath.orders.app").name == "orders"


def test_a_package_is_watched_as_a_whole_and_a_file_with_those_beside_it(source: Path) -> None:
    write(
        source, {"mill/migrations/0001_a.py": "", "mill/.hidden/a.py": "", "mill/notes.txt": "", "b.py": ""}
    )

    def names(given: str) -> set[str]:
        return {str(path.relative_to(source)) for path in find(str(source / given)).snapshot()}

    own = {"mill/__init__.py", "mill/app.py", "mill/stones.py", "mill/migrations/0001_a.py"}
    assert names("mill/app.py") == own
    assert names("wave.py") == {"wave.py", "b.py"}
    before = find(str(source / "wave.py")).snapshot()
    (source / "b.py").unlink()
    assert find(str(source / "wave.py")).snapshot() != before


def test_the_number_of_watched_files_has_a_bound(source: Path) -> None:
    write(source, {f"mill/many/m{number}.py": "" for number in range(FILES_MAX)})
    assert len(find(str(source / "mill/app.py")).snapshot()) == FILES_MAX


def test_finding_a_service_runs_none_of_its_code(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(source, {"mill/__init__.py": "raise SystemExit('it ran')", "mill/app.py": "raise SystemExit"})
    monkeypatch.chdir(source)
    assert find("mill.app").file == source / "mill" / "app.py"
    assert importlib.util.find_spec("mill") is None  # nor is the folder importable from now on


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            "lock.app",
            "there is no module lock.app below {folder} or in this Python environment; name its file: ",
        ),
        ("mill.lock", "there is no module mill.lock below"),
        ("json.decoder:", "write module:SERVICE, such as mill.app:MILL"),
        ("mill app", "is neither a module, such as mill.app, nor a path to a file"),
        ("lock.py", "there is no such Python file; name the one that defines the Service"),
        ("mill/__init__.py", "name the file that defines the Service, such as app.py beside it"),
        ("two-words.py", "cannot be imported: name file and folders with letters, digits and _"),
        ("sys", "there is no module sys below"),
    ],
)
def test_a_service_that_is_not_there_is_one_line(
    given: str, problem: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(source, {"two-words.py": ""})
    monkeypatch.chdir(source)
    with pytest.raises(BadTarget) as bad:
        find(given)
    assert str(bad.value).startswith(f"--with {given}: {problem.replace('{folder}', str(source))}")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--with", "lock"], "--with lock: there is no module lock below "),
        (["--with", "gateway.py"], "--with gateway.py: Towpath has a program named gateway; rename the file"),
        (
            ["--with", "wave.py", "--with", "wave.py:WAVE"],
            "--with wave.py:WAVE: another service is named wave",
        ),
        (
            ["--with", "wave.py", "--broker", "memory"],
            "--with: a service of your own is a process, which cannot",
        ),
    ],
)
async def test_an_impossible_service_stops_dev_before_anything_starts(
    arguments: list[str],
    line: str,
    source: Path,
    processes: Processes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(source, {"gateway.py": WAVE})
    monkeypatch.chdir(source)
    dev = processes.launch(
        "towpath",
        *("dev", "--data", str(tmp_path / "towpath"), *arguments),
        port=free_port(),
        web_port=free_port(),
        web_root=bare_page(tmp_path / "web"),
    )
    assert await dev.ended(timeout=120) == 2
    assert dev.output.startswith(f"towpath: {line}")
    assert dev.output.count("\n") == 1


async def test_an_installed_service_that_is_named_runs_once(
    processes: Processes, rabbitmq: Rabbit, tmp_path: Path
) -> None:
    import towpath.orders.app

    data = tmp_path / "towpath"
    dev = processes.launch(
        "towpath",
        *("dev", "--data", str(data), "--with", str(towpath.orders.app.__file__)),
        port=free_port(),
        web_port=free_port(),
        web_root=bare_page(tmp_path / "web"),
        amqp_url=rabbitmq.url,
    )
    await has_said(dev, r"Ready\.")
    parts = json.loads((data / "dev.json").read_text())["parts"]
    assert parts.keys() == {"gateway", "ingress", *(service.name for service in installed_services())}
    assert (data / "orders.db").exists()
