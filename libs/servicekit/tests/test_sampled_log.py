"""A tally counts every event and logs one line a minute."""

from typing import Any

from structlog.testing import capture_logs

from towpath.servicekit.runtime.sampled_log import SampledLog
from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.servicekit.runtime.telemetry import Telemetry


def lines_of(times: list[float]) -> tuple[list[Any], str]:
    """The lines that events at these times make, and the metrics afterwards."""
    clock = iter(times)
    telemetry = Telemetry("test", TelemetrySettings())
    tally = SampledLog("odd_thing", telemetry.counter("odd", "Odd things"), clock=lambda: next(clock))
    with capture_logs() as lines:
        for number in range(len(times)):
            tally.add(number=number)
    return [(line["count"], line["number"]) for line in lines], telemetry.exposition().decode()


def test_the_first_event_is_logged_at_once() -> None:
    assert lines_of([5.0])[0] == [(1, 0)]


def test_thousands_of_events_make_one_line_a_minute_that_counts_them() -> None:
    lines, metrics = lines_of([n / 100 for n in range(6002)])
    assert lines == [(1, 0), (6000, 6000)]
    assert "odd_total 6002.0" in metrics


def test_an_event_after_a_quiet_minute_is_logged_at_once() -> None:
    assert lines_of([0.0, 1.0, 61.0])[0] == [(1, 0), (2, 2)]
