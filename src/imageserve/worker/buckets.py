"""Batch sizes: which ones are run, and how long each takes. Pure.

A model is traced or compiled per batch size, so batches are padded to a few sizes (buckets) that
have all been run before the worker reports ready. Powers of two alone would pad a batch of 17 to
32; with the sizes half-way between them no batch from 9 on leaves a third of its places empty.
"""

from collections.abc import Callable, Iterable

WEIGHT = 0.1
"""Weight of the newest measurement in the running mean of a bucket's time."""


def bucket_sizes(batch_size: int) -> tuple[int, ...]:
    """Return 1, 2, 4, 8, 12, 16, 24, 32, ... up to and including ``batch_size``."""
    sizes = {batch_size}
    power = 1
    while power < batch_size:
        sizes.add(power)
        if power >= 8 and power * 3 // 2 < batch_size:
            sizes.add(power * 3 // 2)
        power *= 2
    return tuple(sorted(sizes))


MOST_TIMES_USUAL = 3


class BucketTimes:
    """How long one call of the model takes, per bucket, in ms."""

    def __init__(self, sizes: Iterable[int]) -> None:
        self.sizes = tuple(sorted(sizes))
        self.ms: dict[int, float] = {}
        self._rough: set[int] = set()

    def bucket(self, n: int) -> int:
        """Return the smallest bucket that holds ``n`` pictures."""
        return next(size for size in self.sizes if size >= n)

    def time_all(
        self,
        call: Callable[[int], object],
        clock: Callable[[], float],
        *,
        rounds: int = 3,
        rough: bool = False,
    ) -> None:
        """Run every bucket: once to trace it, then ``rounds`` times, keeping the fastest.

        The fastest, because whatever else ran on the machine meanwhile only adds to a time. With
        ``rough`` much else runs, another model: then the first real batch that is faster counts.
        """
        for size in self.sizes:
            call(size)
            seconds = []
            for _ in range(rounds):
                start = clock()
                call(size)
                seconds.append(clock() - start)
            self.ms[size] = min(seconds) * 1000
        self._rough = set(self.sizes) if rough else set()

    def update(self, size: int, ms: float) -> None:
        """Blend in the time of a real batch.

        One that was frozen with its worker says nothing about the model, so it counts for three
        times the usual at most.
        """
        old = self.ms.get(size, ms)
        if size in self._rough:
            self._rough.discard(size)
            old = min(old, ms)
        self.ms[size] = old + WEIGHT * (min(ms, MOST_TIMES_USUAL * old) - old)

    def shrink(self, batch_size: int) -> None:
        """Never use a bucket above ``batch_size`` again."""
        self.sizes = tuple(size for size in self.sizes if size <= batch_size)
        self.ms = {size: ms for size, ms in self.ms.items() if size <= batch_size}

    @property
    def slowest_ms(self) -> float:
        return max(self.ms.values(), default=0.0)
