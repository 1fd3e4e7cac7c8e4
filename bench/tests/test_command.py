"""The command says in one line what is wrong, and writes what it has measured."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import systems, works
from bench.__main__ import app
from bench.measurement import Run
from bench.systems import system
from bench.works import work
from bench.works.interface import Scale


@pytest.mark.parametrize("option", ["--works", "--systems"])
def test_a_name_that_matches_nothing_is_refused_in_one_line_with_all_names(option: str) -> None:
    ran = CliRunner().invoke(app, [option, "nothing"])
    assert ran.exit_code == 2
    assert ran.stderr.count("\n") == 1
    assert f"{option} 'nothing'" in ran.stderr
    assert ("request" if option == "--works" else "towpath") in ran.stderr


def test_an_unknown_earlier_run_is_refused_before_any_measurement(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["--compare", str(tmp_path / "none.json")])
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
    assert "No such file" in ran.stderr


def test_a_run_measures_real_processes_and_writes_the_results(tmp_path: Path) -> None:
    options = ["--quick", "--works", "request", "--systems", "limit", "--out", str(tmp_path)]
    ran = subprocess.run(
        [sys.executable, "-m", "bench", *options],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    measured = Run.load(tmp_path / "performance.json").measurements
    assert [one.failure for one in measured] == [None] * len(work("request").cases(Scale(quick=True)))
    assert all(one.rate and one.cpu["gateway"] and one.cpu["generator"] for one in measured)
    assert "websockets alone" in (tmp_path / "performance.md").read_text()


def test_towpath_implements_every_work() -> None:
    assert all(work(name).suits(system("towpath")) for name in works.NAMES)


@pytest.mark.parametrize("name", systems.NAMES)
def test_every_system_is_named_like_its_module_and_implements_a_work(name: str) -> None:
    assert system(name).name == name
    assert any(work(one).suits(system(name)) for one in works.NAMES)
