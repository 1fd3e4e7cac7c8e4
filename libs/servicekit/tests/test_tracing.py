"""Traces: which are recorded, and spans that arrive where they are sent."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.trace import SpanKind

from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.runtime.trace_context import trace_id
from towpath.testkit.collector import Collector, a_collector

TRACE: Final = f"00-{'ab' * 16}-{'cd' * 8}-01"
OTHER: Final = f"00-{'ef' * 16}-{'12' * 8}-01"
UNSAMPLED: Final = f"00-{'ee' * 16}-{'34' * 8}-00"
WELL_FORMED: Final = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]")


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


def sampling(ratio: float, *, per_second: float = 0) -> Telemetry:
    settings = TelemetrySettings(
        otlp_endpoint="http://127.0.0.1:9", trace_ratio=ratio, traces_per_second=per_second
    )
    return Telemetry("test", settings)


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


def test_at_any_load_a_few_traces_a_second_are_begun_whether_a_client_names_them_or_not() -> None:
    telemetry = sampling(1, per_second=5)
    begun = [telemetry.new_trace() for _ in range(2_000)]
    begun += [telemetry.client_trace(TRACE) for _ in range(2_000)]
    assert 10 <= sum(context.endswith("-01") for context in begun) <= 20
    assert sampling(1).new_trace().endswith("-01")
    # A trace that another program began is recorded to its end.
    assert telemetry.trace(TRACE) == TRACE


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


async def test_the_first_span_of_a_trace_is_its_root_and_the_next_is_below_it(collector: Collector) -> None:
    settings = TelemetrySettings(otlp_endpoint=collector.url + "/", trace_ratio=1)
    async with asyncio.timeout(20):
        async with Telemetry.open("orders", settings) as telemetry:
            begun = telemetry.trace(None)
            assert begun.endswith("-01")
            with telemetry.span(
                "outer", begun, SpanKind.CONSUMER, attributes={"messaging.message.id": "m-1"}
            ) as outside:
                assert outside == begun
                with telemetry.span("inner", outside):
                    pass
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"outer", "inner"}
    assert {span.trace_id.hex() for span in spans.values()} == {trace_id(begun)}
    assert not spans["outer"].parent_span_id
    assert spans["outer"].span_id.hex() == begun.split("-")[2]
    assert spans["inner"].parent_span_id == spans["outer"].span_id
    attributes = {item.key: item.value.string_value for item in spans["outer"].attributes}
    assert attributes == {"messaging.message.id": "m-1"}
    assert collector.services == {"towpath-orders"}


async def test_a_span_of_another_program_is_below_the_span_that_its_context_names(
    collector: Collector,
) -> None:
    async with recording(collector, 1) as telemetry:
        with telemetry.span("handle", TRACE) as inside:
            assert inside != TRACE
    [span] = collector.spans
    assert span.parent_span_id.hex() == "cd" * 8


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
    async with recording(collector, 1) as telemetry:
        for link in (OTHER, TRACE, "x", None):
            span = telemetry.begin("request", TRACE, SpanKind.SERVER, link=link)
            assert span is not None
            span.end()
    linked, *others = collector.spans
    assert linked.trace_id.hex() == "ab" * 16
    assert links_of(linked) == [OTHER]
    assert len(others) == 3
    assert not any(span.links for span in others)


def links_of(span: Span) -> list[str]:
    """The linked contexts."""
    return [f"00-{link.trace_id.hex()}-{link.span_id.hex()}-01" for link in span.links]


async def test_a_batch_is_one_span_below_its_first_member_with_links_to_the_others(
    collector: Collector,
) -> None:
    async with recording(collector, 1) as telemetry:
        members = telemetry.recorded([None, UNSAMPLED, TRACE, OTHER, TRACE, "x", "", UNSAMPLED])
        assert members == [TRACE, OTHER, TRACE]
        with telemetry.batch("process orders", members, SpanKind.CONSUMER) as inside:
            assert trace_id(inside) == trace_id(TRACE)
            with telemetry.step("transaction"):
                for member in (TRACE, OTHER, UNSAMPLED):
                    with telemetry.span("handle", member):
                        pass
    spans = {(span.name, span.trace_id.hex()): span for span in collector.spans}
    assert len(spans) == len(collector.spans) == 4
    batch, step = spans["process orders", "ab" * 16], spans["transaction", "ab" * 16]
    assert batch.parent_span_id.hex() == "cd" * 8
    assert links_of(batch) == [OTHER]
    assert step.parent_span_id == batch.span_id
    # Each handler is in the trace of its own request; from another one the batch is a click away.
    assert spans["handle", "ab" * 16].parent_span_id == step.span_id
    other = spans["handle", "ef" * 16]
    assert other.parent_span_id.hex() == "12" * 8
    assert [link.span_id for link in other.links] == [step.span_id]


@pytest.mark.parametrize("members", [[], [None], [UNSAMPLED], ["x"], ["1"]])
async def test_a_batch_without_a_sampled_member_is_not_recorded(
    collector: Collector, members: list[str | None]
) -> None:
    async with recording(collector, 1) as telemetry:
        with telemetry.batch("process orders", telemetry.recorded(members), SpanKind.CONSUMER) as inside:
            assert inside is None
            with telemetry.step("transaction"):
                pass
        assert telemetry.begin("request", UNSAMPLED, SpanKind.SERVER) is None
    assert not collector.spans


async def test_a_task_that_was_begun_within_a_span_does_not_continue_it_after_its_end(
    collector: Collector,
) -> None:
    ended = asyncio.Event()

    async def work(telemetry: Telemetry) -> None:
        await ended.wait()
        with telemetry.step("transaction"), telemetry.span("handle", OTHER):
            pass

    async with recording(collector, 1) as telemetry:
        with telemetry.span("outer", TRACE):
            task = asyncio.create_task(work(telemetry))
            await asyncio.sleep(0)
        ended.set()
        await task
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"outer", "handle"}
    assert not spans["handle"].links


async def test_a_span_of_something_that_fails_says_so(collector: Collector) -> None:
    settings = TelemetrySettings(otlp_endpoint=collector.url, trace_ratio=1)
    async with asyncio.timeout(20):
        async with Telemetry.open("orders", settings) as telemetry:
            with pytest.raises(ZeroDivisionError), telemetry.span("handle", TRACE):
                raise ZeroDivisionError
    [span] = collector.spans
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert {item.key: item.value.string_value for item in span.attributes} == {
        "error.type": "ZeroDivisionError"
    }
    # The text of an exception may quote what a user wrote.
    assert not span.events
    assert not span.status.message
