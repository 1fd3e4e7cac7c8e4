"""Metrics for Prometheus and traces on opentelemetry-sdk, cheap enough to leave on.

* Metrics are plain numbers that the hot path adds to; a collector reads them when ``/metrics`` is requested.
* A trace context runs from the gateway through AMQP to the answer, always. Spans are recorded only for the sampled
  share (``TOWPATH_TRACE_RATIO``) and only if ``TOWPATH_OTLP_ENDPOINT`` is set: an unsampled trace costs one random
  number.
* Clients and backends do not decide what is recorded (ADR 27). A client's context is linked to, or continued with the
  gateway's own decision; an event is recorded only if its trace id belongs to the share, whatever its flag; a program
  whose share is 0 records nothing.
"""

import asyncio
import itertools
from bisect import bisect_left
from collections import Counter as Sums
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from random import getrandbits, random
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
from opentelemetry import trace
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.servicekit.runtime.trace_context import TraceParent, is_version_00, read_traceparent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from opentelemetry.sdk.trace import TracerProvider

Labels = Mapping[str, str]
M = TypeVar("M")
#: Name → description, and each metric of that name with its labels.
Families = dict[str, tuple[str, list[tuple[Labels, M]]]]

log = structlog.get_logger(__name__)

_SAMPLED: Final = tuple("13579bdf")  # the last hexadecimal digit of the flags
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
    """Durations, in seconds; recorded per batch, not per message."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        #: Values up to each of ``_BUCKETS`` and above the one before it; the last are above all of them.
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.sum = 0.0

    def record(self, seconds: float) -> None:
        self.counts[bisect_left(_BUCKETS, seconds)] += 1
        self.sum += seconds

    def include(self, other: "Distribution") -> None:
        """Add the values of ``other``."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Telemetry:
    """One program's metrics and traces; created in ``app.py`` and passed down."""

    def __init__(self, service: str, settings: TelemetrySettings) -> None:
        self._metrics = _Metrics()
        self._registry = CollectorRegistry()
        self._registry.register(self._metrics)
        self._ratio = settings.trace_ratio if settings.otlp_endpoint else 0.0
        self._share = int(self._ratio * 2**56)
        self._traces = _tracer_provider(service, settings.otlp_endpoint) if settings.otlp_endpoint else None
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

    # Metrics

    def counter(self, name: str, description: str, labels: Labels | None = None) -> Counter:
        """A counter; Prometheus shows it as ``<name>_total``. Counters with the same labels are added up."""
        counter = Counter()
        self._metrics.family(self._metrics.counters, name, description).append((labels or {}, counter))
        return counter

    def gauge(
        self, name: str, description: str, read: Callable[[], float], labels: Labels | None = None
    ) -> None:
        """A gauge whose value is read when metrics are requested; of the same labels the last one counts."""
        labels = labels or {}
        gauges = self._metrics.family(self._metrics.gauges, name, description)
        gauges[:] = [(others, gauge) for others, gauge in gauges if others != labels] + [(labels, read)]

    def histogram(self, name: str, description: str, labels: Labels | None = None) -> Distribution:
        """A distribution of durations; Prometheus shows it as ``<name>_seconds``."""
        distribution = Distribution()
        name = f"{name}_seconds"
        self._metrics.family(self._metrics.histograms, name, description).append((labels or {}, distribution))
        return distribution

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self._registry)

    # Traces

    def new_trace(self) -> str:
        """The ``traceparent`` of a new trace."""
        chance = f"{getrandbits(192):048x}"  # The chance that one half is all zeros is negligible.
        return f"00-{chance[:32]}-{chance[32:]}-{'01' if self._is_in_share(chance[:32]) else '00'}"

    def trace(self, parent: str | None) -> str:
        """The ``traceparent`` to continue with after another program of the system: its own, with its decision."""
        return parent if parent is not None and is_version_00(parent) else self.new_trace()

    def event_trace(self, parent: str | None) -> str:
        """The same after an event of any program: recorded if its sender records it and its id belongs to the share.

        The ids of our own programs belong to the share exactly if they are sampled, so their traces stay whole.
        """
        if parent is not None and parent.endswith("-00") and is_version_00(parent):
            return parent  # The usual case: nothing is to be decided.
        found = read_traceparent(parent)
        if found is None:
            return self.new_trace()
        return str(found.with_sampled(found.is_sampled and self._is_in_share(found.trace_id)))

    def client_trace(self, parent: str) -> str:
        """The same after a client whose trace is continued: it may have chosen the id, so chance decides."""
        found = read_traceparent(parent)
        if found is None:
            return self.new_trace()
        return str(found.with_sampled(random() < self._ratio))  # noqa: S311  # sampling, not secrecy

    def _is_in_share(self, trace_id: str) -> bool:
        """Whether a new trace of this id is sampled, by its 7 random bytes, so that all programs decide alike.

        Source: https://www.w3.org/TR/trace-context-2/#considerations-for-trace-id-field-generation
        """
        return int(trace_id[-14:], 16) < self._share

    def span(
        self,
        name: str,
        traceparent: str | None,
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        link: str | None = None,
        **attributes: Any,
    ) -> AbstractContextManager[str | None]:
        """Record a span below ``traceparent`` if it is sampled; entering returns the context for child spans.

        Args:
            link: The ``traceparent`` of a client, which is linked if it is of another trace.
        """
        if self._tracer is None or not self._ratio or traceparent is None:
            return nullcontext(traceparent)
        if not traceparent.endswith(_SAMPLED) or (parent := read_traceparent(traceparent)) is None:
            return nullcontext(traceparent)
        linked = read_traceparent(link)
        links = [Link(_span_context(linked))] if linked and linked.trace_id != parent.trace_id else []
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(NonRecordingSpan(_span_context(parent))),
            kind=kind,
            attributes=attributes,
            links=links,
        )
        return _recorded(span)


@contextmanager
def _recorded(span: Span) -> Iterator[str]:
    with trace.use_span(span, end_on_exit=True):
        context = span.get_span_context()
        yield str(
            TraceParent(f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags))
        )


def _span_context(of: TraceParent) -> SpanContext:
    return SpanContext(
        int(of.trace_id, 16), int(of.parent_id, 16), is_remote=True, trace_flags=TraceFlags(of.flags)
    )


class _Metrics(Collector):
    """All metrics of one program, as the families that prometheus_client prints."""

    def __init__(self) -> None:
        self.counters: Families[Counter] = {}
        self.gauges: Families[Callable[[], float]] = {}
        self.histograms: Families[Distribution] = {}

    @staticmethod
    def family(families: "Families[M]", name: str, description: str) -> list[tuple[Labels, M]]:
        """The metrics of one name; the first description counts."""
        return families.setdefault(name, (description, []))[1]

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not read the gauges: what they read may not be open yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        for name, (description, counters) in self.counters.items():
            sums: Sums[tuple[tuple[str, str], ...]] = Sums()
            for labels, counter in counters:
                sums[tuple(labels.items())] += counter.value
            family = CounterMetricFamily(name, description, labels=list(counters[0][0]))
            for pairs, value in sums.items():
                family.add_metric([text for _, text in pairs], value)
            yield family
        for name, (description, gauges) in self.gauges.items():
            values = GaugeMetricFamily(name, description, labels=list(gauges[0][0]))
            for labels, read in gauges:
                try:
                    values.add_metric(list(labels.values()), read())
                except Exception:  # One gauge that cannot be read must not hide the others.
                    log.exception("gauge_failed", gauge=name)
            yield values
        for name, (description, histograms) in self.histograms.items():
            shown = HistogramMetricFamily(name, description, labels=list(histograms[0][0]))
            # Prometheus refuses a page on which two samples have the same name and labels.
            merged: dict[tuple[str, ...], Distribution] = {}
            for labels, distribution in histograms:
                merged.setdefault(tuple(labels.values()), Distribution()).include(distribution)
            for texts, distribution in merged.items():
                shown.add_metric(list(texts), _cumulated(distribution), distribution.sum)
            yield shown


def _cumulated(distribution: Distribution) -> list[tuple[str, float]]:
    """The buckets as Prometheus wants them: upper bound → number of values up to it."""
    bounds = [*map(floatToGoString, _BUCKETS), "+Inf"]
    return list(zip(bounds, itertools.accumulate(distribution.counts), strict=True))


def _tracer_provider(service: str, endpoint: str) -> "TracerProvider":
    # Imported here: the SDK and the exporter cost start-up time that a program without a collector need not pay.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"towpath-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    return provider
