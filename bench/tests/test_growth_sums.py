"""The promises of the page about a million connections: sums that a reader can recalculate, from known figures."""

import math
import re

import pytest

from bench.growth.command import AXES
from bench.growth.million import SUMS, million, scenarios
from bench.growth.page import TEMPLATE, Unfilled, filled, page
from bench.growth.points import Missing
from bench.growth.sums import Sum, as_shown, evaluate, shown, work_out
from bench.tests.growth_runs import a_run, without

_LINKS = re.compile(r"\]\([^)]*\)|`[^`]*`|ADR \d+")


def test_a_sum_is_calculated_from_the_displayed_figures() -> None:
    results = work_out([Sum("third", "one ÷ 3", ""), Sum("again", "third × 3", "")], {"one": 1})
    assert shown(results["third"]) == "0.333"
    assert results["again"] == pytest.approx(0.999)


def test_a_division_by_zero_gives_an_impossible_result() -> None:
    results = work_out(
        [Sum("none", "1 ÷ left", ""), Sum("more", "max(none, 5) + 1", ""), Sum("other", "left + 2", "")],
        {"left": 0},
    )
    assert math.isnan(results["none"])
    assert math.isnan(results["more"])
    assert shown(results["more"]) == "cannot be"
    assert results["other"] == 2


@pytest.mark.parametrize(("formula", "whole"), [("2.1 + 0", 3), ("0.1 × 30", 3), ("3 + 0", 3)])
def test_machines_are_rounded_up_but_not_for_the_last_place_of_a_float(formula: str, whole: int) -> None:
    assert work_out([Sum("machines", formula, "", whole=True)], {})["machines"] == whole


@pytest.mark.parametrize("formula", ["__import__('os')", "a.b", "a ** 2", "min(1, 2)", "[1]", "1 +"])
def test_a_formula_is_arithmetic_and_nothing_else(formula: str) -> None:
    with pytest.raises(ValueError, match="formula"):
        evaluate(formula, {"a": 1.0})


def test_a_formula_over_an_unknown_name_is_an_error() -> None:
    with pytest.raises(KeyError, match="sails"):
        evaluate("sails × 2", {})


@pytest.mark.parametrize("value", [0.0412, 0.5, 3.14159, 14.26, 333.5, 16_666.67, 1_000_000, 0.0])
def test_a_figure_is_rounded_by_two_percent_at_most(value: float) -> None:
    assert as_shown(value) == pytest.approx(value, rel=0.02)


def test_a_sum_can_be_recalculated_from_the_page() -> None:
    rows = _rows(page(a_run(), AXES, TEMPLATE.read_text()))
    ways = len(scenarios())
    begun_with = {row[0]: _read(row[2]) for row in rows if len(row) == 4 and row[0].isidentifier()}
    sums = [row for row in rows if len(row) == ways + 3 and row[0].isidentifier()]
    whole = {one.name for one in SUMS if one.whole}
    for way in range(ways):
        figures = dict(begun_with)
        redone = []
        for name, formula, *results in sums:
            figure = results[way]
            if formula == "given":
                figures[name] = _read(figure)
                continue
            value = evaluate(formula, figures)
            rounded = math.ceil(value - 1e-9) if name in whole and not math.isnan(value) else value
            assert shown(as_shown(rounded)) == figure, name
            figures[name] = _read(figure)
            redone.append(name)
        assert redone == [one.name for one in SUMS]


def _rows(text: str) -> list[list[str]]:
    """The rows of all tables but their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    heads = {number for number, row in enumerate(rows, -1) if row[-1] and set(row[-1]) <= set("-:")}
    return [row for number, row in enumerate(rows) if number not in heads]


def _read(figure: str) -> float:
    return math.nan if figure == "cannot be" else float(figure.replace(",", ""))


def test_pushes_that_fill_one_gateway_cannot_be_carried_by_more_of_them() -> None:
    results = million(a_run(take=50.0)).results
    assert math.isnan(results["rooms"]["gateways"])
    assert math.isnan(results["rooms"]["money"])


def test_several_systems_carry_more_than_one_can() -> None:
    results = million(a_run(take=50.0)).results
    assert results["cells"]["gateways"] < 50
    assert results["cells"]["pushes"] == pytest.approx(results["rooms"]["pushes"] / 4, rel=0.001)


def test_with_selective_routing_a_push_reaches_one_gateway() -> None:
    results = million(a_run()).results
    assert results["users"]["copies"] == 1
    assert results["users"]["gateways"] > 200


def test_the_gateways_of_the_calculation_have_time_for_their_load() -> None:
    for name, results in million(a_run(take=10.0)).results.items():
        spared = results["gateways"] - 1
        work = results["connections"] * results["own"] / spared
        assert work <= results["left"] * 1.001, name


def test_the_replicas_of_the_calculation_have_time_for_their_load() -> None:
    for name, results in million(a_run(take=10.0)).results.items():
        spared = results["replicas"] - 1
        assert results["service"] <= spared * results["busy"] * results["spread"] * 1.001, name


def test_the_calculation_uses_at_most_one_replica_per_queue() -> None:
    worked_out = million(a_run())
    results = worked_out.results["rooms"]
    at = next(at for limit, at in worked_out.limits if limit.name == "domain")
    work = at * results["asks"] / 60 * results["store"] / 1e6
    assert work == pytest.approx(results["queues"] * results["busy"] * results["spread"], rel=0.01)


def test_the_first_limit_is_named_first() -> None:
    limits = [at for _, at in million(a_run()).limits]
    assert limits == sorted(limits)
    dear = million(a_run(take=500.0)).limits[0]
    assert dear[0].name == "users"


def test_the_text_written_by_hand_has_no_figures() -> None:
    by_hand = _LINKS.sub("", re.sub(r"\{\{[^}]*\}\}", "", TEMPLATE.read_text()))
    assert re.findall(r"\d+", by_hand) == []


def test_every_placeholder_of_the_page_has_a_value() -> None:
    text = page(a_run(), AXES, TEMPLATE.read_text())
    assert "{{" not in text
    assert "nan" not in re.findall(r"\w+", text)


def test_a_placeholder_without_a_value_is_an_error() -> None:
    with pytest.raises(Unfilled, match="sails"):
        filled("There are {{sails}}.", {"masts": "3"})


def test_a_missing_measurement_stays_missing() -> None:
    for axis in ("connections", "load", "rooms", "replicas", "services", "units"):
        with pytest.raises(Missing, match=axis):
            page(without(a_run(), axis), AXES, TEMPLATE.read_text())
