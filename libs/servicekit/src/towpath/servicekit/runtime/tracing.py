"""Traces: which are recorded, and their spans, on opentelemetry-sdk.

* A trace context runs from the gateway through AMQP to the answer, always. Spans are recorded only for the sampled
  share (``TOWPATH_TRACE_RATIO``) and only if ``TOWPATH_OTLP_ENDPOINT`` is set: an unsampled trace costs one random
  number, and a look at the last digit of its context in each place where a sampled one has a span.
* Clients and backends do not decide what is recorded (ADR 27). A client's context is linked to, or continued with the
  gateway's own decision; an event or a push is recorded only if its trace id belongs to the share, whatever its flag;
  a program whose share is 0 records nothing.
* Every span that we record has a parent that is recorded, or is the root of its trace. A trace's first span has
  exactly the ids that :meth:`Traces.new_trace` chose for it.
* What is done for many requests at once is one span: below the first sampled one of them, with links to the others
  (ADR 41).
"""

import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from os import getpid
from random import getrandbits, random
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from towpath.servicekit.runtime import conventions
from towpath.servicekit.runtime.buckets import Bucket, Rate
from towpath.servicekit.runtime.settings import TelemetrySettings
from towpath.servicekit.runtime.trace_context import TraceParent, is_version_00, read_traceparent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_SAMPLED: Final = frozenset("13579bdf")  # the last hexadecimal digit of the flags
#: The random part of a trace id: its last 7 bytes.
_RANDOM_BITS: Final = 2**56 - 1
#: So many seconds' ``traces_per_second`` may be used at once.
_BURST_SECONDS: Final = 2.0
#: New sampled traces whose first span has not begun. Each is begun within moments, or never.
_NEW_MAX: Final = 10_000
#: Members of a batch that its span links to: the limit of OpenTelemetry's SDK.
_LINKS_MAX: Final = 128


class OpenSpan:
    """A span that something else ends than what began it.

    Attributes:
        traceparent: The context for what follows.
    """

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Span) -> None:
        self._span = span
        self.traceparent = _traceparent_of(span)

    def end(self, error: str | None = None, *, is_our_fault: bool = False) -> None:
        """End it.

        Args:
            error: A word for the kind of failure, if it failed.
            is_our_fault: The failure is not the client's.
        """
        if error is not None:
            self._span.set_attribute(conventions.ERROR, error)
            # https://opentelemetry.io/docs/specs/semconv/http/http-spans/#status: a server whose client is wrong
            # has not failed.
            if is_our_fault:
                self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


class Traces:
    """The traces of one program.

    Attributes:
        records: Whether any span is recorded: there is a collector, and the share is not 0.
    """

    def __init__(self, service: str, settings: TelemetrySettings) -> None:
        self._ratio = settings.trace_ratio if settings.otlp_endpoint else 0.0
        self._share = int(self._ratio * 2**56)
        self.records = self._ratio > 0
        rate = settings.traces_per_second
        self._budget = Bucket(Rate(rate=rate, burst=max(1.0, _BURST_SECONDS * rate)), monotonic())
        self._ids = _Ids()
        self._provider = (
            _tracer_provider(service, settings.otlp_endpoint, self._ids) if settings.otlp_endpoint else None
        )
        self._tracer = self._provider.get_tracer("towpath") if self._provider else trace.NoOpTracer()
        #: In the order of their beginning; the values mean nothing.
        self._new: dict[str, None] = {}

    def close(self) -> None:
        """Send the remaining spans; takes seconds if the collector is unreachable."""
        if self._provider is not None:
            self._provider.shutdown()

    # Contexts

    def new_trace(self) -> str:
        """The ``traceparent`` of a new trace."""
        number = getrandbits(192)  # The chance that one half is all zeros is negligible.
        chance = number.to_bytes(24, "big").hex()  # Half the time of a format.
        # The same 7 bytes as in `_is_in_share`: of all requests, so not from their digits.
        if number >> 64 & _RANDOM_BITS >= self._share or not self._may_begin():
            return f"00-{chance[:32]}-{chance[32:]}-00"
        begun = f"00-{chance[:32]}-{chance[32:]}-01"
        if len(self._new) >= _NEW_MAX:
            del self._new[next(iter(self._new))]
        self._new[begun] = None
        return begun

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
        is_chosen = random() < self._ratio and self._may_begin()  # noqa: S311  # sampling, not secrecy
        return str(found.with_sampled(is_chosen))

    def is_recorded(self, traceparent: str | None) -> bool:
        """Whether spans below ``traceparent`` are recorded."""
        return self.records and traceparent is not None and traceparent[-1:] in _SAMPLED

    def recorded(self, traceparents: Iterable[str | None]) -> list[str]:
        """Those below which spans are recorded: few among thousands, so this is cheap."""
        if not self.records:
            return []
        return [one for one in traceparents if one is not None and one[-1:] in _SAMPLED]

    def belongs_to_share(self, traceparent: str) -> bool:
        """Whether a new trace of its id would be sampled, whatever its flag."""
        found = read_traceparent(traceparent)
        return found is not None and self._is_in_share(found.trace_id)

    def _may_begin(self) -> bool:
        """Take one of ``traces_per_second``."""
        return not self._budget.take(1.0, monotonic())

    def _is_in_share(self, trace_id: str) -> bool:
        """Whether a new trace of this id is sampled, by its 7 random bytes, so that all programs decide alike.

        Source: https://www.w3.org/TR/trace-context-2/#considerations-for-trace-id-field-generation
        """
        return int(trace_id[-14:], 16) < self._share

    # Spans

    def span(
        self,
        name: str,
        traceparent: str | None,
        kind: SpanKind = SpanKind.INTERNAL,
        *,
        attributes: Mapping[str, Any] | None = None,
    ) -> AbstractContextManager[str | None]:
        """Record a span of one trace, if it is sampled; entering returns the context for child spans.

        Within an open span it is below that one if that is of the same trace, and linked to it if not.
        """
        if not self.is_recorded(traceparent) or (parent := read_traceparent(traceparent)) is None:
            return nullcontext(traceparent)
        around = _open_span()
        if around is None:
            return _current(self._start(name, traceparent, parent, kind, attributes, ()))
        if f"{around.trace_id:032x}" == parent.trace_id:
            return _current(self._below(name, around, kind, attributes))
        return _current(self._start(name, traceparent, parent, kind, attributes, [Link(around)]))

    def batch(
        self,
        name: str,
        members: Sequence[str],
        kind: SpanKind,
        attributes: Mapping[str, Any] | None = None,
        *,
        since: int | None = None,
    ) -> AbstractContextManager[str | None]:
        """Record a span of several traces: below the first of ``members``, with links to the others.

        Entering returns its context.

        Args:
            members: Of the batch, those that are :meth:`recorded`. If there is none, nothing is, and the context is
                ``None``.
            since: When it began, if that was earlier, in nanoseconds since 1970.
        """
        parents = [
            (one, read) for one in dict.fromkeys(members) if (read := read_traceparent(one)) is not None
        ]
        if not parents:
            return _NOTHING
        (first, parent), *others = parents
        links = [Link(_span_context(read)) for _, read in others[:_LINKS_MAX]]
        return _current(self._start(name, first, parent, kind, attributes, links, since))

    def step(
        self, name: str, attributes: Mapping[str, Any] | None = None
    ) -> AbstractContextManager[str | None]:
        """Record a span below the one that is open in this task; nothing if none is."""
        if not self.records or (around := _open_span()) is None:
            return _NOTHING
        return _current(self._below(name, around, SpanKind.INTERNAL, attributes))

    def begin(
        self,
        name: str,
        traceparent: str,
        kind: SpanKind,
        attributes: Mapping[str, Any] | None = None,
        *,
        link: str | None = None,
    ) -> OpenSpan | None:
        """A span that its caller ends later; ``None`` if it is not recorded.

        Args:
            link: The ``traceparent`` of a client, which is linked if it is of another trace.
        """
        if not self.is_recorded(traceparent) or (parent := read_traceparent(traceparent)) is None:
            return None
        linked = read_traceparent(link)
        links = [Link(_span_context(linked))] if linked and linked.trace_id != parent.trace_id else []
        return OpenSpan(self._start(name, traceparent, parent, kind, attributes, links))

    def _start(
        self,
        name: str,
        traceparent: str | None,
        parent: TraceParent,
        kind: SpanKind,
        attributes: Mapping[str, Any] | None,
        links: Sequence[Link],
        since: int | None = None,
    ) -> Span:
        if traceparent in self._new:
            # The first of its trace: no span has the id that the context names, so this one takes it. A parent that
            # nothing has recorded would be shown as missing.
            del self._new[traceparent]
            context = Context()
            self._ids.choose(parent)
        else:
            context = trace.set_span_in_context(NonRecordingSpan(_span_context(parent)), Context())
        return self._tracer.start_span(
            name, context=context, kind=kind, attributes=attributes, links=links, start_time=since
        )

    def _below(
        self, name: str, around: SpanContext, kind: SpanKind, attributes: Mapping[str, Any] | None
    ) -> Span:
        context = trace.set_span_in_context(NonRecordingSpan(around), Context())
        return self._tracer.start_span(name, context=context, kind=kind, attributes=attributes)


_NOTHING: Final[AbstractContextManager[str | None]] = nullcontext()


@contextmanager
def _current(span: Span) -> Iterator[str]:
    # Without the exception's text, which may quote what a user wrote; the log has it, with the id of the trace.
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield _traceparent_of(span)
        except BaseException as error:
            span.set_attribute(conventions.ERROR, type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR))
            raise


def _open_span() -> SpanContext | None:
    """The span that is open around this code; not one that has ended, in a task that was begun within it."""
    span = trace.get_current_span()
    return span.get_span_context() if span.is_recording() else None


def _traceparent_of(span: Span) -> str:
    context = span.get_span_context()
    return str(TraceParent(f"{context.trace_id:032x}", f"{context.span_id:016x}", int(context.trace_flags)))


def _span_context(of: TraceParent) -> SpanContext:
    return SpanContext(
        int(of.trace_id, 16), int(of.parent_id, 16), is_remote=True, trace_flags=TraceFlags(of.flags)
    )


class _Ids:
    """An id generator of the SDK that gives a root span the ids chosen for it; all others are random.

    It is asked within ``start_span``, which does not wait, so no other span can come between.
    """

    def __init__(self) -> None:
        self._trace_id = self._span_id = 0

    def choose(self, root: TraceParent) -> None:
        """Give these ids to the span that is started next."""
        self._trace_id, self._span_id = int(root.trace_id, 16), int(root.parent_id, 16)

    def generate_trace_id(self) -> int:
        """The id of a root span's trace."""
        chosen, self._trace_id = self._trace_id, 0
        return chosen or getrandbits(128) or 1

    def generate_span_id(self) -> int:
        """The id of any span."""
        chosen, self._span_id = self._span_id, 0
        return chosen or getrandbits(64) or 1

    def is_trace_id_random(self) -> bool:
        """Whether contexts have the flag ``random``: they have the flags that :meth:`Traces.new_trace` wrote."""
        return False


def _tracer_provider(service: str, endpoint: str, ids: _Ids) -> "TracerProvider":
    # Imported here: the SDK and the exporter cost start-up time that a program without a collector need not pay.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    name = f"towpath-{service}"
    provider = TracerProvider(
        resource=Resource.create(
            {"service.name": name, "service.instance.id": f"{socket.gethostname()}:{getpid()}"}
        ),
        # A span is begun only where it is recorded. OTEL_TRACES_SAMPLER would decide once more, and tear traces.
        sampler=ALWAYS_ON,
        id_generator=ids,  # type: ignore[arg-type]  # an abstract class in the SDK, which is not imported at the start
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    return provider
