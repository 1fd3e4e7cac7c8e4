"""Traces across the system: a client's is linked to the spans of its request, and continued only on request."""

from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from towpath.testkit.collector import Collector, a_collector
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

THEIRS: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
THEIR_SPAN: Final = "00f067aa0ba902b7"


@pytest.mark.parametrize("flags", ["00", "01"])
async def test_a_span_of_a_request_is_of_the_servers_trace_and_links_to_the_clients(
    rabbitmq: Rabbit, processes: Processes, tmp_path: Path, flags: str
) -> None:
    async with a_collector() as collector:
        answer, span = await _listed(rabbitmq, processes, tmp_path, collector, flags)
    assert span.trace_id.hex() == answer["traceparent"].split("-")[1] != THEIRS
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in span.links] == [(THEIRS, THEIR_SPAN)]


async def test_a_closed_system_continues_the_trace_of_a_client(
    rabbitmq: Rabbit, processes: Processes, tmp_path: Path
) -> None:
    async with a_collector() as collector:
        answer, span = await _listed(rabbitmq, processes, tmp_path, collector, "00", trace_clients="continue")
    assert span.trace_id.hex() == answer["traceparent"].split("-")[1] == THEIRS
    assert span.parent_span_id.hex() == THEIR_SPAN
    assert not span.links


async def _listed(
    rabbitmq: Rabbit,
    processes: Processes,
    folder: Path,
    collector: Collector,
    flags: str,
    **settings: Any,
) -> tuple[dict[str, Any], Span]:
    """The answer to a request with a client's context, where all traces are recorded, and its span."""
    system = System(rabbitmq, processes, folder, otlp_endpoint=collector.url, trace_ratio=1)
    gateway, system.orders = system.launch_gateway(**settings), system.launch_service("orders")
    system.gateways = [gateway]
    for program in (gateway, system.orders):
        await program.ready()
    async with system.connect("ana") as ana:
        answer = await ana.request("order.list", traceparent=f"00-{THEIRS}-{THEIR_SPAN}-{flags}")
    await system.orders.terminate()  # it sends the remaining spans
    [span] = [span for span in collector.spans if span.name == "handle order.list"]
    return answer, span
