"""Runs the model on a batch, and finds the one picture that breaks it.

A batch that fails is halved until the failing pictures stand alone; their neighbours get their
labels. A batch that does not fit the device's memory is run one by one, and no batch from then on
is larger than half of it. Not halved on the spot: a framework may take ten seconds to report that
memory does not suffice (TensorFlow waits for some to be freed), and a report at every size on the
way down would outlast the batch's lease.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imageserve import metrics
from imageserve.errors import ModelOutOfMemory
from imageserve.models.foreign import foreign
from imageserve.models.model import Model
from imageserve.predictions import Asked, Prediction
from imageserve.queue.job_log import fields_of, fields_of_one
from imageserve.worker.batch import Images, Outcome, Task

log = logging.getLogger(__name__)


Vectors = Mapping[str, NDArray[np.float32]]
"""Those that some task wants, by name: (pictures, numbers)."""
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

        The fastest, because other work on the machine only adds time. ``rough`` says that another
        model runs meanwhile: then a first real batch that is faster replaces the time.
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
        """Blend in the time of a real batch, as three times the usual time at most.

        A longer one says nothing about the model: its worker was frozen meanwhile. A usual time
        that is over three times this one is wrong, and refuses pictures without need.
        """
        old = min(self.ms.get(size, ms), MOST_TIMES_USUAL * ms)
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


class Runner:
    """One model with its buckets. Used by one thread; ``running_s`` may be read by others."""

    def __init__(
        self,
        model: Model,
        batch_size: int,
        clock: Callable[[], float] = time.monotonic,
        *,
        name: str | None = None,
        version: str | None = None,
    ) -> None:
        """``name`` and ``version`` are what it is served as; by default what the model says."""
        self.model = model
        self.name = name or model.name
        self.version = version or model.version
        self.times = BucketTimes(bucket_sizes(batch_size))
        self._clock = clock
        self._call_began: float | None = None
        self._one_by_one = False

    @property
    def batch_size(self) -> int:
        """The largest batch that is run at once."""
        return self.times.sizes[-1]

    @property
    def running_s(self) -> float:
        """How long the current call of the model has been running; 0 when none is."""
        began = self._call_began
        return 0.0 if began is None else self._clock() - began

    def expected_ms(self, n: int) -> float:
        """Return how long a call with ``n`` pictures should take; 0 where nobody knows."""
        return self.times.ms.get(self.times.bucket(n), 0.0) if n <= self.batch_size else 0.0

    def warm_up(self, *, beside: bool = False) -> None:
        """Run and time every bucket; ``beside`` says that another model serves meanwhile.

        Raises what the model raises at batch size 1.
        """
        noise = np.random.default_rng(0)
        shape = self.model.preparation.shape

        def call(size: int) -> None:
            images = noise.integers(0, 256, (size, *shape), dtype=np.uint8)
            self._predict(images, [Asked(top=1)])

        try:
            self.times.time_all(call, self._clock, rough=beside)
        except ModelOutOfMemory:
            fitting = [size for size in self.times.sizes if size in self.times.ms]
            if not fitting:
                raise
            log.warning("batches are limited to %d: more does not fit into memory", fitting[-1])
            self.times.shrink(fitting[-1])

    def run(self, tasks: Sequence[Task], block: Images | None = None) -> list[Outcome]:
        """Return one outcome per task, in order. Never raises.

        In ``block`` their images lie one behind the other. What lies behind them may be anything.
        """
        self._one_by_one = False
        return self._run(tasks, block)

    def _run(self, tasks: Sequence[Task], block: Images | None) -> list[Outcome]:
        if len(tasks) > (1 if self._one_by_one else self.batch_size):
            return self._halves(tasks, block)
        began = self._clock()
        try:
            answers = self._predict_tasks(tasks, block)
        except ModelOutOfMemory:
            if len(tasks) == 1:
                return [self._failure("out of memory", began)]
            self._limit(self.times.bucket(len(tasks)) // 2, tasks)
            self._one_by_one = True
            return self._halves(tasks, block)
        # Whatever a model may raise on a picture: it must harm only that picture.
        except Exception as error:
            if len(tasks) == 1:
                fields = fields_of_one(tasks[0].job)
                log.exception("the model fails on a picture", extra=self._about(fields))
                return [self._failure(f"the model failed: {type(error).__name__}", began)]
            text = "a batch of %d failed (%s): halving it"
            log.warning(text, len(tasks), foreign(error), extra=self._about(_named(tasks)))
            return self._halves(tasks, block)
        model_ms = (self._clock() - began) * 1000
        return [
            Outcome(labels, None, model_ms, len(tasks), self.version, vector, began)
            for labels, vector in answers
        ]

    def _halves(self, tasks: Sequence[Task], block: Images | None) -> list[Outcome]:
        middle = (len(tasks) + 1) // 2
        first, second = (None, None) if block is None else (block[:middle], block[middle:])
        return self._run(tasks[:middle], first) + self._run(tasks[middle:], second)

    def _failure(self, reason: str, began: float) -> Outcome:
        model_ms = (self._clock() - began) * 1000
        return Outcome((), reason, model_ms, 1, self.version, began=began)

    def _about(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"fields": {"model": self.name, "version": self.version, **fields}}

    def _limit(self, batch_size: int, tasks: Sequence[Task]) -> None:
        fitting = max(size for size in self.times.sizes if size <= batch_size)
        text = "out of memory: batches are limited to %d from now on"
        log.warning(text, fitting, extra=self._about(_named(tasks)))
        self.times.shrink(fitting)
        metrics.batch_limit.labels(self.name).set(fitting)

    def _predict_tasks(
        self, tasks: Sequence[Task], block: Images | None
    ) -> list[tuple[tuple[Prediction, ...], bytes]]:
        """Return labels and the wanted vector of each task."""
        bucket = self.times.bucket(len(tasks))
        # Not a copy, where it can be helped: the device idles meanwhile. The padding holds pictures
        # of earlier batches; their predictions are cut off.
        if block is not None and len(block) >= bucket:
            images = block[:bucket]
        else:
            images = np.zeros((bucket, *self.model.preparation.shape), np.uint8)
            np.stack([task.image for task in tasks], out=images[: len(tasks)])
        asked = [Asked(task.job.top, task.job.least, task.job.want) for task in tasks]
        began = self._clock()
        predictions, vectors = self._predict(images, asked)
        self._measured(bucket, len(tasks), self._clock() - began)
        rows = [b""] * len(tasks)
        if vectors:
            rows = [_row(vectors, task.job.want, place) for place, task in enumerate(tasks)]
        return list(zip(predictions, rows, strict=False))

    def _predict(
        self, images: Images, asked: Sequence[Asked]
    ) -> tuple[list[tuple[Prediction, ...]], Vectors]:
        self._call_began = self._clock()
        count = len(images)
        vectors: Vectors = {}
        try:
            if all(each.is_usual for each in asked):
                predictions = self.model.predict(images, max(each.top for each in asked))
            else:
                predictions, vectors = self.model.predict_more(images, asked)
                count = len(asked)
        finally:
            self._call_began = None
        if len(predictions) != count:
            raise ValueError(f"the model gave {len(predictions)} answers to {count} pictures")
        return predictions, vectors

    def _measured(self, bucket: int, n: int, seconds: float) -> None:
        self.times.update(bucket, seconds * 1000)
        metrics.batches_total.labels(self.name).inc()
        metrics.batch_size.labels(self.name).observe(n)
        metrics.batch_padding.labels(self.name).inc(bucket - n)
        metrics.model_seconds.labels(self.name).observe(seconds)


def _named(tasks: Sequence[Task]) -> dict[str, Any]:
    return fields_of(task.job for task in tasks)


def _row(vectors: Vectors, wanted: str, place: int) -> bytes:
    """Return one row as float32, little-endian; empty where the model does not give it."""
    return vectors[wanted][place].astype("<f4").tobytes() if wanted in vectors else b""
