"""Another repository uses Towpath: a service of its own and its tests, on the wheels of `make packages` alone.

The commands are those of the last steps of two tutorials. The environment has no other package of ours, and nothing
of this repository is on its path. Packages of others are those of requirements.lock.
"""

import asyncio
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from towpath.testkit.processes import Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import AUTH_SETTINGS, a_token

from .snippets import ROOT, Play, blocks_of, looks_like, section

TESTING = (ROOT / "docs/tutorial/test-your-handlers.md").read_text()
OUTSIDE = section((ROOT / "docs/tutorial/your-own-service.md").read_text(), "8. Outside of this repository")
BIN = Path(sys.executable).parent

#: A program of a team that uses the client.
ASK = """
import asyncio, json, os
from towpath.client import connect

async def main():
    async with connect(os.environ["GATEWAY"], token=os.environ["TOKEN"]) as client:
        for name in ("Ben", "Ben", "Kim"):
            await client.request("ledger.greet", {"name": name})
        print(json.dumps(await client.request("ledger.list")))

asyncio.run(main())
"""


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Run a command that must succeed, and finds no Python path of this process; its output."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if name not in ours and "TOWPATH" not in name}
    ran = subprocess.run(
        list(command),
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the role of the repository's, as far as the step needs it; ``../own`` is beside it."""
    clone = tmp_path_factory.mktemp("wheels") / "towpath"
    clone.mkdir()
    for shared in (".venv", "requirements.lock"):
        (clone / shared).symlink_to(ROOT / shared)
    return clone


@pytest.fixture(scope="module")
def wheels(clone: Path) -> Path:
    run(sys.executable, ROOT / "scripts/packages.py", "dist", folder=clone)
    return clone / "dist"


@pytest.fixture(scope="module")
def project(clone: Path) -> Path:
    """A service that `towpath new service` has made outside of this repository."""
    own = clone.parent / "own"
    own.mkdir()
    run(BIN / "towpath", "new", "service", "ledger", "--storage", "--into", "../own", folder=clone)
    return own / "ledger"


@pytest.fixture(scope="module")
def environment(clone: Path, wheels: Path, project: Path) -> Path:
    """The programs of a fresh environment with the project, as the tutorial makes it, and the client."""
    build, install = (block.text for block in blocks_of(OUTSIDE, "sh"))
    assert build == "make packages\n"
    run("sh", "-euc", install, folder=clone)
    venv = project.parent / "env"
    run(
        *(BIN / "uv", "pip", "install", "--quiet", "--python", venv),
        *("--constraint", ROOT / "requirements.lock"),
        *wheels.glob("towpath_client-*.whl"),
        folder=clone,
    )
    return venv / "bin"


@pytest.fixture(scope="module")
def tested(clone: Path, environment: Path, project: Path) -> Path:
    """The same environment with the testkit, and the project with the files of the other tutorial."""
    step = section(TESTING, "5. In another repository")
    build, install = (block.text for block in blocks_of(step, "sh"))
    assert build == "make packages\n"
    make, _, packages = install.partition("\n")
    assert make == ".venv/bin/uv venv --quiet ../own/env"  # it is there
    run("sh", "-euc", packages, folder=clone)
    for block in blocks_of(TESTING):
        if block.name is not None:
            (project / "tests" / block.name).write_text(block.text)
    return environment


def test_every_distribution_has_a_wheel_with_its_modules_and_its_types(wheels: Path) -> None:
    names = {path.name.split("-")[0] for path in wheels.glob("*.whl")}
    assert names >= {
        "towpath_protocol",
        "towpath_servicekit",
        "towpath_testkit",
        "towpath_client",
        "towpath_tools",
    }
    assert names >= {
        f"towpath_{path.name}" for path in ROOT.glob("libs/*") if (path / "pyproject.toml").exists()
    }
    (kit,) = wheels.glob("towpath_servicekit-*.whl")
    inside = zipfile.ZipFile(kit).namelist()
    assert "towpath/servicekit/storage/migrations/versions/0001_tables.py" in inside
    assert "towpath/servicekit/runtime/known_settings.txt" in inside
    (tools,) = wheels.glob("towpath_tools-*.whl")
    assert "towpath/tools/service_template/app.py.in" in zipfile.ZipFile(tools).namelist()


async def test_a_service_of_another_repository_answers_on_a_real_broker(
    environment: Path, project: Path, processes: Processes, rabbitmq: Rabbit, tmp_path: Path
) -> None:
    where = run(
        environment / "python", "-c", "import towpath.servicekit as kit; print(kit.__file__)", folder=project
    )
    assert Path(where.strip()).is_relative_to(environment.parent)
    port = free_port()
    await asyncio.gather(
        processes.start("towpath-gateway", port=port, amqp_url=rabbitmq.url, **AUTH_SETTINGS),
        processes.start(
            str(environment / "ledger"),
            timeout=120,  # its modules are compiled first
            amqp_url=rabbitmq.url,
            database_url=f"sqlite:///{tmp_path}/ledger.db",
        ),
    )
    answer = await asyncio.to_thread(
        run,
        *(environment / "python", "-c", ASK),
        folder=project,
        GATEWAY=f"ws://127.0.0.1:{port}/ws",
        TOKEN=a_token("ana"),
    )
    assert json.loads(answer) == {"times": {"Ben": 2, "Kim": 1}}


def test_its_own_tests_pass_there_and_those_of_the_tutorial(clone: Path, tested: Path) -> None:
    (console,) = blocks_of(section(TESTING, "5. In another repository"), "console")
    play = Play.read(console.text)
    printed = run("sh", "-euc", play.script, folder=clone).splitlines()
    assert len(printed) == len(play.lines), printed
    assert all(map(looks_like, printed, play.lines)), printed


#: Looks at its environment, and needs an extra that is not there.
ALONE = """
from importlib.metadata import distributions

def test_no_more_of_ours():
    ours = {one.name for one in distributions() if one.name.startswith("towpath")}
    assert ours == {"towpath-client", "towpath-gateway", "towpath-protocol", "towpath-servicekit", "towpath-testkit"}

def test_with_a_real_broker(towpath_rabbitmq): ...
"""


def test_the_testkit_brings_no_service_and_a_fixture_names_the_extra_that_it_needs(
    tested: Path, tmp_path: Path
) -> None:
    (tmp_path / "test_alone.py").write_text(ALONE)
    ran = run("sh", "-euc", f"{tested}/pytest -q -o asyncio_mode=auto . || true", folder=tmp_path)
    assert "1 passed, 1 error in" in ran
    assert "which is not installed: pip install 'towpath-testkit[rabbitmq]'" in ran
