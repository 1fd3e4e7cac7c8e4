"""The plug-in in a project of another team: runs of pytest with a test file of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from towpath.testkit.plugin import needs_extra

SERVICE = """
from pydantic import BaseModel
from towpath.servicekit import Handler, Outcome, Service

class Greet(BaseModel):
    name: str

def greet(request, session, _):
    return Outcome(answer={"text": f"Hello, {request.name}!"})

SERVICE = Service(name="hello", domain="hello", commands={"hello.greet": Handler(Greet, greet, changes=False)})
"""
TEST = """
import pytest
from service import SERVICE

@pytest.mark.asyncio
async def test_a_greeting_is_answered(towpath_stack):
    stack = await towpath_stack(SERVICE)
    async with stack.connect("ana") as ana:
        assert (await ana.request("hello.greet", {"name": "Ben"}))["data"] == {"text": "Hello, Ben!"}

def test_a_database_of_its_own(towpath_database_url):
    assert towpath_database_url.startswith("sqlite")
"""
#: As if this package was not installed.
MISSING = """
import sys

class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "towpath.tools":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
"""
EXTRA = """
def test_with_a_real_broker(towpath_rabbitmq): ...
def test_with_a_real_database(towpath_postgresql_url): ...
def test_in_a_browser(towpath_chromium): ...
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\npythonpath = .\nasyncio_default_fixture_loop_scope = function\n"
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:schemathesis", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("named", [[], ["-p", "towpath.testkit.plugin"]], ids=["installed", "named as well"])
def test_its_fixtures_are_there_without_any_configuration(named: list[str], tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "test_hello.py").write_text(TEST)
    ran = run(tmp_path, *named)
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr


def test_a_fixture_whose_extra_is_missing_fails_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(MISSING)
    (tmp_path / "test_real.py").write_text(EXTRA)
    ran = run(tmp_path, "--tb=line", "-o", "asyncio_mode=auto")
    for extra in ("rabbitmq", "postgresql", "browser"):
        line = (
            "This fixture needs towpath.tools, which is not installed: "
            f"pip install 'towpath-testkit[{extra}]'"
        )
        assert line in ran.stdout, ran.stdout + ran.stderr
    assert "3 errors" in ran.stdout


def test_a_missing_package_is_named_with_its_extra() -> None:
    with (
        pytest.raises(
            pytest.fail.Exception, match=r"needs loom, .* pip install 'towpath-testkit\[browser\]'"
        ),
        needs_extra("browser"),
    ):
        raise ModuleNotFoundError("No module named 'loom'", name="loom")
