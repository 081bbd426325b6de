"""Latencies as HDR histograms: of bounded size, and added over pods without loss."""

import binascii
import math
import zlib
from collections.abc import Iterable, Iterator

from hdrh.codec import HdrCookieException, HdrHistogramSettingsException, HdrLengthException
from hdrh.histogram import HdrHistogram

LONGEST_S = 600.0
"""Longer durations count as this: no request of a load test waits for ten minutes."""
FINE = 3
"""Significant digits: no value is off by more than 0.1 %."""
COARSE = 2
"""Off by at most 1 %, at a seventh of the memory: for the many small ones of a timeline."""

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
        """Return the milliseconds that so many percent did not exceed; None where empty."""
        return self.percentiles_ms([percentile])[percentile] if self.count else None

    def percentiles_ms(self, percentiles: Iterable[float]) -> dict[float, float]:
        """Return several percentiles in one pass; nothing where empty."""
        wanted = sorted(set(percentiles), reverse=True)
        found: dict[float, float] = {}
        seen = 0
        for upto_ms, count in self.buckets():
            seen += count
            while wanted and seen >= self._rank(wanted[-1]):
                found[wanted.pop()] = upto_ms
        return found

    def _rank(self, percentile: float) -> int:
        """Return which value, counted from the smallest, is the percentile: the nearest rank."""
        # Less a little, so that 99.9 % of 1000 is the 999th and not, by rounding, the next.
        return max(1, math.ceil(percentile * self.count / 100 - 1e-6))

    def count_within(self, limit_ms: float) -> int:
        """Return how many did not exceed a limit, to the histogram's precision."""
        return sum(count for upto_ms, count in self.buckets() if upto_ms <= limit_ms)

    def buckets(self) -> Iterator[tuple[float, int]]:
        """Give (milliseconds up to which the bucket reaches, count) of all that are not empty."""
        # A hundred times faster than the library's iterator: a report has hundreds of histograms.
        for index, count in enumerate(self._hdr.counts[:]):
            if count:
                value_us = self._hdr.get_value_from_index(index)
                yield self._hdr.get_highest_equivalent_value(value_us) / 1000, count

    def add(self, other: "Histogram") -> None:
        self._hdr.add(other._hdr)

    def encode(self) -> str:
        """Write it as HdrHistogram's V2 format in base64, which other tools read too."""
        return str(self._hdr.encode().decode())

    @classmethod
    def decode(cls, text: str) -> "Histogram":
        """Read what ``encode`` wrote.

        Raises:
            ValueError: it is no histogram, or one of other limits.
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
