"""The page and its pictures follow from a run alone, and hold all that was measured."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import works
from bench.comparison import comparison
from bench.histogram import Histogram
from bench.measurement import Measurement, Run
from bench.page import page
from bench.pictures import picture
from bench.report import write
from bench.works import work
from bench.works.interface import Chart, Scale

from .measured import a_measurement, a_run

RUN = a_run(
    a_measurement(
        "towpath", rate=8_000.0, times=Histogram.of([1_500]), cpu={"gateway": 40.0, "broker": 12.0}
    ),
    a_measurement("bare", rate=1_600.0, times=Histogram.of([9_000]), lost=3),
    a_measurement("node", failure="ws is not there"),
    a_measurement("towpath", work="steady", case="500 a second", rate=500.0, times=Histogram.of([2_000])),
    a_measurement("bare", work="steady", case="500 a second", rate=450.0, times=Histogram.of([4_000])),
)
WORKS = [work("request"), work("steady")]


def row(text: str, *, beginning: str) -> list[str]:
    """The cells of the one row of a Markdown table that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(beginning)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_same_run_makes_the_same_page() -> None:
    assert page(RUN, WORKS) == page(RUN, WORKS)


def test_a_row_has_the_rate_the_ratio_times_and_cpu() -> None:
    cells = row(page(RUN, WORKS), beginning="| 200 × 4 | Towpath")
    assert cells[2:5] == ["8,000", "5.00", "1.50"]
    assert cells[-3:] == ["40.0", "12.0", "nothing"]


def test_faults_are_shown_beside_the_figures() -> None:
    assert row(page(RUN, WORKS), beginning="|  | Bare | 1,600")[-1] == "3 lost"


def test_a_failed_case_gives_its_reason() -> None:
    assert row(page(RUN, WORKS), beginning="|  | Node")[-1] == "failed: ws is not there"


def test_the_first_table_holds_the_ratios_to_the_baseline() -> None:
    cells = row(page(RUN, WORKS), beginning="| Request, service, reply, 200 × 4")
    assert cells[1:] == ["8,000", "1,600", "5.00"]


def test_the_page_lists_the_differences_of_every_system() -> None:
    assert all(f"{name} is different" in page(RUN, WORKS) for name in RUN.differences)


def test_a_shared_machine_is_named_as_shared() -> None:
    shared = a_run(a_measurement("towpath", rate=1.0, elsewhere=0.4))
    assert "other programs took 40% of the machine" in page(shared, WORKS[:1])
    assert "other programs" not in page(RUN, WORKS)


def test_every_picture_on_the_page_is_written_beside_it(tmp_path: Path) -> None:
    written = write(RUN, tmp_path, None)
    pictures = re.findall(r"\]\((images/[^)]+)\)", written.read_text())
    assert len(pictures) == len(WORKS)
    assert all((tmp_path / name).is_file() for name in pictures)


def test_a_run_is_read_from_its_file_unchanged(tmp_path: Path) -> None:
    write(RUN, tmp_path, None)
    assert page(Run.load(tmp_path / "performance.json"), WORKS) == page(RUN, WORKS)


def test_a_file_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"measurements": [{"surprise": 1}]}))
    with pytest.raises(ValueError, match="no results"):
        Run.load(tmp_path / "other.json")


def test_a_comparison_shows_the_change_of_the_figure_and_of_its_ratio() -> None:
    then = a_run(a_measurement("towpath", rate=4_000.0), a_measurement("bare", rate=1_600.0))
    (own, *_) = comparison(then, RUN, WORKS).rows
    assert own[3:] == ["4,000", "8,000", "+100%", "2.50", "5.00", "+100%"]


@pytest.mark.parametrize("name", works.NAMES)
def test_every_work_has_a_picture_that_is_xml(name: str) -> None:
    drawn = work(name)
    figure = drawn.main if drawn.main not in ("rate", "p99") else "other"
    measured = [
        Measurement(name, case.name, system, 0, rate=9.0, times=Histogram.of([5]), figures={figure: 3.0})
        for case in drawn.cases(Scale())
        for system in ("towpath", "bare")
    ]
    root = ElementTree.fromstring(picture(a_run(*measured), drawn))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    if drawn.chart is Chart.BARS:
        assert texts.count("Towpath") == len(drawn.cases(Scale()))


def test_a_system_that_cannot_keep_up_is_not_drawn() -> None:
    drawn = ElementTree.fromstring(picture(RUN, work("steady")))
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "Towpath" in texts
    assert "Bare" not in texts


@pytest.mark.parametrize("name", works.NAMES)
def test_every_headline_is_a_case_of_its_work(name: str) -> None:
    assert set(work(name).headlines) <= {case.name for case in work(name).cases(Scale())}
