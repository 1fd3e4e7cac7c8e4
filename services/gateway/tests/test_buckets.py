"""Token buckets: how often a key may take, and how many keys are kept."""

from hypothesis import given
from hypothesis import strategies as st

from towpath.gateway.buckets import Buckets


def test_a_burst_is_taken_at_once_and_then_one_each_interval() -> None:
    buckets = Buckets(rate=2.0, burst=3)
    assert [buckets.take("ana", 10.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("ana", 10.5) == 0
    assert buckets.take("ana", 10.5) == 0.5
    assert buckets.take("ben", 10.5) == 0


def test_a_bucket_that_rests_is_full_again_and_forgotten() -> None:
    buckets = Buckets(rate=1.0, burst=2)
    for number in range(100):
        buckets.take(f"user-{number}", 0.0)
    for number in range(100):
        buckets.take("ana", 10.0 + number)
    assert len(buckets) == 1


def test_the_number_of_keys_is_bounded() -> None:
    buckets = Buckets(rate=1.0, burst=2, keys_max=10)
    for number in range(1000):
        buckets.take(f"user-{number}", 0.0)
        assert len(buckets) <= 10


@given(st.lists(st.floats(0, 5), max_size=200), st.floats(0.5, 10), st.integers(1, 10))
def test_no_more_is_taken_than_burst_and_rate_allow(pauses: list[float], rate: float, burst: int) -> None:
    buckets, now, taken = Buckets(rate=rate, burst=burst), 0.0, 0
    for pause in pauses:
        now += pause
        taken += buckets.take("ana", now) == 0
        assert taken <= burst + rate * now + 1e-6


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0.5, 10))
def test_after_the_wait_that_it_names_a_token_is_there(pauses: list[float], rate: float) -> None:
    buckets, now = Buckets(rate=rate, burst=2), 0.0
    for pause in pauses:
        now += pause
        if wait := buckets.take("ana", now):
            now += wait
            assert buckets.take("ana", now) == 0
