"""Request spans: one a sampled request, from its frame to its answer, and never more than a bound."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from towpath.gateway.forwarding import request_spans
from towpath.protocol.envelope import make
from towpath.testkit.collector import Collector, a_collector
from towpath.testkit.gateway import Backend, RunGateway, a_backend


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with a_collector() as collector:
        yield collector


def requests(collector: Collector) -> list[Span]:
    return [span for span in collector.spans if span.name == "request"]


def attributes(span: Span) -> dict[str, str]:
    return {item.key: item.value.string_value for item in span.attributes}


async def refuse(backend: Backend, code: str) -> None:
    """Answer the next command with an error."""
    command, _ = await backend.command()
    error = make("error", {"code": code}, correlation_id=command["envelope"]["msg_id"])
    await backend.direct(command["session"], envelope=error.model_dump(exclude_none=True))


@pytest.mark.parametrize(
    ("code", "failed"), [("not_found", False), ("internal", True), ("made up", True), (None, False)]
)
async def test_the_span_of_a_request_ends_with_its_answer_and_has_its_error(
    run_gateway: RunGateway, collector: Collector, code: str | None, failed: bool
) -> None:
    async with (
        run_gateway(otlp_endpoint=collector.url, trace_ratio=1) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect() as ana,
    ):
        asked = asyncio.create_task(ana.request("echo.say", {}))
        await (backend.answer() if code is None else refuse(backend, code))
        await asked
    [span] = requests(collector)
    assert not span.parent_span_id
    assert attributes(span)["towpath.action"] == "echo.say"
    wanted = {None: None, "made up": "internal"}.get(code, code)
    assert attributes(span).get("error.type") == wanted
    assert (span.status.code == span.status.STATUS_CODE_ERROR) is failed


async def test_a_request_without_an_answer_ends_as_unanswered_when_the_gateway_stops(
    run_gateway: RunGateway, collector: Collector
) -> None:
    async with (
        run_gateway(otlp_endpoint=collector.url, trace_ratio=1) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect() as ana,
    ):
        await ana.send("echo.say", {})
        await backend.command()
    assert [attributes(span)["error.type"] for span in requests(collector)] == ["unanswered"]


async def test_open_spans_are_bounded(
    run_gateway: RunGateway, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_spans, "_OPEN_MAX", 3)
    async with (
        run_gateway(otlp_endpoint=collector.url, trace_ratio=1) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect() as ana,
    ):
        sent = [await ana.send("echo.say", {}) for _ in range(5)]
        held: list[dict[str, Any]] = []
        while len(held) < 5:
            held += await backend.commands()
        for command in held:
            answer = make("echo.say.ok", {}, correlation_id=command["envelope"]["msg_id"])
            await backend.direct(command["session"], envelope=answer.model_dump(exclude_none=True))
        for msg_id in sent:
            await ana.answer(msg_id)
    ends = [attributes(span).get("error.type") for span in requests(collector)]
    assert sorted(map(str, ends)) == ["None", "None", "None", "unanswered", "unanswered"]


@pytest.mark.parametrize(
    ("trace_id", "recorded"), [(f"{'ab' * 9}{'00' * 7}", 1), (f"{'ab' * 9}{'ff' * 7}", 0)]
)
async def test_a_push_is_recorded_only_if_its_id_belongs_to_the_share(
    run_gateway: RunGateway, collector: Collector, trace_id: str, recorded: int
) -> None:
    """Any backend with the right may publish a push with any flag."""
    push = make("echo.heard", {}, traceparent=f"00-{trace_id}-{'cd' * 8}-01")
    async with (
        run_gateway(otlp_endpoint=collector.url, trace_ratio=0.01) as gateway,
        a_backend(gateway.hub) as backend,
        gateway.connect() as ana,
    ):
        await backend.push("user.ana", push.model_dump(exclude_none=True))
        await ana.next("echo.heard")
    assert [span.name for span in collector.trace(trace_id)] == ["deliver towpath.push"] * recorded
