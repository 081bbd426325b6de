"""When requests are sent. Pure: numbers in, instants out.

In an **open loop** requests come at their own instants, as from the outside world, whether or not
earlier ones are answered. The instants are fixed before the first request is sent, and latency is
counted from them, so a server that stalls cannot hide it by slowing its clients down. In a
**closed loop** each of a fixed number of clients waits for its answer before it sends again.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

CONSTANT = "constant"
POISSON = "poisson"


@dataclass(frozen=True, slots=True)
class Shard:
    """This process's part of the load: pod ``index`` of ``of``."""

    index: int = 0
    of: int = 1


@dataclass(frozen=True, slots=True)
class RateSegment:
    """A part of an open loop in which the rate changes linearly."""

    seconds: float
    rate_per_s: float
    to_rate_per_s: float

    @property
    def requests(self) -> float:
        return self.seconds * (self.rate_per_s + self.to_rate_per_s) / 2

    def instant(self, requests: float) -> float:
        """Return after how many seconds this number of requests is due, from 0 to ``requests``.

        It solves rate * t + slope * t² / 2 = requests for t, in a form that does not divide by
        zero where the rate is constant and loses no digits where it is nearly constant.
        """
        slope = (self.to_rate_per_s - self.rate_per_s) / self.seconds
        root = math.sqrt(max(0.0, self.rate_per_s**2 + 2 * slope * requests))
        if not requests:
            return 0.0
        speed = self.rate_per_s + root
        return min(self.seconds, 2 * requests / speed) if speed else self.seconds


def instants(
    segments: Sequence[RateSegment], arrivals: str, seed: int, shard: Shard | None = None
) -> Iterator[float]:
    """Yield the instants at which a shard sends, in seconds from the start, in order.

    ``constant`` arrivals are equally spaced while the rate is constant, and the shards take turns.
    ``poisson`` arrivals are independent of each other, like those of many people; each shard draws
    its own from the seed, and together they are a Poisson process of the full rate.
    """
    shard = shard or Shard()
    dues = _poisson(seed, shard) if arrivals == POISSON else _constant(shard)
    begin_s, before = 0.0, 0.0
    due = next(dues)
    for segment in segments:
        while due < before + segment.requests:
            yield begin_s + segment.instant(due - before)
            due = next(dues)
        begin_s += segment.seconds
        before += segment.requests


def _constant(shard: Shard) -> Iterator[float]:
    """Yield the positions of this shard's requests among those of all shards."""
    return map(float, count(shard.index, shard.of))


def _poisson(seed: int, shard: Shard) -> Iterator[float]:
    """Yield this shard's arrivals: on average one per ``shard.of`` requests of the full load."""
    # A string, because seed + index would give pod 1 the arrivals of pod 0 with the next seed.
    drawn = Random(f"{seed}/{shard.index}/{shard.of}")
    due = 0.0
    while True:
        due += drawn.expovariate(1 / shard.of)
        yield due


def clients_of(clients: int, shard: Shard) -> int:
    """Return how many of a closed loop's clients belong to this shard."""
    return clients // shard.of + (shard.index < clients % shard.of)
