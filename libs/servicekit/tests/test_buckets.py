"""Token buckets give what they promise, whatever is asked in whatever order."""

from hypothesis import given
from hypothesis import strategies as st

from towpath.servicekit.runtime.buckets import Bucket, Buckets, Rate

STEPS = st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 20)), max_size=60)


@given(st.floats(0.1, 50), st.floats(1, 100), STEPS)
def test_a_bucket_never_gives_more_than_burst_and_rate(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    bucket, now, given_tokens, largest = Bucket(Rate(rate, burst), 0.0), 0.0, 0.0, 0.0
    for pause, cost in steps:
        now += pause
        if not bucket.take(cost, now):
            given_tokens += cost
            largest = max(largest, cost)
    # One message that is larger than the bucket is given once the bucket is full, and is paid for later.
    assert given_tokens <= burst + rate * now + max(0.0, largest - burst) + 1e-6


@given(st.floats(0.1, 50), st.floats(1, 100), st.floats(0.1, 100))
def test_after_the_wait_that_a_refusal_names_the_same_is_given(
    rate: float, burst: float, cost: float
) -> None:
    bucket = Bucket(Rate(rate, burst), 0.0)
    while not (wait := bucket.take(cost, 0.0)):
        pass
    assert wait > 0
    assert bucket.take(cost, wait + 1e-6) == 0


def test_a_refusal_takes_nothing() -> None:
    bucket = Bucket(Rate(1, 2), 0.0)
    assert bucket.take(1, 0.0) == 0
    assert bucket.take(2, 0.0) > 0
    assert bucket.take(1, 0.0) == 0


@given(st.lists(st.floats(0.1, 50), max_size=20))
def test_spent_tokens_are_owed_up_to_a_full_bucket(costs: list[float]) -> None:
    bucket = Bucket(Rate(1, 10), 0.0)
    for cost in costs:
        bucket.spend(cost, 0.0)
    wait = bucket.take(1.0, 0.0)
    assert wait == 0 if sum(costs) <= 9 else wait <= 11 + 1e-6


@given(st.lists(st.tuples(st.floats(0, 0.2), st.floats(0.1, 50)), max_size=40), st.floats(0, 20))
def test_a_smaller_debt_may_be_named_and_never_lessens_a_larger_one(
    costs: list[tuple[float, float]], debt: float
) -> None:
    bucket, now = Bucket(Rate(1, 10), 0.0), 0.0
    bucket.spend(15, now)  # 5 are owed
    for pause, cost in costs:
        before = bucket.take(10.0, now)
        bucket.spend(cost, now, debt=debt)
        assert bucket.take(10.0, now) >= before
        assert bucket.take(10.0, now) <= max(before, 10 + debt) + 1e-6
        now += pause


def test_a_bucket_that_is_held_stays_the_same_one() -> None:
    buckets: Buckets[str] = Buckets(Rate(1, 1), keep=1)
    held = buckets.hold("ana", 0.0)
    for number in range(100):
        buckets.of(f"user-{number}", 10.0 * number)
    assert buckets.of("ana", 1000.0) is held
    held.let_go()
    for number in range(100):
        buckets.of(f"user-{number}", 2000.0 + 10.0 * number)
    assert buckets.of("ana", 4000.0) is not held


def test_an_empty_rate_means_no_limit() -> None:
    bucket = Bucket(Rate(0, 1), 0.0)
    assert not any(bucket.take(1000, 0.0) for _ in range(100))


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=300))
def test_buckets_that_are_full_again_are_forgotten(keys: list[int]) -> None:
    buckets: Buckets[int] = Buckets(Rate(1, 1), keep=1)
    for place, key in enumerate(keys):
        now = 10.0 * place  # each bucket is full by then
        buckets.of(key, now).take(1, now)
        assert len(buckets) <= 2


def test_a_bucket_that_is_not_full_is_kept() -> None:
    buckets: Buckets[str] = Buckets(Rate(0.001, 1), keep=1)
    buckets.of("ana", 0.0).take(1, 0.0)
    for number in range(100):
        buckets.of(f"user-{number}", 1.0)
    assert buckets.of("ana", 1.0).take(1, 1.0) > 0
