"""Metrics and traces on opentelemetry-sdk, cheap enough to leave on.

* Metrics are plain integers that the hot path adds to; OpenTelemetry reads them when ``/metrics`` is requested.
* A trace context runs from the client's envelope through AMQP to the answer, always. Spans are recorded only
  for the sampled share (``TOWPATH_TRACE_RATIO``) and only if ``TOWPATH_OTLP_ENDPOINT`` is set: an unsampled trace
  costs two random numbers.

Context format: https://www.w3.org/TR/trace-context/
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from random import getrandbits, random
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Histogram, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, generate_latest

from towpath.servicekit.runtime.settings import TelemetrySettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.sdk.trace import TracerProvider

Labels = Mapping[str, str]

_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED: Final = tuple("13579bdf")  # the last hexadecimal digit of the flags
_PROPAGATOR: Final = TraceContextTextMapPropagator()
#: Number of buffered values; recording them takes OpenTelemetry half a millisecond.
_RECORDED_AT_ONCE: Final = 64
#: Seconds.
_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Counter:
    """A number that only grows. ``add`` is its only cost on the hot path."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int = 1) -> None:
        self.value += amount


class Distribution:
    """Durations, in seconds; recorded per batch, not per message.

    Values are passed to OpenTelemetry in bulk, which costs a third of passing them one by one.
    """

    __slots__ = ("_buffered", "_histogram", "_labels")

    def __init__(self, histogram: Histogram, labels: Labels) -> None:
        self._histogram = histogram
        self._labels = dict(labels)
        self._buffered: list[float] = []

    def record(self, seconds: float) -> None:
        self._buffered.append(seconds)
        if len(self._buffered) >= _RECORDED_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Pass the buffered values to OpenTelemetry."""
        kept, self._buffered = self._buffered, []
        for seconds in kept:
            self._histogram.record(seconds, self._labels)


class Telemetry:
    """One program's metrics and traces; created in ``app.py`` and passed down."""

    def __init__(self, service: str, settings: TelemetrySettings) -> None:
        resource = Resource.create({"service.name": f"towpath-{service}"})
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)
        self._metrics = MeterProvider(metric_readers=[reader], resource=resource)
        self._meter = self._metrics.get_meter("towpath")
        self._counters: dict[str, list[tuple[Labels, Counter]]] = {}
        self._histograms: dict[str, Histogram] = {}
        self._distributions: list[Distribution] = []
        self._ratio = settings.trace_ratio if settings.otlp_endpoint else 0.0
        self._traces = _tracer_provider(settings.otlp_endpoint, resource) if settings.otlp_endpoint else None
        self._tracer = self._traces.get_tracer("towpath") if self._traces else None

    @classmethod
    @asynccontextmanager
    async def open(cls, service: str, settings: TelemetrySettings) -> "AsyncIterator[Telemetry]":
        """Telemetry; flushed on exit."""
        telemetry = cls(service, settings)
        try:
            yield telemetry
        finally:
            if telemetry._traces is not None:
                # It sends the remaining spans, which takes seconds if the collector is unreachable.
                await asyncio.to_thread(telemetry._traces.shutdown)
            telemetry._metrics.shutdown()

    # Metrics

    def counter(self, name: str, description: str, labels: Labels | None = None) -> Counter:
        """A counter; Prometheus shows it as ``<name>_total``."""
        counter = Counter()
        if name not in self._counters:
            self._counters[name] = []
            self._meter.create_observable_counter(name, [self._observe(name)], description=description)
        self._counters[name].append((labels or {}, counter))
        return counter

    def gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        """A gauge whose value is read when metrics are requested."""

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(read())]

        self._meter.create_observable_gauge(name, [observe], description=description)

    def histogram(self, name: str, description: str, labels: Labels | None = None) -> Distribution:
        """A distribution of durations; Prometheus shows it as ``<name>_seconds``."""
        if name not in self._histograms:
            self._histograms[name] = self._meter.create_histogram(
                name, unit="s", description=description, explicit_bucket_boundaries_advisory=_BUCKETS
            )
        distribution = Distribution(self._histograms[name], labels or {})
        self._distributions.append(distribution)
        return distribution

    def _observe(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return [Observation(counter.value, dict(labels)) for labels, counter in self._counters[name]]

        return observe

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format."""
        for distribution in self._distributions:
            distribution.flush()
        return generate_latest(self._registry)

    # Traces

    def trace(self, parent: str | None) -> str:
        """The ``traceparent`` to continue with: the sender's if it is well formed, else a new one."""
        if parent is not None and _TRACEPARENT.fullmatch(parent):
            return parent
        sampled = self._ratio > 0 and random() < self._ratio  # noqa: S311  # sampling, not secrecy
        chance = f"{getrandbits(192):048x}"  # The chance that one half is all zeros is negligible.
        return f"00-{chance[:32]}-{chance[32:]}-{'01' if sampled else '00'}"

    def span(
        self, name: str, traceparent: str | None, kind: SpanKind = SpanKind.INTERNAL, **attributes: Any
    ) -> AbstractContextManager[str | None]:
        """Record a span below ``traceparent`` if it is sampled; entering returns the context for child spans."""
        if self._tracer is None or traceparent is None or not traceparent.endswith(_SAMPLED):
            return nullcontext(traceparent)
        return self._recorded(self._tracer, name, traceparent, kind, attributes)

    @contextmanager
    def _recorded(
        self, tracer: Tracer, name: str, traceparent: str, kind: SpanKind, attributes: Mapping[str, Any]
    ) -> Iterator[str | None]:
        context = _PROPAGATOR.extract({"traceparent": traceparent})
        span: Span = tracer.start_span(name, context=context, kind=kind, attributes=attributes)
        with trace.use_span(span, end_on_exit=True):
            carrier: dict[str, str] = {}
            _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
            yield carrier.get("traceparent", traceparent)


def trace_id(traceparent: str | None) -> str | None:
    """The trace id in a ``traceparent``, for logs and ``error.data.trace_id``."""
    match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
    return match.group(1) if match else None


def _tracer_provider(endpoint: str, resource: Resource) -> "TracerProvider":
    # Imported here: the exporter costs 50 ms of start-up that a program without it need not pay.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    return provider
