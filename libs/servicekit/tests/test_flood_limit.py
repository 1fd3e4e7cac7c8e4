"""Flood limit: no event fills the log, and none disappears without a count."""

import logging
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from towpath.servicekit.runtime.flood_limit import EVENTS_MAX, LEFT_OUT, SECONDS, FloodLimit


class Log:
    """A flood limit, with a clock that the test sets; counts what is logged and what is reported."""

    def __init__(self, burst: int = 3) -> None:
        self.now = 0.0
        self.reported: list[tuple[str, int]] = []
        self.limit = FloodLimit(burst, lambda *one: self.reported.append(one), clock=lambda: self.now)

    def line(self, event: str, **values: Any) -> bool:
        """Whether one line of structlog is logged."""
        record = logging.LogRecord(
            "towpath", logging.INFO, __file__, 1, {"event": event, **values}, None, None
        )
        return self.limit.filter(record)


def test_of_a_frequent_event_the_first_lines_are_logged_and_the_rest_is_counted() -> None:
    log = Log(burst=3)
    assert [log.line("slow_consumer", user=str(n)) for n in range(10)] == [True] * 3 + [False] * 7
    assert log.reported == []
    log.now = SECONDS
    assert log.line("serving")
    assert log.reported == [("slow_consumer", 7)]


def test_another_event_is_logged_meanwhile() -> None:
    log = Log(burst=1)
    assert log.line("one")
    assert not log.line("one")
    assert log.line("two")


def test_after_a_minute_it_is_logged_again() -> None:
    log = Log(burst=1)
    assert [log.line("one"), log.line("one")] == [True, False]
    log.now = SECONDS
    assert [log.line("one"), log.line("one")] == [True, False]
    assert log.reported == [("one", 1)]


def test_the_counts_are_logged_at_the_end_of_the_program() -> None:
    log = Log(burst=1)
    for _ in range(5):
        log.line("one")
    log.line("rare")
    log.limit.flush()
    assert log.reported == [("one", 4)]


def test_lines_of_libraries_are_limited_by_their_text_without_values() -> None:
    log = Log(burst=2)
    lines = [
        log.limit.filter(logging.LogRecord("a.library", logging.ERROR, "", 1, "failed: %s", (n,), None))
        for n in range(5)
    ]
    assert lines == [True, True, False, False, False]


def test_the_line_about_left_out_lines_is_never_left_out() -> None:
    log = Log(burst=1)
    assert all(log.line(LEFT_OUT) for _ in range(10))


def test_memory_is_bounded_whatever_is_logged() -> None:
    log = Log()
    for number in range(2 * EVENTS_MAX):
        assert log.line(f"event {number}")
    assert len(log.limit._events) == EVENTS_MAX


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 100)), max_size=200), st.integers(1, 5))
def test_each_line_is_logged_or_counted(lines: list[tuple[str, float]], burst: int) -> None:
    log = Log(burst)
    logged = 0
    for event, pause in lines:
        log.now += pause
        logged += log.line(event)
    log.limit.flush()
    assert logged + sum(count for _, count in log.reported) == len(lines)
