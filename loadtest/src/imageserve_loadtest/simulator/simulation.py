"""Runs one load trace against one scaling rule, event by event, and adds up the outcome. Pure."""

import heapq
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from itertools import count, pairwise

from imageserve.queue.snapshot import Speed
from imageserve_loadtest.simulator.room import Place, Room
from imageserve_loadtest.simulator.scalers import BucketMs, Scaler, Snapshot
from imageserve_loadtest.simulator.simulated_queue import Batch, SimulatedQueue
from imageserve_loadtest.simulator.trace import Trace

UNSCHEDULABLE_S = 60.0
"""A pod without room counts as unschedulable after this long, as with the autoscaler."""

SAMPLE_S = 10.0
"""Seconds between two records of the queue length."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one trace under one rule."""

    requests: int
    in_time: int
    replica_hours: float
    """Pods that start, serve or stop all count, because all are paid for."""
    p99_wait_s: float
    """Of answered requests: from arrival to the start of the batch."""
    direction_changes: int
    zero_s: float
    """How long there was no pod."""
    replicas: tuple[tuple[float, int], ...]
    """``(second, pods)``: each change of the wanted number."""
    waiting: tuple[tuple[float, int], ...]
    """``(second, jobs)``: jobs that waited, every ``SAMPLE_S``."""
    in_time_by_step: Mapping[int, int] = field(default_factory=dict)
    """Of each five minutes."""

    @property
    def in_time_share(self) -> float:
        """Share of all requests that were answered in time; refused ones were not."""
        return self.in_time / self.requests if self.requests else 1.0


class Timeline:
    """Records pods, decisions and queue length during a run."""

    def __init__(self, replicas: int) -> None:
        self._pods = [(0.0, 0)]
        self._replicas = [(0.0, replicas)]
        self._waiting: list[tuple[float, int]] = []

    def counted(self, now_s: float, pods: int) -> None:
        """Record how many pods exist."""
        self._pods.append((now_s, pods))

    def scaled(self, now_s: float, replicas: int) -> None:
        """Record how many pods are wanted."""
        self._replicas.append((now_s, replicas))

    def queue_recorded(self, now_s: float, waiting: int) -> None:
        """Record how many jobs wait."""
        self._waiting.append((now_s, waiting))

    def outcome(self, length_s: float, requests: int, queue: SimulatedQueue) -> Outcome:
        """Add up the run; pods after the end of the trace do not count."""
        return Outcome(
            requests=requests,
            in_time=queue.in_time,
            replica_hours=_integral(self._pods, length_s) / 3600,
            p99_wait_s=_percentile(queue.waits_s.tolist(), 0.99),
            direction_changes=_direction_changes([pods for _, pods in self._replicas]),
            zero_s=length_s - _integral([(s, min(n, 1)) for s, n in self._pods], length_s),
            replicas=tuple(self._replicas),
            waiting=tuple(self._waiting),
            in_time_by_step=queue.in_time_by_step,
        )


@dataclass(frozen=True, slots=True)
class Setting:
    """The simulated world, which is the same for every rule."""

    bucket_ms: BucketMs
    pod_start_s: float = 60.0
    timeout_s: float = 30.0
    """``REQUEST_TIMEOUT_S``: later answers do not count."""
    queue_limit: int = 2048
    """``QUEUE_LIMIT``."""
    replicas: int = 1
    """Ready pods at the start of the trace."""
    gpus: int = 1
    """Of one pod, where several models share a ``Room``."""

    @property
    def batch_size(self) -> int:
        return max(self.bucket_ms)


class Phase(Enum):
    """The state of a pod."""

    PENDING = 0
    """There is no room for it."""
    STARTING = 1
    IDLE = 2
    BUSY = 3
    GONE = 4


@dataclass(slots=True, eq=False)
class Pod:
    """One pod with one worker."""

    created_s: float
    phase: Phase = Phase.PENDING
    is_stopping: bool = False
    batch: Batch = field(default_factory=list)
    upcoming: Batch = field(default_factory=list)
    """The next batch, claimed while this one runs."""
    place: Place | None = None
    """By which it waits for room."""


class Simulation:
    """Runs a trace against a rule, once; ``requests`` are the instants of its requests."""

    def __init__(
        self,
        setting: Setting,
        trace: Trace,
        requests: list[float],
        scaler: Scaler,
        room: Room | None = None,
    ) -> None:
        """``room``: what the pods of several models share; without it there is always room."""
        self._room = room or Room(math.inf)
        self._scaler = scaler
        self._setting = setting
        self._trace = trace
        self._requests = requests
        self._arrived = 0
        self._queue = SimulatedQueue(setting.timeout_s, setting.queue_limit)
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
        self._end_s = trace.length_s + setting.timeout_s
        self._batch_size = setting.batch_size
        self._batch_s = _batch_s(setting.bucket_ms)

    def run(self) -> Outcome:
        """Run to the end of the trace and of the last deadline."""
        self.begin()
        while self._events and self._events[0][0] <= self._end_s:
            self.step()
        return self.outcome()

    def begin(self) -> None:
        """Start the first pods and the clock."""
        for _ in range(self._setting.replicas):
            self._new_pod(self._serve)
        self._at(0.0, self._record_queue)
        self._at(0.0, self._tick)

    @property
    def next_s(self) -> float:
        """When something happens next; infinity after the end."""
        next_s = self._events[0][0] if self._events else math.inf
        is_awaited = bool(self._idle) or self._is_asleep
        if is_awaited and self._arrived < len(self._requests):
            next_s = min(next_s, self._requests[self._arrived])
        return next_s if next_s <= self._end_s else math.inf

    def step(self) -> None:
        """Let the next thing happen."""
        if not self._admit(self._events[0][0]):
            self._now_s, _, happen, pod = heapq.heappop(self._events)
            happen(*pod)

    def outcome(self) -> Outcome:
        """Add up the run after its end."""
        return self._timeline.outcome(self._trace.length_s, len(self._requests), self._queue)

    def _at(self, second: float, happen: Callable[..., None], *pod: Pod) -> None:
        heapq.heappush(self._events, (second, next(self._order), happen, pod))

    def _admit(self, until_s: float) -> bool:
        """Let the requests before an event arrive; return whether they caused a new event.

        If a pod or the scaler waits for a job, only the first request arrives, else all of them.
        """
        first = self._arrived
        if first == len(self._requests) or self._requests[first] > until_s:
            return False
        is_awaited = bool(self._idle) or self._is_asleep
        last = first + 1 if is_awaited else bisect_right(self._requests, until_s)
        self._arrived = last
        self._queue.arrive(self._requests[first:last], self._max_backlog)
        if not is_awaited:
            return False
        self._now_s = self._requests[first]
        self._wake_pod_or_scaler()
        return True

    @property
    def _is_asleep(self) -> bool:
        can_wake = self._scaler.wake_s is not None and not self._wake_is_due
        return self._replicas == 0 and can_wake

    def _wake_pod_or_scaler(self) -> None:
        if self._idle and self._queue.waiting:
            self._work(self._idle.pop())
        elif self._is_asleep and self._scaler.wake_s is not None:
            self._wake_is_due = True
            self._at(self._now_s + self._scaler.wake_s, self._wake)

    def _wake(self) -> None:
        self._wake_is_due = False
        self._decide()

    def _tick(self) -> None:
        self._decide()
        self._at(self._now_s + self._scaler.interval_s, self._tick)

    def _record_queue(self) -> None:
        self._timeline.queue_recorded(self._now_s, self._queue.waiting)
        self._at(self._now_s + SAMPLE_S, self._record_queue)

    def _decide(self) -> None:
        wanted = self._scaler.decide(self._snapshot())
        if wanted != self._replicas:
            self._replicas = wanted
            self._timeline.scaled(self._now_s, wanted)
        while self._live() < wanted:
            self._new_pod(self._start)
        while self._live() > wanted:
            self._stop(self._pod_to_stop())

    def _snapshot(self) -> Snapshot:
        ready = self._ready()
        return Snapshot(
            now_s=self._now_s,
            waiting=self._queue.waiting,
            in_flight=self._queue.in_flight,
            accepted=self._queue.accepted,
            rejected=self._queue.rejected,
            oldest_s=self._queue.oldest_s(self._now_s),
            replicas=self._replicas,
            ready=ready,
            bucket_ms=self._setting.bucket_ms if ready else {},
            pod_start_s=self._pod_start_s,
            unschedulable=sum(
                pod.phase is Phase.PENDING and self._now_s - pod.created_s >= UNSCHEDULABLE_S
                for pod in self._pods
            ),
        )

    def _ready(self) -> int:
        serving = (Phase.IDLE, Phase.BUSY)
        return sum(pod.phase in serving and not pod.is_stopping for pod in self._pods)

    def _live(self) -> int:
        return sum(not pod.is_stopping for pod in self._pods)

    def _new_pod(self, begin: Callable[[Pod], None]) -> None:
        """Create a pod, which begins as soon as there is room for it."""
        pod = Pod(self._now_s)
        pod.place = partial(self._placed, pod, begin)
        self._pods.append(pod)
        self._room.ask(self._now_s, self._setting.gpus, pod.place)

    def _placed(self, pod: Pod, begin: Callable[[Pod], None], now_s: float) -> None:
        self._now_s = max(self._now_s, now_s)
        pod.phase = Phase.STARTING
        self._count()
        begin(pod)

    def _count(self) -> None:
        """Record the pods that are paid for: not those that wait for room."""
        placed = sum(pod.phase is not Phase.PENDING for pod in self._pods)
        self._timeline.counted(self._now_s, placed)

    def _start(self, pod: Pod) -> None:
        start_s = self._setting.pod_start_s
        self._at(self._now_s + start_s, self._started, pod)

    def _started(self, pod: Pod) -> None:
        if pod.phase is not Phase.GONE:
            self._pod_start_s = self._setting.pod_start_s
            self._serve(pod)

    def _serve(self, pod: Pod) -> None:
        self._work(pod)
        self._update_max_backlog()

    def _update_max_backlog(self) -> None:
        """Set the admission limit as web processes do, from the times that workers publish."""
        tables = [self._setting.bucket_ms] * self._ready()
        self._max_backlog = Speed.of(tables).largest_backlog(round(self._setting.timeout_s * 1000))

    def _pod_to_stop(self) -> Pod:
        """Choose like a ReplicaSet: pods that do not serve yet first, then the newest."""
        live = [pod for pod in self._pods if not pod.is_stopping]
        early = {Phase.PENDING: 2, Phase.STARTING: 1}
        return max(live, key=lambda pod: (early.get(pod.phase, 0), pod.created_s))

    def _stop(self, pod: Pod) -> None:
        """Send SIGTERM: the pod finishes its batch and gives the next one back."""
        pod.is_stopping = True
        if pod.upcoming:
            self._queue.give_back(pod.upcoming)
            pod.upcoming = []
        if pod.phase is not Phase.BUSY:
            self._leave(pod)
        self._update_max_backlog()
        self._start_idle_pods()

    def _leave(self, pod: Pod) -> None:
        if pod.phase is Phase.IDLE:
            self._idle.remove(pod)
        is_placed = pod.phase is not Phase.PENDING
        pod.phase = Phase.GONE
        self._pods.remove(pod)
        self._count()
        if is_placed:
            self._room.give_back(self._now_s, self._setting.gpus)
        elif pod.place:
            self._room.withdraw(self._setting.gpus, pod.place)

    def _start_idle_pods(self) -> None:
        while self._idle and self._queue.waiting:
            self._work(self._idle.pop())

    def _work(self, pod: Pod) -> None:
        """Start the next batch; become idle if there is none."""
        batch = pod.upcoming or self._queue.claim(self._now_s, self._batch_size)
        pod.upcoming = []
        if not batch:
            pod.phase = Phase.IDLE
            self._idle.append(pod)
            return
        pod.phase = Phase.BUSY
        pod.batch = batch
        self._queue.start(self._now_s, batch)
        if self._queue.waiting >= self._batch_size:
            pod.upcoming = self._queue.claim(self._now_s, self._batch_size)
        self._at(self._now_s + self._batch_s[len(batch)], self._finish, pod)

    def _finish(self, pod: Pod) -> None:
        self._queue.finish(self._now_s, pod.batch)
        if pod.is_stopping:
            self._leave(pod)
        else:
            self._work(pod)


def run_together(simulations: Sequence[Simulation]) -> list[Outcome]:
    """Run several models on one clock; return their outcomes in the same order."""
    for each in simulations:
        each.begin()
    while (first := min(simulations, key=lambda each: each.next_s)).next_s < math.inf:
        first.step()
    return [each.outcome() for each in simulations]


def _batch_s(bucket_ms: BucketMs) -> list[float]:
    """Return the seconds of a batch of 0, 1, 2, ... jobs, each padded to the next timed size."""
    sizes = sorted(bucket_ms)
    return [
        bucket_ms[next(size for size in sizes if size >= n)] / 1000 for n in range(sizes[-1] + 1)
    ]


def _integral(steps: list[tuple[float, int]], end_s: float) -> float:
    total = 0.0
    for (start, value), (end, _) in zip(steps, [*steps[1:], (end_s, 0)], strict=True):
        total += value * max(0.0, min(end, end_s) - start)
    return total


def _percentile(values: list[float], share: float) -> float:
    """Return the smallest value that this share of all values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def _direction_changes(counts: list[int]) -> int:
    """Count how often an increase follows a decrease, or a decrease an increase."""
    moves = [after > before for before, after in pairwise(counts)]
    return sum(before != after for before, after in pairwise(moves))
