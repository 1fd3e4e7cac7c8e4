"""A histogram of times: fixed memory, cheap to fill, and what several runs counted can be added up exactly.

Values are whole microseconds. Up to 127 they are kept as they are; above, to within 1 in 128 (0.8 %).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

_EXACT = 128  # a power of two; above, a bucket is 1/64 of its values wide at most
_HALF = _EXACT // 2
_BITS = _EXACT.bit_length() - 1


class Histogram:
    """Counts of values.

    Attributes:
        counts: Bucket → how many; see :func:`value_of`.
    """

    __slots__ = ("counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: dict[int, int] = dict(counts or {})

    def add(self, value: int) -> None:
        """Count one value in microseconds; below zero counts as zero."""
        if value >= _EXACT:
            shift = value.bit_length() - _BITS
            place = _HALF * shift + (value >> shift)
        else:
            place = max(value, 0)
        counts = self.counts
        counts[place] = counts.get(place, 0) + 1

    @classmethod
    def of(cls, values: Iterable[int]) -> Self:
        """Of these values."""
        histogram = cls()
        for value in values:
            histogram.add(value)
        return histogram

    @classmethod
    def merged(cls, histograms: Iterable["Histogram"]) -> Self:
        """Everything that several have counted."""
        merged = cls()
        for histogram in histograms:
            for place, count in histogram.counts.items():
                merged.counts[place] = merged.counts.get(place, 0) + count
        return merged

    @property
    def total(self) -> int:
        """How many values."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float:
        """The smallest value that ``share`` of all (0–1) do not exceed; 0 when there are none."""
        wanted, seen = share * self.total, 0
        for place in sorted(self.counts):
            seen += self.counts[place]
            if seen >= wanted:
                return value_of(place)
        return 0.0

    def to_json(self) -> list[int]:
        """For :meth:`from_json`: the first bucket that holds something, and what it and those after it hold."""
        if not self.counts:
            return []
        first, last = min(self.counts), max(self.counts)
        return [first, *(self.counts.get(place, 0) for place in range(first, last + 1))]

    @classmethod
    def from_json(cls, values: Sequence[int]) -> Self:
        """From the value of :meth:`to_json`."""
        first, *counts = values or [0]
        return cls({first + place: count for place, count in enumerate(counts) if count})


def value_of(place: int) -> float:
    """The middle of a bucket."""
    if place < _EXACT:
        return float(place)
    shift = place // _HALF - 1
    low = (place - _HALF * shift) << shift
    return low + ((1 << shift) - 1) / 2
