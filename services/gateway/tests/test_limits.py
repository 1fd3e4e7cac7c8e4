"""Limits: a request in flight counts once for its connection and once for its user, until it ends."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.gateway.sessions.allowance import Allowance
from towpath.gateway.sessions.limits import Limits
from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.testkit.tokens import SECRET

STEP = st.tuples(
    st.sampled_from(["begin", "end", "wait"]),
    st.integers(0, 1),
    st.integers(0, 12),
    st.sampled_from([1.0, 3.0, 20.0]),
)


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def some_limits(clock: Clock, **settings: Any) -> Limits:
    chosen = GatewaySettings(auth_secret=SECRET, **settings)
    limits = Limits(chosen, Telemetry("test", chosen))
    limits.now = clock
    return limits


@given(st.lists(STEP, max_size=80))
async def test_in_flight_stays_within_the_limits_and_ends_at_nothing(
    steps: list[tuple[str, int, int, float]],
) -> None:
    clock = Clock()
    limits = some_limits(clock, inflight_per_connection=10, inflight_per_user=15, inflight_patience=5.0)
    tabs = [limits.open("ana", "127.0.0.1") for _ in range(2)]
    for what, tab, number, weight in steps:
        if what == "begin":
            tabs[tab].begin(f"m-{number}", weight)
        elif what == "end":
            tabs[tab].end(f"m-{number}")
        else:
            clock.time += weight
        for allowance in tabs:
            assert allowance.used <= max(10.0, 20.0)
        assert sum(allowance.used for allowance in tabs) <= max(15.0, 20.0)
    for allowance in tabs:
        for number in range(13):
            allowance.end(f"m-{number}")
    assert [allowance.used for allowance in tabs] == [0, 0]
    assert tabs[0].begin("all of it", 10.0) is None
    assert tabs[1].begin("the rest", 5.0) is None


async def test_a_request_that_weighs_more_than_the_limit_is_allowed_alone() -> None:
    allowance = some_limits(Clock(), inflight_per_connection=10).open("ana", "")
    assert allowance.begin("m-1", 50.0) is None
    assert allowance.begin("m-2", 1.0) == "connection"
    allowance.end("m-1")
    assert allowance.begin("m-2", 1.0) is None


async def test_a_user_gets_no_more_by_many_connections() -> None:
    limits = some_limits(Clock(), inflight_per_connection=10, inflight_per_user=12)
    tabs = [limits.open("ana", "") for _ in range(4)]
    begun = sum(tab.begin(f"m-{n}", 1.0) is None for tab in tabs for n in range(10))
    assert begun == 12
    assert limits.open("ben", "").begin("m", 1.0) is None


async def test_a_request_without_an_answer_stops_counting_after_a_while() -> None:
    clock = Clock()
    allowance = some_limits(clock, inflight_per_connection=1, inflight_patience=30.0).open("ana", "")
    assert allowance.begin("m-1", 1.0) is None
    clock.time = 29.0
    assert allowance.begin("m-2", 1.0) == "connection"
    clock.time = 30.0
    assert allowance.begin("m-2", 1.0) is None


async def test_unanswered_requests_of_one_connection_stop_counting_for_another() -> None:
    clock = Clock()
    limits = some_limits(clock, inflight_per_user=5, inflight_paced=2, inflight_patience=30.0)
    one, other = limits.open("ana", ""), limits.open("ana", "")
    for number in range(5):
        assert one.begin(f"m-{number}", 1.0) is None
    assert other.begin("m", 1.0) == "user"
    assert other.is_ahead()
    clock.time = 30.0
    assert not other.is_ahead()
    assert other.begin("m", 1.0) is None


async def test_unanswered_requests_of_a_lost_connection_stop_counting() -> None:
    clock = Clock()
    limits = some_limits(clock, inflight_paced=2)
    lost, stays = limits.open("ana", ""), limits.open("ana", "")
    for number in range(5):
        assert lost.begin(f"m-{number}", 1.0) is None
    lost.close()
    assert stays.is_ahead()
    clock.time = 5.0
    assert not stays.is_ahead()


async def test_a_user_who_reconnects_does_not_get_a_fresh_window() -> None:
    clock = Clock()
    limits = some_limits(clock, inflight_per_user=5)
    first = limits.open("ana", "")
    for number in range(5):
        assert first.begin(f"m-{number}", 1.0) is None
    first.close()
    second: Allowance = limits.open("ana", "")
    assert second.begin("m", 1.0) == "user"
    clock.time = 5.0
    assert second.begin("m", 1.0) is None


async def test_one_who_continues_after_refusals_of_a_service_is_refused_by_the_gateway() -> None:
    clock = Clock()
    limits = some_limits(clock)
    allowance, other = limits.open("ana", ""), limits.open("ben", "")
    reached = 0
    for number in range(10_000):  # 10 s, a request each millisecond, and the service refuses all of them
        clock.time = number / 1000
        if allowance.charge(1.0) == 0:
            allowance.begin(f"m-{number}", 1.0, "chat")
            allowance.answer(f"m-{number}", error="rate_limited")
            reached += 1
    # 2,000 tokens at once and 200 a second; each attempt and its refusal cost 21.
    assert reached <= (2_000 + 10 * 200) / 21 + 1
    assert other.charge(1.0) == 0


@pytest.mark.parametrize("error", ["forbidden", "busy", "not_found", None])
async def test_other_answers_of_a_service_cost_nothing(error: str | None) -> None:
    allowance = some_limits(Clock(), rate_per_user=1.0, burst_per_user=10.0).open("ana", "")
    for number in range(10):
        assert allowance.charge(1.0) == 0
        allowance.begin(f"m-{number}", 1.0)
        allowance.answer(f"m-{number}", error=error)


async def test_a_user_whom_a_service_refused_is_served_again_after_a_second() -> None:
    clock = Clock()
    limits = some_limits(clock)
    allowance = limits.open("ana", "")
    for number in range(250):  # sent before the first refusal arrived
        assert allowance.charge(1.0) == 0
        allowance.begin(f"m-{number}", 1.0)
    for number in range(250):
        allowance.answer(f"m-{number}", error="rate_limited")
        allowance.answer(f"m-{number}", error="rate_limited")  # A repetition costs nothing.
    assert 1 < allowance.charge(1.0) <= 1.01
    clock.time = 1.01
    assert allowance.charge(1.0) == 0


async def test_a_user_gets_no_more_tokens_by_reconnecting() -> None:
    limits = some_limits(Clock(), rate_per_user=1.0, burst_per_user=3.0)
    taken = 0
    for _ in range(10):
        allowance = limits.open("ana", "")
        taken += allowance.charge(1.0) == 0
        allowance.close()
    assert taken == 3
    assert limits.open("ben", "").charge(1.0) == 0
