"""Traces across the system: one connected trace a request, whose id is in its answer and in its error."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from towpath.testkit.collector import a_collector
from towpath.testkit.processes import Processes
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.system import System

THEIRS: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
THEIR_SPAN: Final = "00f067aa0ba902b7"
CONTEXT: Final = f"00-{THEIRS}-{THEIR_SPAN}-00"
#: Name → kind, of all spans of a message to a room of two, each on a gateway of its own.
OF_A_MESSAGE: Final = {
    "request": Span.SPAN_KIND_SERVER,
    "publish towpath.commands": Span.SPAN_KIND_PRODUCER,
    "process chat": Span.SPAN_KIND_CONSUMER,
    "transaction": Span.SPAN_KIND_INTERNAL,
    "handle chat.send": Span.SPAN_KIND_INTERNAL,
    "publish towpath.push": Span.SPAN_KIND_PRODUCER,
    "deliver towpath.push": Span.SPAN_KIND_CONSUMER,
}


async def test_a_message_and_a_refused_one_are_one_connected_trace_each(
    rabbitmq: Rabbit, processes: Processes, tmp_path: Path
) -> None:
    async with a_collector() as collector:
        system = System(rabbitmq, processes, tmp_path, otlp_endpoint=collector.url, trace_ratio=1)
        system.gateways = [system.launch_gateway(), system.launch_gateway()]
        system.chat = system.launch_service("chat")
        everything = [*system.gateways, system.chat]
        await asyncio.gather(*(program.ready() for program in everything))
        async with system.connect("ana") as ana, system.connect("ben", gateway=1) as ben:
            for one in (ana, ben):
                await one.request("chat.join", {"room": "harbour"})
            answer = await ana.request("chat.send", {"room": "harbour", "text": "Ahoy"}, traceparent=CONTEXT)
            push = await ben.next("chat.message")
            error = await ana.request("chat.send", {"room": "nowhere", "text": "Ahoy"})
        for program in everything:  # They send their remaining spans.
            await program.terminate()

    ours = answer["traceparent"].split("-")[1]
    spans = collector.trace(ours)
    assert {span.name: span.kind for span in spans} == OF_A_MESSAGE
    root = the_root_of(spans)
    assert root.name == "request"
    # The client does not decide what is recorded, and finds its request by the link.
    assert ours != THEIRS
    assert [(link.trace_id.hex(), link.span_id.hex()) for link in root.links] == [(THEIRS, THEIR_SPAN)]
    # From one gateway through the service to both gateways.
    process_of = collector.instances
    service = process_of[named("process chat", spans).span_id]
    delivering = {process_of[span.span_id] for span in spans if span.name.startswith("deliver")}
    assert len(delivering) == 2
    assert process_of[root.span_id] in delivering
    assert service not in delivering
    # A push has the trace while it is recorded: a client may go on with it.
    assert push["traceparent"].split("-")[1] == ours
    assert not any("Ahoy" in str(span) or "harbour" in str(span) for span in collector.spans)

    assert error["action"] == "error"
    refused = collector.trace(error["data"]["trace_id"])
    assert the_root_of(refused).name == "request"
    assert attributes(the_root_of(refused))["error.type"] == error["data"]["code"]
    assert "handle chat.send" in {span.name for span in refused}


def the_root_of(spans: Iterable[Span]) -> Span:
    """The one span without a parent; the parent of each other one is among ``spans``."""
    spans = list(spans)
    ids = {span.span_id for span in spans}
    [root] = [span for span in spans if not span.parent_span_id]
    assert {span.parent_span_id for span in spans} - {b""} <= ids
    return root


def named(name: str, spans: Iterable[Span]) -> Span:
    return next(span for span in spans if span.name == name)


def attributes(span: Span) -> dict[str, str]:
    return {item.key: item.value.string_value for item in span.attributes}


@pytest.mark.parametrize("flags", ["00", "01"])
async def test_a_closed_system_continues_the_trace_of_a_client(
    rabbitmq: Rabbit, processes: Processes, tmp_path: Path, flags: str
) -> None:
    async with a_collector() as collector:
        system = System(rabbitmq, processes, tmp_path, otlp_endpoint=collector.url, trace_ratio=1)
        gateway, orders = system.launch_gateway(trace_clients="continue"), system.launch_service("orders")
        system.gateways = [gateway]
        await asyncio.gather(gateway.ready(), orders.ready())
        async with system.connect("ana") as ana:
            answer = await ana.request("order.list", traceparent=f"00-{THEIRS}-{THEIR_SPAN}-{flags}")
        for program in (gateway, orders):
            await program.terminate()
    assert answer["traceparent"].split("-")[1] == THEIRS
    spans = collector.trace(THEIRS)
    request, handled = named("request", spans), named("handle order.list", spans)
    assert request.parent_span_id.hex() == THEIR_SPAN
    assert not request.links
    assert handled.trace_id == request.trace_id
