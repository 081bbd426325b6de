"""When requests are to be sent. Pure: numbers in, instants out.

In an **open loop** requests come when they come, as from the world outside, whether or not earlier
ones are answered. Their instants are fixed before the first is sent; latency is counted from them,
so a server that stalls cannot hide it by slowing its clients down. In a **closed loop** a fixed
number of clients each wait for their answer before they ask again.
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
    """Which part of the load is this program's: one pod of several."""

    index: int = 0
    of: int = 1


@dataclass(frozen=True, slots=True)
class Stretch:
    """An open loop for a while: the rate changes evenly from its start to its end."""

    seconds: float
    rate_per_s: float
    to_rate_per_s: float

    @property
    def requests(self) -> float:
        return self.seconds * (self.rate_per_s + self.to_rate_per_s) / 2

    def instant(self, requests: float) -> float:
        """Return after how many seconds so many requests are due, from 0 to ``requests``.

        It is the time t at which rate * t + slope * t² / 2 reaches that number, written so that
        it neither divides by zero where the rate is constant nor loses digits where it nearly is.
        """
        slope = (self.to_rate_per_s - self.rate_per_s) / self.seconds
        root = math.sqrt(max(0.0, self.rate_per_s**2 + 2 * slope * requests))
        if not requests:
            return 0.0
        speed = self.rate_per_s + root
        return min(self.seconds, 2 * requests / speed) if speed else self.seconds


def instants(
    stretches: Sequence[Stretch], arrivals: str, seed: int, shard: Shard | None = None
) -> Iterator[float]:
    """Give the instants at which a shard is to send, in seconds from the start, in order.

    ``constant`` arrivals are equally spaced while the rate is constant, and the shards take turns.
    ``poisson`` arrivals are independent of each other, as those of many people are; each shard
    draws its own from the seed, and together they are a Poisson process of the full rate.
    """
    shard = shard or Shard()
    dues = _poisson(seed, shard) if arrivals == POISSON else _constant(shard)
    begin_s, before = 0.0, 0.0
    due = next(dues)
    for stretch in stretches:
        while due < before + stretch.requests:
            yield begin_s + stretch.instant(due - before)
            due = next(dues)
        begin_s += stretch.seconds
        before += stretch.requests


def _constant(shard: Shard) -> Iterator[float]:
    """Give the numbers of this shard's requests among all of them."""
    return map(float, count(shard.index, shard.of))


def _poisson(seed: int, shard: Shard) -> Iterator[float]:
    """Give this shard's arrivals, 1 / ``shard.of`` for every request of the full load."""
    # A string, since seed + index would give pod 1 of one run the arrivals of pod 0 of the next.
    drawn = Random(f"{seed}/{shard.index}/{shard.of}")
    due = 0.0
    while True:
        due += drawn.expovariate(1 / shard.of)
        yield due


def clients_of(clients: int, shard: Shard) -> int:
    """Return how many of a closed loop's clients are this shard's."""
    return clients // shard.of + (shard.index < clients % shard.of)
