"""An OpenTelemetry collector (OTLP over HTTP) that keeps what it is sent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """A collector; run it with :func:`a_collector`.

    Attributes:
        url: The value of ``TOWPATH_OTLP_ENDPOINT``.
        spans: All spans, in the order they came.
        services: The names of their programs.
        instances: The process of each span, by its id.
    """

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.instances: dict[bytes, str] = {}

    async def take(self, request: web.Request) -> web.Response:
        """Keep one export."""
        sent = ExportTraceServiceRequest.FromString(await request.read())
        for resource in sent.resource_spans:
            about = {item.key: item.value.string_value for item in resource.resource.attributes}
            self.services.add(about["service.name"])
            spans = [span for scope in resource.scope_spans for span in scope.spans]
            self.instances.update({span.span_id: about["service.instance.id"] for span in spans})
            self.spans += spans
        return web.Response(content_type="application/x-protobuf")

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of one trace, by their beginning."""
        found = [span for span in self.spans if span.trace_id.hex() == trace_id]
        return sorted(found, key=lambda span: span.start_time_unix_nano)


@asynccontextmanager
async def a_collector() -> AsyncIterator[Collector]:
    """A collector on a free port, from entry to exit."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield collector
    finally:
        await runner.cleanup()
