"""Metrics as plain numbers: the hot path adds to them, and a collector reads them when ``/metrics`` is requested.

Guarantees: every metric of a program is shown from its start, so that an alert on it is never without data; of a
label whose values are not known beforehand at most :data:`VALUES_MAX` values are shown, the rest as ``other``.
"""

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = Mapping[str, str]
M = TypeVar("M")
#: Name → description, and each metric of that name with its labels.
Families = dict[str, tuple[str, list[tuple[Labels, M]]]]

log = structlog.get_logger(__name__)

#: Upper bounds of the buckets of durations, in seconds, and of sizes.
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
#: Values of one label that come from outside, such as the domain of a push.
VALUES_MAX: Final = 100
#: The value of such a label for all others.
OTHER: Final = "other"


class Counter:
    """A number that only grows. ``add`` is its only cost on the hot path."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int = 1) -> None:
        self.value += amount


class _Read:
    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read

    @property
    def value(self) -> float:
        return self._read()


class Distribution:
    """Durations in seconds, or sizes; recorded per batch where that is possible.

    Args:
        bounds: Upper bounds of the buckets.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        #: Values up to each of the bounds and above the one before it; the last are above all of them.
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def record(self, value: float, times: int = 1) -> None:
        """Count ``value``, as often as ``times``."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def include(self, other: "Distribution") -> None:
        """Add the values of ``other``."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Labelled(dict[str, M]):
    """Metrics by a label whose values come from outside; a new value makes its metric.

    Past :data:`VALUES_MAX` values, all further ones share the metric of ``other``, which is there from the start.
    """

    def __init__(self, make: Callable[[str], M]) -> None:
        super().__init__({OTHER: make(OTHER)})
        self._make = make

    def __missing__(self, value: str) -> M:
        if len(self) >= VALUES_MAX:
            return self[OTHER]
        made = self[value] = self._make(value)
        return made


class Metrics:
    """The metrics of one program."""

    def __init__(self) -> None:
        self._collector = _Collector()
        self._registry = CollectorRegistry()
        self._registry.register(self._collector)

    def counted(
        self, name: str, description: str, read: Callable[[], float], labels: Labels | None = None
    ) -> None:
        """A counter that something else counts, read when metrics are requested; see :meth:`counter`."""
        self._collector.family(self._collector.counters, name, description).append(
            (labels or {}, _Read(read))
        )

    def counter(self, name: str, description: str, labels: Labels | None = None) -> Counter:
        """A counter; Prometheus shows it as ``<name>_total``. Counters with the same labels are added up."""
        counter = Counter()
        self._collector.family(self._collector.counters, name, description).append((labels or {}, counter))
        return counter

    def gauge(
        self,
        name: str,
        description: str,
        read: Callable[[], float],
        labels: Labels | None = None,
        *,
        adds: bool = False,
    ) -> None:
        """A gauge whose value is read when metrics are requested.

        Args:
            adds: Gauges with the same labels are added up; else the last one of them counts.
        """
        labels = labels or {}
        gauges = self._collector.family(self._collector.gauges, name, description)
        if not adds:
            gauges[:] = [(others, gauge) for others, gauge in gauges if others != labels]
        gauges.append((labels, read))

    def histogram(self, name: str, description: str, labels: Labels | None = None) -> Distribution:
        """A distribution of durations; Prometheus shows it as ``<name>_seconds``."""
        return self._distribution(f"{name}_seconds", description, labels, SECONDS)

    def sizes(self, name: str, description: str, labels: Labels | None = None) -> Distribution:
        """A distribution of sizes; Prometheus shows it under its name."""
        return self._distribution(name, description, labels, SIZES)

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self._registry)

    def _distribution(
        self, name: str, description: str, labels: Labels | None, bounds: tuple[float, ...]
    ) -> Distribution:
        distribution = Distribution(bounds)
        histograms = self._collector.family(self._collector.histograms, name, description)
        histograms.append((labels or {}, distribution))
        return distribution


class _Collector(Collector):
    """All metrics of one program, as the families that prometheus_client prints."""

    def __init__(self) -> None:
        self.counters: Families[Counter | _Read] = {}
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
            sums: dict[tuple[tuple[str, str], ...], float] = {}
            for labels, counter in counters:
                pairs = tuple(labels.items())
                sums[pairs] = sums.get(pairs, 0) + counter.value
            family = CounterMetricFamily(name, description, labels=list(counters[0][0]))
            for pairs, value in sums.items():
                family.add_metric([text for _, text in pairs], value)
            yield family
        for name, (description, gauges) in self.gauges.items():
            values = GaugeMetricFamily(name, description, labels=list(gauges[0][0]))
            totals: dict[tuple[str, ...], float] = {}
            for labels, read in gauges:
                texts = tuple(labels.values())
                try:
                    totals[texts] = totals.get(texts, 0) + read()
                except Exception:  # One gauge that cannot be read must not hide the others.
                    log.exception("gauge_failed", gauge=name)
            for texts, total in totals.items():
                values.add_metric(list(texts), total)
            yield values
        for name, (description, histograms) in self.histograms.items():
            shown = HistogramMetricFamily(name, description, labels=list(histograms[0][0]))
            # Prometheus refuses a page on which two samples have the same name and labels.
            merged: dict[tuple[str, ...], Distribution] = {}
            for labels, distribution in histograms:
                merged.setdefault(tuple(labels.values()), Distribution(distribution.bounds)).include(
                    distribution
                )
            for texts, distribution in merged.items():
                shown.add_metric(list(texts), _cumulated(distribution), distribution.sum)
            yield shown


def _cumulated(distribution: Distribution) -> list[tuple[str, float]]:
    """The buckets as Prometheus wants them: upper bound → number of values up to it."""
    bounds = [*map(floatToGoString, distribution.bounds), "+Inf"]
    return list(zip(bounds, itertools.accumulate(distribution.counts), strict=True))
