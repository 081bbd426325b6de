"""One trace, one rule, one clock: the events of a queue, its workers and its pods."""

import heapq
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from itertools import count

from imageserve.autoscaler.simulator.jobs import Batch, Jobs
from imageserve.autoscaler.simulator.outcome import SAMPLE_S, Outcome, Timeline
from imageserve.autoscaler.simulator.scalers import Glance, Scaler
from imageserve.autoscaler.simulator.traces import Trace
from imageserve.queue.snapshot import BucketMs, largest_backlog_in_time


@dataclass(frozen=True, slots=True)
class Setting:
    """What is the same for every rule."""

    bucket_ms: BucketMs
    """Milliseconds of one model call by batch size."""
    pod_start_s: float = 60.0
    timeout_s: float = 30.0
    """``REQUEST_TIMEOUT_S``: later answers are worth nothing."""
    queue_limit: int = 2048
    """``QUEUE_LIMIT``."""
    replicas: int = 1
    """Pods that serve when the trace begins."""

    @property
    def batch_size(self) -> int:
        return max(self.bucket_ms)


class Phase(Enum):
    """What a pod does."""

    STARTING = 1
    IDLE = 2
    BUSY = 3
    GONE = 4


@dataclass(slots=True, eq=False)
class Pod:
    """One pod with one worker."""

    created_s: float
    phase: Phase = Phase.STARTING
    is_stopping: bool = False
    batch: Batch = field(default_factory=list)
    upcoming: Batch = field(default_factory=list)
    """The next full batch, claimed while this one runs."""


class Simulation:
    """Runs a trace against a rule; ``requests`` are the instants of the trace's requests."""

    def __init__(
        self, setting: Setting, trace: Trace, requests: list[float], scaler: Scaler
    ) -> None:
        self._scaler = scaler
        self._setting = setting
        self._trace = trace
        self._requests = requests
        self._arrived = 0
        self._jobs = Jobs(setting.timeout_s, setting.queue_limit)
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Pod, ...]]] = []
        self._order = count()
        self._pods: list[Pod] = []
        self._idle: list[Pod] = []
        self._pod_start_s: float | None = None
        self._max_backlog = 0
        self._wake_is_due = False
        self._replicas = setting.replicas
        self._timeline = Timeline(setting.replicas)
        self._batch_size = setting.batch_size
        self._batch_s = _batch_s(setting.bucket_ms)

    def run(self) -> Outcome:
        """Run to the end of the trace, and until the last deadline has passed. Good for once."""
        for _ in range(self._setting.replicas):
            self._serve(self._new_pod())
        self._at(0.0, self._sample)
        self._at(0.0, self._tick)
        end_s = self._trace.length_s + self._setting.timeout_s
        while self._events and self._events[0][0] <= end_s:
            if not self._take_in(self._events[0][0]):
                self._now_s, _, happen, pod = heapq.heappop(self._events)
                happen(*pod)
        self._now_s = end_s
        return self._timeline.outcome(self._trace.length_s, len(self._requests), self._jobs)

    def _at(self, second: float, happen: Callable[..., None], *pod: Pod) -> None:
        heapq.heappush(self._events, (second, next(self._order), happen, pod))

    def _take_in(self, until_s: float) -> bool:
        """Let requests arrive that come before an event; say whether there is a new event.

        One by one where somebody waits for the first one, else all at once.
        """
        first = self._arrived
        if first == len(self._requests) or self._requests[first] > until_s:
            return False
        is_awaited = bool(self._idle) or self._is_asleep
        last = first + 1 if is_awaited else bisect_right(self._requests, until_s)
        self._arrived = last
        self._jobs.arrive(self._requests[first:last], self._max_backlog)
        if not is_awaited:
            return False
        self._now_s = self._requests[first]
        self._rouse()
        return True

    @property
    def _is_asleep(self) -> bool:
        can_wake = self._scaler.wake_s is not None and not self._wake_is_due
        return self._replicas == 0 and can_wake

    def _rouse(self) -> None:
        if self._idle and self._jobs.waiting:
            self._work(self._idle.pop())
        elif self._is_asleep and self._scaler.wake_s is not None:
            self._wake_is_due = True
            self._at(self._now_s + self._scaler.wake_s, self._wake)

    def _wake(self) -> None:
        self._wake_is_due = False
        self._look()

    def _tick(self) -> None:
        self._look()
        self._at(self._now_s + self._scaler.interval_s, self._tick)

    def _sample(self) -> None:
        self._timeline.sampled(self._now_s, self._jobs.waiting)
        self._at(self._now_s + SAMPLE_S, self._sample)

    def _look(self) -> None:
        wanted = self._scaler.look(self._glance())
        if wanted != self._replicas:
            self._replicas = wanted
            self._timeline.scaled(self._now_s, wanted)
        while self._live() < wanted:
            pod = self._new_pod()
            self._at(self._now_s + self._setting.pod_start_s, self._started, pod)
        while self._live() > wanted:
            self._stop(self._victim())

    def _glance(self) -> Glance:
        ready = self._ready()
        return Glance(
            now_s=self._now_s,
            waiting=self._jobs.waiting,
            in_flight=self._jobs.in_flight,
            accepted=self._jobs.accepted,
            rejected=self._jobs.rejected,
            oldest_s=self._jobs.oldest_s(self._now_s),
            replicas=self._replicas,
            ready=ready,
            bucket_ms=self._setting.bucket_ms if ready else {},
            pod_start_s=self._pod_start_s,
        )

    def _ready(self) -> int:
        return sum(p.phase is not Phase.STARTING and not p.is_stopping for p in self._pods)

    def _live(self) -> int:
        return sum(not pod.is_stopping for pod in self._pods)

    def _new_pod(self) -> Pod:
        pod = Pod(self._now_s)
        self._pods.append(pod)
        self._timeline.counted(self._now_s, len(self._pods))
        return pod

    def _started(self, pod: Pod) -> None:
        if pod.phase is not Phase.GONE:
            self._pod_start_s = self._now_s - pod.created_s
            self._serve(pod)

    def _serve(self, pod: Pod) -> None:
        self._work(pod)
        self._learn_capacity()

    def _learn_capacity(self) -> None:
        """Do what the web processes do with the times that workers publish."""
        tables = [self._setting.bucket_ms] * self._ready()
        self._max_backlog = largest_backlog_in_time(tables, round(self._setting.timeout_s * 1000))

    def _victim(self) -> Pod:
        """Choose as a ReplicaSet does: those that do not serve yet first, then the newest."""
        live = [pod for pod in self._pods if not pod.is_stopping]
        return max(live, key=lambda pod: (pod.phase is Phase.STARTING, pod.created_s))

    def _stop(self, pod: Pod) -> None:
        """Send SIGTERM: the batch in hand is finished, the next one given back."""
        pod.is_stopping = True
        if pod.upcoming:
            self._jobs.give_back(pod.upcoming)
            pod.upcoming = []
        if pod.phase is not Phase.BUSY:
            self._leave(pod)
        self._learn_capacity()
        self._hand_out()

    def _leave(self, pod: Pod) -> None:
        if pod.phase is Phase.IDLE:
            self._idle.remove(pod)
        pod.phase = Phase.GONE
        self._pods.remove(pod)
        self._timeline.counted(self._now_s, len(self._pods))

    def _hand_out(self) -> None:
        while self._idle and self._jobs.waiting:
            self._work(self._idle.pop())

    def _work(self, pod: Pod) -> None:
        """Start the next batch; wait where there is none."""
        batch = pod.upcoming or self._jobs.claim(self._now_s, self._batch_size)
        pod.upcoming = []
        if not batch:
            pod.phase = Phase.IDLE
            self._idle.append(pod)
            return
        pod.phase = Phase.BUSY
        pod.batch = batch
        self._jobs.start(self._now_s, batch)
        if self._jobs.waiting >= self._batch_size:
            pod.upcoming = self._jobs.claim(self._now_s, self._batch_size)
        self._at(self._now_s + self._batch_s[len(batch)], self._finish, pod)

    def _finish(self, pod: Pod) -> None:
        self._jobs.finish(self._now_s, pod.batch)
        if pod.is_stopping:
            self._leave(pod)
        else:
            self._work(pod)


def _batch_s(bucket_ms: BucketMs) -> list[float]:
    """Return how long a batch of 0, 1, 2, ... takes: it is padded to the next timed size."""
    sizes = sorted(bucket_ms)
    return [
        bucket_ms[next(size for size in sizes if size >= n)] / 1000 for n in range(sizes[-1] + 1)
    ]
