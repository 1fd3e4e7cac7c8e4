"""The verdict on a judge: what is not listed fails, and what is listed and does not occur fails too."""

import json
import sys
from pathlib import Path

import pytest

from judges import page, run
from judges.judge import Judge, Outcome
from judges.needs import ROOT, clone, distribution, program
from judges.verdict import Deviation, Expected, problems

LISTED = Expected(
    3, [Deviation("1.*", "failed", "refused by the contract"), Deviation("2.1", "unclean", "ours")]
)
AS_LISTED = {"1.1": "failed", "1.2": "failed", "2.1": "unclean", "3.1": "ok"}


def test_outcomes_as_listed_are_not_reported() -> None:
    assert problems(AS_LISTED, LISTED) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"3.1": "failed"}, "3.1 is 'failed', expected is 'ok'"),
        ({"1.2": "ok"}, "1.2 is 'ok', expected is 'failed'"),
        ({"2.1": "failed"}, "2.1 is 'failed', expected is 'unclean'"),
    ],
)
def test_a_new_a_vanished_and_another_deviation_are_problems(change: dict[str, str], problem: str) -> None:
    assert problems(AS_LISTED | change, LISTED) == [problem]


def test_a_deviation_that_depends_on_time_may_be_absent_and_may_not_be_another() -> None:
    listed = Expected(1, [Deviation("1.1", "non-strict", "one read may hold both frames", sometimes=True)])
    assert problems({"1.1": "non-strict"}, listed) == problems({"1.1": "ok"}, listed) == []
    assert problems({"1.1": "failed"}, listed) == ["1.1 is 'failed', expected is 'non-strict'"]


def test_a_judge_that_ran_fewer_cases_is_a_problem() -> None:
    found = problems({"1.1": "failed"}, LISTED)
    assert found == ["ran 1 cases, not 3", "2.1: no such case was run"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "at_least = 0",
        'at_least = 1\nother = "x"',
        'at_least = 1\n[[deviation]]\ncase = "1"\noutcome = "failed"',
        'at_least = 1\n[[deviation]]\ncase = "1"\noutcome = "failed"\nreason = " "',
        'at_least = 1\n[[deviation]]\ncase = "1"\noutcome = "failed"\nreason = "so"\nsometimes = "yes"',
    ],
)
def test_a_list_without_reasons_or_with_unknown_entries_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "judge.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"judge\.toml"):
        Expected.read(path)


def test_every_judge_has_a_list_of_expected_deviations() -> None:
    listed = {path.stem for path in (ROOT / "judges/expected").glob("*.toml")}
    assert listed == {judge.name for judge in run.JUDGES}
    for judge in run.JUDGES:
        assert Expected.read(ROOT / f"judges/expected/{judge.name}.toml").at_least > 0


def test_a_missing_program_is_named_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SOME_SUITE", raising=False)
    needed = clone("SOME_SUITE", "github.com/some/suite", "test.py")
    assert needed() == "not here: set SOME_SUITE to a clone of github.com/some/suite"
    monkeypatch.setenv("SOME_SUITE", str(tmp_path))
    assert f"SOME_SUITE={tmp_path} has no test.py" in (needed() or "")
    (tmp_path / "test.py").touch()
    assert needed() is None
    assert "run `make install`" in (distribution("no-such-package")() or "")
    assert program("no-such-program", "install it")() == "no-such-program is not on PATH: install it"


async def test_a_judge_that_fails_or_takes_too_long_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run, "_EXPECTED", tmp_path)
    monkeypatch.setattr(run, "_RESULTS", tmp_path)
    (tmp_path / "good.toml").write_text("at_least = 1\n")
    writes = f"import sys; open(sys.argv[2], 'w').write({json.dumps({'cases': {'1': 'ok'}})!r})"
    outcomes = await run._run_all(
        [
            _judge("good", writes, 30.0),
            _judge("crashed", "raise SystemExit('no port')", 30.0),
            _judge("slow", "import time; time.sleep(60)", 0.5),
            _judge("missing", "", 1.0, "there is no suite"),
        ]
    )
    assert [outcome.cases for outcome in outcomes] == [{"1": "ok"}, None, None, None]
    good, crashed, slow, missing = (list(outcome.problems) for outcome in outcomes)
    assert good == []
    assert crashed == ["its program ended with status 1: no port"]
    assert slow[0].startswith("not over after 0 s")
    assert missing == ["there is no suite"]


def test_the_page_counts_what_was_listed_and_what_was_not() -> None:
    cases = AS_LISTED | {"3.1": "failed"}
    outcome = Outcome(cases, problems(cases, LISTED), 2.0)
    row = page.Row(_judge("suite", "", 1.0), outcome, LISTED)
    text = page.markdown([row], "2026-11-29", "2 cores")
    assert "0 of 1 judges were satisfied" in text
    assert "| suite | registry | 4 | 0 | 3 | 1 | 2 | ✗ |" in text
    assert "| 1.* | failed | refused by the contract |" in text
    assert "- *suite*: 3.1 is 'failed', expected is 'ok'." in text


def _judge(name: str, code: str, seconds: float, missing: str | None = None) -> Judge:
    return Judge(name, name, "registry", (lambda: missing,), (sys.executable, "-c", code), seconds)


def test_ci_leaves_out_a_judge_whose_compiler_is_not_installed_and_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = Judge(
        "ours", "a suite in Go", "registry", (), (sys.executable, "-c", "raise SystemExit(1)"), 5, "no-go"
    )
    other = Judge("autobahn_gateway", "another", "registry", (lambda: "no such thing",), (), 5)
    monkeypatch.setattr(run, "JUDGES", (ours, other))
    monkeypatch.setattr(sys, "argv", ["judges", "--registry"])
    assert run.main() == 1  # for the other one
    printed = capsys.readouterr().out
    assert "a suite in Go: not run, no-go is not on PATH" in printed
    assert "no such thing" in printed
