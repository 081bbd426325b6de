"""Latencies as HDR histograms: they have a bounded size and can be added without loss."""

import binascii
import math
import zlib
from collections.abc import Iterable, Iterator

from hdrh.codec import HdrCookieException, HdrHistogramSettingsException, HdrLengthException
from hdrh.histogram import HdrHistogram

LONGEST_S = 600.0
"""Longer durations are recorded as this one; no request of a load test waits for ten minutes."""
FINE = 3
"""Significant digits: values are exact to 0.1 %."""
COARSE = 2
"""Exact to 1 %, in a seventh of the memory: for the many small histograms of a timeline."""

_US = 1_000_000
_UNREADABLE = (
    ValueError,
    TypeError,
    IndexError,
    binascii.Error,
    zlib.error,
    HdrCookieException,
    HdrLengthException,
    HdrHistogramSettingsException,
)


class Histogram:
    """Durations, counted in microseconds."""

    def __init__(self, digits: int = FINE) -> None:
        self._hdr = HdrHistogram(1, int(LONGEST_S * _US), digits)

    @property
    def count(self) -> int:
        return int(self._hdr.get_total_count())

    @property
    def mean_ms(self) -> float | None:
        total_ms = sum(upto_ms * count for upto_ms, count in self.buckets())
        return total_ms / self.count if self.count else None

    @property
    def max_ms(self) -> float | None:
        return float(self._hdr.get_max_value()) / 1000 if self.count else None

    def record_s(self, seconds: float) -> None:
        self._hdr.record_value(int(min(max(seconds, 0.0), LONGEST_S) * _US))

    def percentile_ms(self, percentile: float) -> float | None:
        """Return the smallest value that this percentage did not exceed; None where empty."""
        return self.percentiles_ms([percentile])[percentile] if self.count else None

    def percentiles_ms(self, percentiles: Iterable[float]) -> dict[float, float]:
        """Return several percentiles in one pass; an empty dict where empty."""
        wanted = sorted(set(percentiles), reverse=True)
        found: dict[float, float] = {}
        seen = 0
        for upto_ms, count in self.buckets():
            seen += count
            while wanted and seen >= self._rank(wanted[-1]):
                found[wanted.pop()] = upto_ms
        return found

    def _rank(self, percentile: float) -> int:
        """Return the percentile's position among the sorted values, from 1 (nearest rank)."""
        # Minus a little, so that rounding does not make 99.9 % of 1000 the 1000th value.
        return max(1, math.ceil(percentile * self.count / 100 - 1e-6))

    def count_within(self, limit_ms: float) -> int:
        """Return how many values did not exceed a limit, to the histogram's precision."""
        return sum(count for upto_ms, count in self.buckets() if upto_ms <= limit_ms)

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Yield (upper bound in milliseconds, count) of each bucket that is not empty."""
        # A hundred times faster than the library's iterator; a report has hundreds of histograms.
        for index, count in enumerate(self._hdr.counts[:]):
            if count:
                value_us = self._hdr.get_value_from_index(index)
                yield self._hdr.get_highest_equivalent_value(value_us) / 1000, count

    def add(self, other: "Histogram") -> None:
        self._hdr.add(other._hdr)

    def encode(self) -> str:
        """Write it in HdrHistogram's V2 format and base64, which other tools can read."""
        return str(self._hdr.encode().decode())

    @classmethod
    def decode(cls, text: str) -> "Histogram":
        """Read what ``encode`` wrote.

        Raises:
            ValueError: it is not a histogram, or one with other limits.
        """
        try:
            hdr = HdrHistogram.decode(text.encode())
            histogram = cls(hdr.significant_figures)
            histogram._hdr.add(hdr)
        except _UNREADABLE as error:
            raise ValueError(f"not a histogram: {text[:40]!r}") from error
        return histogram

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.encode() == other.encode()

    def __hash__(self) -> int:
        return hash(self.encode())
