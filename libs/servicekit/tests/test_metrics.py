"""Metrics: figures that Prometheus reads."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from towpath.servicekit.runtime.metrics import OTHER, VALUES_MAX
from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.servicekit.runtime.telemetry import Labelled, Telemetry


def figures(telemetry: Telemetry) -> dict[tuple[str, ...], float]:
    """All samples, under their name and the values of their labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(telemetry.exposition().decode())
        for sample in family.samples
    }


# Metrics


async def test_a_counter_is_shown_from_the_start_and_counts(telemetry: Telemetry) -> None:
    received = telemetry.counter("messages_received", "Requests and events taken")
    assert figures(telemetry)["messages_received_total",] == 0
    received.add(2)
    received.add()
    assert figures(telemetry)["messages_received_total",] == 3


async def test_one_name_may_be_counted_under_several_labels(telemetry: Telemetry) -> None:
    for exchange, amount in (("commands", 2), ("push", 5)):
        telemetry.counter("messages_published", "Confirmed", {"exchange": exchange}).add(amount)
    shown = figures(telemetry)
    assert shown["messages_published_total", "commands"] == 2
    assert shown["messages_published_total", "push"] == 5


async def test_counters_with_the_same_labels_are_added_up(telemetry: Telemetry) -> None:
    for amount in (3, 4):
        telemetry.counter("messages_published", "Confirmed", {"exchange": "push"}).add(amount)
    assert figures(telemetry)["messages_published_total", "push"] == 7


async def test_a_gauge_is_read_when_asked(telemetry: Telemetry) -> None:
    connections = [1, 2, 3]
    telemetry.gauge("connection_active", "Open connections", lambda: len(connections))
    assert figures(telemetry)["connection_active",] == 3
    connections.clear()
    assert figures(telemetry)["connection_active",] == 0


async def test_a_distribution_is_shown_in_seconds_with_buckets_for_milliseconds(telemetry: Telemetry) -> None:
    confirm = telemetry.histogram("publish_confirm", "Time from publish to confirm", {"exchange": "push"})
    for seconds in (0.0004, 0.003, 0.2):
        confirm.record(seconds)
    shown = figures(telemetry)
    assert shown["publish_confirm_seconds_count", "push"] == 3
    assert shown["publish_confirm_seconds_sum", "push"] == pytest.approx(0.2034)
    assert shown["publish_confirm_seconds_bucket", "push", "0.0005"] == 1
    assert shown["publish_confirm_seconds_bucket", "push", "0.005"] == 2
    assert shown["publish_confirm_seconds_bucket", "push", "+Inf"] == 3


async def test_distributions_with_the_same_labels_are_added_up(telemetry: Telemetry) -> None:
    for seconds in (0.2, 0.3):
        telemetry.histogram("publish_confirm", "Time to confirm", {"exchange": "push"}).record(seconds)
    page = telemetry.exposition().decode()
    assert page.count("publish_confirm_seconds_count{") == 1
    assert figures(telemetry)["publish_confirm_seconds_count", "push"] == 2
    assert figures(telemetry)["publish_confirm_seconds_sum", "push"] == pytest.approx(0.5)


async def test_the_bounds_of_the_buckets_do_not_change(telemetry: Telemetry) -> None:
    telemetry.histogram("publish_confirm", "Time to confirm").record(0.2)
    bounds = re.findall(r'le="([^"]+)"', telemetry.exposition().decode())
    assert bounds == [
        "0.0005",
        "0.001",
        "0.0025",
        "0.005",
        "0.01",
        "0.025",
        "0.05",
        "0.1",
        "0.25",
        "0.5",
        "1.0",
        "2.5",
        "5.0",
        "10.0",
        "+Inf",
    ]


async def test_metrics_are_printed_as_prometheus_reads_them(telemetry: Telemetry) -> None:
    telemetry.counter("messages_published", "Confirmed messages", {"exchange": 'a "b"'}).add(5)
    telemetry.gauge("lane_depth", "Items that wait", lambda: 0.25)
    telemetry.histogram("publish_confirm", "Time to confirm", {"exchange": "push"}).record(0.2)
    lines = telemetry.exposition().decode().splitlines()
    assert [line for line in lines if "_bucket" not in line] == [
        "# HELP messages_published_total Confirmed messages",
        "# TYPE messages_published_total counter",
        'messages_published_total{exchange="a \\"b\\""} 5.0',
        "# HELP lane_depth Items that wait",
        "# TYPE lane_depth gauge",
        "lane_depth 0.25",
        "# HELP publish_confirm_seconds Time to confirm",
        "# TYPE publish_confirm_seconds histogram",
        'publish_confirm_seconds_count{exchange="push"} 1.0',
        'publish_confirm_seconds_sum{exchange="push"} 0.2',
    ]


async def test_a_gauge_that_cannot_be_read_hides_no_other_metric(telemetry: Telemetry) -> None:
    telemetry.gauge("broken", "Cannot be read", lambda: 1 / 0)
    telemetry.gauge("lane_depth", "Items that wait", lambda: 3)
    assert figures(telemetry)["lane_depth",] == 3


@given(st.lists(st.floats(min_value=0, max_value=20)))
def test_a_distribution_counts_each_value_once(values: list[float]) -> None:
    telemetry = Telemetry("test", TelemetrySettings())
    distribution = telemetry.histogram("publish_confirm", "Time to confirm")
    for value in values:
        distribution.record(value)
    shown = figures(telemetry)
    assert shown["publish_confirm_seconds_count",] == len(values)
    for bound in (0.0005, 0.1, 10.0):
        assert shown["publish_confirm_seconds_bucket", str(bound)] == sum(value <= bound for value in values)


async def test_two_programs_in_one_process_do_not_mix(telemetry: Telemetry) -> None:
    async with Telemetry.open("other", TelemetrySettings()) as other:
        telemetry.counter("messages_received", "RoundCost").add(1)
        other.counter("messages_received", "RoundCost").add(2)
        assert figures(telemetry)["messages_received_total",] == 1
        assert figures(other)["messages_received_total",] == 2


async def test_gauges_that_add_are_summed_and_others_replace_those_before(telemetry: Telemetry) -> None:
    for waiting in ([1, 2, 3], [1, 2, 3, 4]):
        telemetry.gauge("lane_waiting", "Items that wait", waiting.__len__, {"exchange": "push"}, adds=True)
        telemetry.gauge("lane_depth", "Items that wait", waiting.__len__, {"exchange": "push"})
    shown = figures(telemetry)
    assert shown["lane_waiting", "push"] == 7
    assert shown["lane_depth", "push"] == 4


async def test_a_counter_may_be_read_where_it_is_counted(telemetry: Telemetry) -> None:
    reconnects = [0]
    telemetry.counted("broker_reconnects", "Connections after the first", lambda: reconnects[0])
    assert figures(telemetry)["broker_reconnects_total",] == 0
    reconnects[0] += 2
    assert figures(telemetry)["broker_reconnects_total",] == 2


async def test_sizes_have_buckets_of_their_own_and_a_batch_may_count_for_many(telemetry: Telemetry) -> None:
    sizes = telemetry.sizes("batch_messages", "Envelopes in a message", {"exchange": "push"})
    sizes.record(1)
    sizes.record(40, times=3)
    shown = figures(telemetry)
    assert shown["batch_messages_count", "push"] == 4
    assert shown["batch_messages_sum", "push"] == 121
    assert shown["batch_messages_bucket", "push", "20.0"] == 1
    assert shown["batch_messages_bucket", "push", "50.0"] == 4


async def test_a_label_from_outside_has_a_bounded_number_of_values(telemetry: Telemetry) -> None:
    answered = Labelled(lambda domain: telemetry.counter("answered", "Answers", {"domain": domain}))
    assert figures(telemetry)["answered_total", OTHER] == 0  # from the start
    for number in range(2 * VALUES_MAX):
        for _ in range(2):
            answered[f"domain_{number}"].add(1)
    shown = figures(telemetry)
    assert len(shown) == VALUES_MAX
    assert shown["answered_total", "domain_0"] == 2
    assert shown["answered_total", OTHER] == 2 * (VALUES_MAX + 1)
