"""Several rounds become one figure, and what went wrong in any of them is said."""

from bench.histogram import Histogram
from bench.measurement import Measurement
from bench.summary import Summary, summarise

from .measured import CASE, WORK, a_measurement


def summary(system: str, *measured: Measurement, main: str = "rate") -> Summary:
    return summarise(WORK, CASE, system, measured, main)


def test_a_rate_is_the_median_of_its_rounds() -> None:
    rounds = [
        a_measurement("towpath", number, rate=rate) for number, rate in enumerate((100.0, 900.0, 110.0))
    ]
    assert summary("towpath", *rounds).main == 110.0


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    slow, fast = 0, 1
    measured = [
        a_measurement("towpath", slow, rate=200.0),
        a_measurement("bare", slow, rate=100.0),
        a_measurement("towpath", fast, rate=2_000.0),
        a_measurement("bare", fast, rate=1_000.0),
        a_measurement("towpath", 2, rate=900.0),
        a_measurement("bare", 2, rate=300.0),
    ]
    assert summary("towpath", *measured).ratio == 2.0


def test_times_of_all_rounds_count_together() -> None:
    measured = [
        a_measurement("towpath", number, rate=1.0, times=Histogram.of(values))
        for number, values in enumerate(([1_000] * 99, [200_000]))
    ]
    times = summary("towpath", *measured).times
    assert times is not None
    assert times.total == 100
    assert times.quantile(0.5) < 1_100


def test_faults_are_added_up_and_named() -> None:
    measured = [a_measurement("bare", number, rate=1.0, lost=2, duplicates=number) for number in (0, 1)]
    assert summary("bare", *measured).wrong == "4 lost, 1 twice"


def test_a_failed_round_gives_its_reason_only_if_no_other_succeeded() -> None:
    failed = a_measurement("bare", 0, failure="it ended with status 1")
    assert summary("bare", failed).failure == "failed: it ended with status 1"
    assert summary("bare", failed, a_measurement("bare", 1, rate=7.0)).failure is None


def test_a_rate_from_a_busy_generator_is_a_lower_bound() -> None:
    measured = [
        a_measurement("towpath", rate=200.0, generator_share=0.5),
        a_measurement("bare", rate=100.0, generator_share=0.71),
    ]
    own, base = summary("towpath", *measured), summary("bare", *measured)
    assert (own.at_least, own.base_at_least) == (False, True)
    assert base.at_least


def test_other_figures_than_rates_are_compared_in_the_same_way() -> None:
    measured = [
        a_measurement("towpath", figures={"KiB": 18.0}),
        a_measurement("bare", figures={"KiB": 12.0}),
    ]
    assert summary("towpath", *measured, main="KiB").ratio == 1.5
