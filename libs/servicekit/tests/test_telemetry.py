"""Telemetry: figures that Prometheus reads, and traces that arrive where they are sent."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind
from prometheus_client.parser import text_string_to_metric_families

from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.trace_context import trace_id
from towpath.testkit.collector import Collector, a_collector

TRACE: Final = f"00-{'ab' * 16}-{'cd' * 8}-01"
WELL_FORMED: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]")


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


# Trace context


async def test_the_context_of_our_own_programs_goes_on_as_it_came(telemetry: Telemetry) -> None:
    for flags in ("00", "01", "02", "03"):
        assert telemetry.trace(TRACE[:-2] + flags) == TRACE[:-2] + flags


@pytest.mark.parametrize("context", [None, "", "x", f"ff-{'ab' * 16}-{'cd' * 8}-01"])
async def test_else_a_new_one_begins(telemetry: Telemetry, context: str | None) -> None:
    for begun in (
        telemetry.trace(context),
        telemetry.event_trace(context),
        telemetry.client_trace(context or ""),
    ):
        assert WELL_FORMED.fullmatch(begun)
        assert begun != telemetry.trace(context)


@given(st.text(max_size=60) | st.from_regex(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"))
def test_a_context_is_kept_or_replaced_by_one_that_can_be_sent_on(context: str) -> None:
    telemetry = Telemetry("test", TelemetrySettings())
    for result in (telemetry.trace(context), telemetry.event_trace(context), telemetry.client_trace(context)):
        assert result.isascii()
        assert result.isprintable()
        assert trace_id(result) == result.split("-")[1]


async def test_without_a_collector_nothing_is_recorded_and_the_context_goes_on(telemetry: Telemetry) -> None:
    for context in (TRACE, None):
        with telemetry.span("handle order.submit", context) as inside:
            assert inside == context
    assert telemetry.trace(None).endswith("-00")


def sampling(ratio: float) -> Telemetry:
    return Telemetry("test", TelemetrySettings(otlp_endpoint="http://127.0.0.1:9", trace_ratio=ratio))


def share(contexts: Iterable[str]) -> float:
    flags = [int(context[-2:], 16) & 1 for context in contexts]
    return sum(flags) / len(flags)


@pytest.mark.parametrize("ratio", [0, 0.25, 1])
def test_the_share_of_traces_is_the_setting_whatever_a_client_asks_for(ratio: float) -> None:
    telemetry = sampling(ratio)
    # The ids that every program samples at any ratio, and at none: a client may choose either.
    first, last = f"{'ab' * 9}{'00' * 7}", f"{'ab' * 9}{'ff' * 7}"
    for chosen in (first, last):
        for flags in ("00", "01", "03"):
            sent = f"00-{chosen}-{'cd' * 8}-{flags}"
            assert share(telemetry.client_trace(sent) for _ in range(4_000)) == pytest.approx(ratio, abs=0.05)
    assert share(telemetry.new_trace() for _ in range(4_000)) == pytest.approx(ratio, abs=0.05)


def test_a_continued_client_keeps_its_ids_and_its_random_flag() -> None:
    for flags, wanted in (("00", "01"), ("02", "03"), ("ff", "03")):
        assert sampling(1).client_trace(TRACE[:-2] + flags) == TRACE[:-2] + wanted
    assert sampling(0).client_trace(TRACE) == f"{TRACE[:-2]}00"


@pytest.mark.parametrize("ratio", [0, 0.25, 1])
def test_of_the_traces_of_events_the_share_is_recorded_and_never_more(ratio: float) -> None:
    telemetry, everything = sampling(ratio), sampling(1)
    sent = [everything.new_trace() for _ in range(4_000)]
    assert share(map(telemetry.event_trace, sent)) == pytest.approx(ratio, abs=0.05)
    unsampled = [f"{context[:-2]}00" for context in sent]
    assert share(map(telemetry.event_trace, unsampled)) == 0


def test_a_trace_of_our_own_stays_whole_over_an_event() -> None:
    telemetry = sampling(0.25)
    begun = [telemetry.new_trace() for _ in range(1_000)]
    assert [telemetry.event_trace(context) for context in begun] == begun


# Traces


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with a_collector() as collector:
        yield collector


@asynccontextmanager
async def recording(collector: Collector, ratio: float) -> AsyncIterator[Telemetry]:
    """Telemetry that sends to ``collector``; at the end all of it was sent."""
    settings = TelemetrySettings(otlp_endpoint=collector.url, trace_ratio=ratio)
    async with asyncio.timeout(20), Telemetry.open("orders", settings) as telemetry:
        yield telemetry


async def test_a_sampled_span_reaches_the_collector_under_its_parent(collector: Collector) -> None:
    settings = TelemetrySettings(otlp_endpoint=collector.url + "/", trace_ratio=1)
    async with asyncio.timeout(20):
        async with Telemetry.open("orders", settings) as telemetry:
            begun = telemetry.trace(None)
            assert begun.endswith("-01")
            with telemetry.span("outer", begun, SpanKind.CONSUMER, msg_id="m-1") as outside:
                assert trace_id(outside) == trace_id(begun)
                with telemetry.span("inner", outside):
                    pass
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"outer", "inner"}
    assert {span.trace_id.hex() for span in spans.values()} == {trace_id(begun)}
    assert spans["outer"].parent_span_id.hex() == begun.split("-")[2]
    assert spans["inner"].parent_span_id == spans["outer"].span_id
    assert outside is not None
    assert spans["outer"].span_id.hex() == outside.split("-")[2]
    assert {item.key: item.value.string_value for item in spans["outer"].attributes} == {"msg_id": "m-1"}
    assert collector.services == {"towpath-orders"}


@pytest.mark.parametrize(("flags", "recorded"), [("00", 0), ("01", 1), ("02", 0), ("03", 1)])
async def test_a_span_is_recorded_if_the_program_that_began_its_trace_decided_so(
    collector: Collector, flags: str, recorded: int
) -> None:
    async with recording(collector, 0.01) as telemetry:
        with telemetry.span("handle", TRACE[:-2] + flags) as inside:
            assert trace_id(inside) == "ab" * 16
    assert len(collector.spans) == recorded


async def test_a_program_whose_share_is_0_records_nothing(collector: Collector) -> None:
    async with recording(collector, 0) as telemetry:
        with telemetry.span("handle", TRACE) as inside:
            assert inside == TRACE
    assert not collector.spans


async def test_the_trace_of_a_client_is_linked(collector: Collector) -> None:
    theirs = f"00-{'ef' * 16}-{'12' * 8}-01"
    async with recording(collector, 1) as telemetry:
        for link in (theirs, TRACE, "x", None):
            with telemetry.span("handle", TRACE, link=link):
                pass
    linked, *others = collector.spans
    assert linked.trace_id.hex() == "ab" * 16
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in linked.links] == [("ef" * 16, "12" * 8)]
    assert len(others) == 3
    assert not any(span.links for span in others)


async def test_a_span_of_something_that_fails_says_so(collector: Collector) -> None:
    settings = TelemetrySettings(otlp_endpoint=collector.url, trace_ratio=1)
    async with asyncio.timeout(20):
        async with Telemetry.open("orders", settings) as telemetry:
            with pytest.raises(ZeroDivisionError), telemetry.span("handle", TRACE):
                raise ZeroDivisionError
    [span] = collector.spans
    assert span.status.code == span.status.STATUS_CODE_ERROR
