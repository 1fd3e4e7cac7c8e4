"""How a run of all tests is divided among processes, and what ``-k`` imports: by runs of a small project."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Writes down which process imports a file and runs its tests.
FILE = """
import os
from pathlib import Path
import pytest
from names import NAMES

def write(word):
    with Path({log!r}).open("a") as log:
        log.write(f"{{word}} {name} {{os.getpid()}}\\n")

write("import")

@pytest.mark.parametrize("name", NAMES)
def test_{what}(name):
    write("run")
"""


class Project:
    """A few files of tests, each with two tests; the names of these end with words of another file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "log"
        (folder / "names.py").write_text('NAMES = ["heron", "otter"]\n')
        (folder / "pytest.ini").write_text(
            "[pytest]\ntestpaths = libs tests\npythonpath = .\n"
            "addopts = --import-mode=importlib -ra -p towpath.testkit.repository\n"
            "asyncio_default_fixture_loop_scope = function\n"
        )

    def add(self, path: str, what: str) -> None:
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(FILE.format(log=str(self._log), name=path, what=what))

    def run(self, *arguments: str) -> list[tuple[str, str, str]]:
        """The lines of the log: ``import`` or ``run``, the file, the process."""
        self._log.write_text("")
        ran = self.result(*arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        lines = (line.split() for line in self._log.read_text().splitlines())
        return [(word, file, process) for word, file, process in lines]

    def result(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run pytest; returns its status and what it printed."""
        return subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=self._folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def imported(self, *arguments: str) -> set[str]:
        """The files that a run imports."""
        return {file for word, file, _ in self.run(*arguments) if word == "import"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.add("libs/kit/tests/test_birds.py", "flight")
    project.add("tests/test_fish.py", "swimming")
    return project


EVERYTHING = {"libs/kit/tests/test_birds.py", "tests/test_fish.py"}


def test_a_word_imports_only_files_that_may_hold_such_a_test(project: Project) -> None:
    assert project.imported("-k", "flight") == EVERYTHING  # nothing is known yet
    assert project.imported("-k", "flight") == {"libs/kit/tests/test_birds.py"}
    assert project.imported("-k", "birds and heron") == {*EVERYTHING}  # the words are not weighed together
    assert project.imported("-k", "fish or flight") == EVERYTHING
    assert project.imported() == EVERYTHING


def test_a_word_finds_tests_whose_names_come_from_elsewhere(project: Project) -> None:
    project.run()
    assert [file for word, file, _ in project.run("-k", "otter") if word == "run"] == [
        "libs/kit/tests/test_birds.py",
        "tests/test_fish.py",
    ]


def test_a_word_finds_tests_of_a_file_that_is_new_or_has_changed(project: Project) -> None:
    project.run()
    project.add("tests/test_reed.py", "growth")
    project.add("tests/test_fish.py", "diving")
    assert project.imported("-k", "diving") == {"tests/test_fish.py", "tests/test_reed.py"}
    assert project.imported("-k", "diving") == {"tests/test_fish.py"}


def test_an_expression_with_not_imports_all(project: Project) -> None:
    project.run()
    assert project.imported("-k", "not flight") == EVERYTHING


def test_the_tests_of_a_file_run_in_one_process_and_files_beside_each_other(project: Project) -> None:
    project.add("tests/test_tutorial.py", "steps")
    project.add("tests/test_client_docs.py", "examples")
    ran: dict[str, set[str]] = {}
    for word, file, process in project.run("-n", "2"):
        if word == "run":
            ran.setdefault(file, set()).add(process)
    assert {len(processes) for processes in ran.values()} == {1}
    assert len(set.union(*ran.values())) == 2
    # Both build the JavaScript client in its folder.
    assert ran["tests/test_tutorial.py"] == ran["tests/test_client_docs.py"]


def test_a_socket_that_a_test_leaves_in_a_cycle_fails_this_test_and_no_other(tmp_path: Path) -> None:
    project = Project(tmp_path)
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs/test_leaks.py").write_text(
        "import socket\n\n"
        "def test_leaks():\n    left = [socket.socket()]\n    left.append(left)\n\n"
        "def test_other():\n    pass\n"
    )
    ran = project.result("-W", "error")
    assert ran.returncode == 1
    assert "ERROR libs/test_leaks.py::test_leaks - " in ran.stdout
    assert "2 passed, 1 error" in ran.stdout


def test_a_process_that_a_test_ends_is_replaced_and_the_test_is_named(
    project: Project, tmp_path: Path
) -> None:
    (tmp_path / "tests/test_storm.py").write_text(
        "import os\nfrom pathlib import Path\n\n"
        "def test_sinks():\n    if not Path('sunk').exists():\n        Path('sunk').touch()\n        os._exit(70)\n"
    )
    ran = project.result("-n", "2")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "crashed while running 'tests/test_storm.py::test_sinks'" in ran.stdout
    assert "1 failed, 5 passed" in ran.stdout
