"""Times are counted exactly where they are short, and to within one in a hundred where they are long."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.histogram import Histogram

VALUES = st.lists(st.integers(min_value=0, max_value=10**9), min_size=1, max_size=200)


@given(VALUES, st.floats(min_value=0.01, max_value=1.0))
@settings(deadline=None)
def test_a_quantile_is_the_value_below_which_that_share_lies(values: list[int], share: float) -> None:
    rank = next(place for place in range(1, len(values) + 1) if place >= share * len(values))
    exact = sorted(values)[rank - 1]
    assert Histogram.of(values).quantile(share) == pytest.approx(exact, rel=0.01, abs=0.5)


@given(VALUES, VALUES)
@settings(deadline=None)
def test_merged_histograms_equal_one_with_all_values(some: list[int], more: list[int]) -> None:
    merged = Histogram.merged([Histogram.of(some), Histogram.of(more)])
    assert merged.counts == Histogram.of(some + more).counts


@given(VALUES)
@settings(deadline=None)
def test_a_histogram_survives_json(values: list[int]) -> None:
    histogram = Histogram.of(values)
    assert Histogram.from_json(json.loads(json.dumps(histogram.to_json()))).counts == histogram.counts


def test_a_clock_that_was_set_back_counts_as_zero_time() -> None:
    assert Histogram.of([-5]).quantile(1.0) == 0


def test_every_quantile_of_an_empty_histogram_is_zero() -> None:
    assert Histogram().quantile(0.5) == 0
