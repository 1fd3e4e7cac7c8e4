"""Bars are as long as their values say, within a panel."""

from xml.etree import ElementTree

import pytest

from bench.charts import Bar, Panel, bars

_SVG = "{http://www.w3.org/2000/svg}"


def lengths(*drawn: Bar) -> list[float]:
    """The lengths of the bars of one panel; the first rectangle is the background."""
    root = ElementTree.fromstring(bars("A title", [Panel("A panel", drawn)]))
    return [float(element.attrib["width"]) for element in root.iter(f"{_SVG}rect")][1:]


def test_lengths_are_in_proportion() -> None:
    long, short = lengths(Bar("a", 400.0, "400"), Bar("b", 100.0, "100"))
    assert long == pytest.approx(4 * short, rel=0.01)


def test_a_limit_is_cut_off_and_does_not_affect_the_other_bars() -> None:
    alone = lengths(Bar("a", 400.0, "40,000"), Bar("b", 100.0, "100"))
    long, short, limit = lengths(
        Bar("a", 400.0, "40,000"), Bar("b", 100.0, "100"), Bar("c", 40_000.0, "40,000", "limit")
    )
    assert [long, short] == alone
    assert limit == long


def test_an_unmeasured_case_has_no_bar() -> None:
    assert len(lengths(Bar("a", 400.0, "400"), Bar("b", None, "failed"))) == 1


def test_names_may_contain_characters_special_in_xml() -> None:
    root = ElementTree.fromstring(bars("<&>", [Panel("a < b", [Bar("x & y", 1.0, "1")])]))
    assert "x & y" in [element.text for element in root.iter(f"{_SVG}text")]
