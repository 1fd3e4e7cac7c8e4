"""``make install`` on machines that lack something: one clear line, and a status other than 0."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "install"


class Machine:
    """A clone with nothing but the script, and a PATH with nothing but what is put there."""

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "clone"
        self.commands = folder / "bin"
        self.commands.mkdir()
        (self.clone / "scripts").mkdir(parents=True)
        shutil.copy(SCRIPT, self.clone / "scripts")
        for command in ("dirname", "date"):
            found = shutil.which(command)
            assert found is not None
            (self.commands / command).symlink_to(found)

    def has(self, command: str, script: str) -> None:
        path = self.commands / command
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def install(self, **environment: str) -> tuple[int, str]:
        ran = subprocess.run(
            ["/bin/sh", self.clone / "scripts" / "install"],
            env={"PATH": str(self.commands), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return ran.returncode, ran.stdout + ran.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


#: A real Python that has no ensurepip, as Debian's has not without python3-venv.
BARE_PYTHON = f'case "$*" in *ensurepip*) exit 1 ;; esac\nexec {sys.executable} "$@"'
PACKAGE = f"python3.{sys.version_info.minor}-venv"


def test_without_any_python(machine: Machine) -> None:
    assert machine.install() == (
        1,
        "Towpath: Python 3.11 or newer is needed, and none is on PATH: "
        "install it, or name it with PYTHON=/path/to/python3.\n",
    )


def test_with_an_old_python_only(machine: Machine) -> None:
    machine.has("python3", "exit 1")
    status, output = machine.install()
    assert status == 1
    assert output.startswith("Towpath: Python 3.11 or newer is needed")


def test_with_an_unfit_python_named(machine: Machine) -> None:
    assert machine.install(PYTHON="python2") == (
        1,
        "Towpath: PYTHON=python2 is not a Python 3.11 or newer.\n",
    )


def test_without_venv_and_without_root(machine: Machine) -> None:
    machine.has("python3", BARE_PYTHON)
    machine.has("apt-get", "exit 0")
    machine.has("id", "echo 1000")
    assert machine.install() == (
        1,
        f"Towpath: python3 cannot make virtual environments: run 'sudo apt-get install {PACKAGE}'.\n",
    )


def test_without_venv_and_without_apt(machine: Machine) -> None:
    machine.has("python3", BARE_PYTHON)
    assert machine.install() == (
        1,
        "Towpath: python3 cannot make virtual environments: install its modules venv and ensurepip.\n",
    )


def test_without_venv_in_debian_the_line_names_the_remedy(machine: Machine) -> None:
    machine.has("python3", BARE_PYTHON)
    machine.has("apt-get", "exit 100")
    machine.has("id", "echo 0")
    assert machine.install() == (
        1,
        f"Towpath: installing {PACKAGE}\n"
        f"Towpath: python3 cannot make virtual environments, and 'apt-get install {PACKAGE}' failed.\n",
    )


def test_as_root_debian_brings_venv(machine: Machine) -> None:
    """The fresh Python is then used: here it fails at the next step, for the clone has no lock."""
    machine.has("python3", f'[ -e {machine.clone}/venv-came ] && exec {sys.executable} "$@"\n{BARE_PYTHON}')
    machine.has("apt-get", f'case "$*" in *install*{PACKAGE}*) echo > {machine.clone}/venv-came ;; esac')
    machine.has("id", "echo 0")
    status, output = machine.install()
    assert status != 0
    assert output.startswith(f"Towpath: installing {PACKAGE}\nTowpath: setting up .venv with Python 3.")
    assert (machine.clone / ".venv" / "bin" / "python").exists()
    assert not (machine.clone / ".venv" / "ready").exists()
