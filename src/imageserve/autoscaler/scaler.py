"""Sizes one model: reads its Deployment, asks ``size``, and carries the decision out."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from imageserve import metrics
from imageserve.autoscaler.budget import Share, claim_of
from imageserve.autoscaler.cluster import (
    Deployment,
    Pause,
    PodSummary,
    PodWatch,
    deletion_costs,
    pause_of,
    room_in_rollout,
)
from imageserve.autoscaler.decision import Cause, Decision, Foreseen, Observation, action_of
from imageserve.autoscaler.foresight import Counted, Foresight
from imageserve.autoscaler.lease import Leadership
from imageserve.autoscaler.load import average_table, capacity_per_s
from imageserve.autoscaler.pod_start import start_facts
from imageserve.autoscaler.scaler_status import EventReason, ScalerEvents, ScalerStatus, reason_of
from imageserve.autoscaler.scaling_file import ModelScaling
from imageserve.autoscaler.shared_budget import SharedBudget
from imageserve.autoscaler.sizing import State, size
from imageserve.backoff import Backoff
from imageserve.errors import (
    ClusterConflict,
    ClusterError,
    ClusterForbidden,
    ClusterMissing,
    ClusterUnavailable,
    QueueError,
)
from imageserve.queue.snapshot import Snapshot

if TYPE_CHECKING:
    from imageserve.autoscaler.kubernetes import KubernetesCluster

CONFLICT_TRIES = 3
"""Tries within one step, each with a new read, while other clients change the Deployment."""

UNREAD_STEPS = 3
"""After this many steps without the queue an event is written."""

STALE_S = 20.0
"""An older snapshot, as calls to the API were slow, changes no replicas."""

LONGEST_BACKOFF_S = 30.0
LONGEST_RETRY_AFTER_S = 300.0

_ERROR_SOURCES: dict[type[ClusterError], str] = {
    ClusterForbidden: "rbac",
    ClusterMissing: "target",
    ClusterConflict: "conflict",
}


class ModelScaler:
    """One model. One thread calls ``step``; other threads may read what is public."""

    def __init__(
        self,
        model: ModelScaling,
        cluster: "KubernetesCluster",
        leadership: Leadership,
        *,
        interval_s: float,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``interval_s``: time between steps, and the backoff after a first failure."""
        self.model = model
        self.status = ScalerStatus(dry_run=dry_run)
        self.foresight: Foresight | None = None
        """Counts arrivals and expects jumps; None where that is off."""
        self.asleep = threading.Event()
        """Set while there is no pod and no job, and this process would start a pod for one."""
        self.failures = FailureBackoff(interval_s, clock)
        self.budget: SharedBudget | None = None
        """What it shares with other models; set before the first step."""
        self._cluster = cluster
        self._leadership = leadership
        self._events = ScalerEvents(model.name, cluster, leadership)
        self._interval_s = interval_s
        self._dry_run = dry_run
        self._clock = clock
        self._state = State()
        self._deployment = Deployment(model.deployment, "", "", 0, 0)
        """As it was last read."""
        self._pod_watch = PodWatch()
        self._pods = PodSummary()
        self._pods_listed_at: tuple[int, int] | None = None
        """Replicas and ready pods when the pods were last listed."""
        self._expected: frozenset[int] = frozenset()
        """Replicas that this process may have set; another number was set by another client."""
        self._rights_checked = dry_run
        self._unread_steps = 0

    @property
    def initialized(self) -> bool:
        """Whether queue and Deployment were read once, or the Deployment does not exist."""
        return self.status.success_at is not None or self.failures.target_is_missing

    def step(self, read_at_s: float, queue: Snapshot | QueueError) -> None:
        """Size the model once, on its queue as it was read at ``read_at_s``.

        Failures of the API are noted, not raised; while their backoff lasts nothing is done.
        """
        self._note_queue(queue)
        self._count(read_at_s, queue)
        if self.failures.active():
            return
        try:
            self._step(read_at_s, queue)
        except ClusterError as error:
            self._note_failure(error)
        else:
            self._note_success()

    def _step(self, read_at_s: float, queue: Snapshot | QueueError) -> None:
        before = self._state
        for _ in range(CONFLICT_TRIES):
            self._deployment = self._cluster.deployment(self.model.deployment)
            self._check_rights()
            self._note_other_writers()
            seen = observation(read_at_s, queue, self._deployment, self._watch_pods(queue))
            seen = replace(seen, foreseen=self._foreseen(seen))
            decision, self._state = size(self.model.policy, before, seen)
            try:
                self._carry_out(queue, seen, decision)
            except ClusterConflict:
                self._events.count_error("conflict")
            else:
                return
        self._events.log(logging.WARNING, "other clients keep changing %s", self._deployment.name)

    # -- observing ----------------------------------------------------------------------------

    def _note_queue(self, queue: Snapshot | QueueError) -> None:
        if isinstance(queue, QueueError):
            self._events.count_error("redis")
            if self._unread_steps == 0:
                message = "the queue cannot be read, the replicas stay unchanged: %s"
                self._events.log(logging.ERROR, message, queue)
            self._unread_steps += 1
        else:
            if self._unread_steps:
                self._events.log(logging.INFO, "the queue can be read again")
            self._unread_steps = 0

    def _count(self, read_at_s: float, queue: Snapshot | QueueError) -> None:
        """Add what has arrived to the memory of the week."""
        if self.foresight is None or isinstance(queue, QueueError):
            return
        at_s = time.time() - (self._clock() - read_at_s)
        count = queue.stats.get("accepted", 0) + queue.stats.get("rejected", 0)
        now = Counted(at_s, queue.run, count)
        self.foresight.count(now, leading=self._leadership.leading())

    def _foreseen(self, seen: Observation) -> Foreseen | None:
        if self.foresight is None:
            return None
        policy = self.model.policy
        capacity = capacity_per_s(seen.bucket_ms, policy) or self._state.capacity_per_s
        start_s = policy.pod_start_s if seen.pod_start_s is None else seen.pod_start_s
        return self.foresight.foreseen(time.time(), capacity, start_s)

    def _watch_pods(self, queue: Snapshot | QueueError) -> PodSummary:
        """List the pods, unless all were ready and nothing has changed since."""
        workers = queue.live_workers if isinstance(queue, Snapshot) else []
        now = (self._deployment.replicas, self._deployment.ready)
        is_quiet = now[0] == now[1] and not self._deployment.rollout
        if is_quiet and now == self._pods_listed_at:
            self._pods = replace(self._pods, start=self._pod_watch.start(workers))
            return self._pods
        listed = self._cluster.pods(self.model.pod_selector)
        pods = self._pod_watch.update(listed, self._clock(), workers)
        for start_s in pods.new_starts_s:
            metrics.autoscaler_pod_start_seconds.labels(self.model.name).observe(start_s)
        self._pods, self._pods_listed_at = pods, now
        message = f"{pods.unschedulable} pods have been unschedulable for a minute"
        reason = EventReason.UNSCHEDULABLE
        self._events.write_change(self._deployment, reason, pods.unschedulable, message)
        return pods

    def _check_rights(self) -> None:
        """Send a dry run of the later write once, so that a missing right is reported at the start.

        The API checks rights first: a refusal for another reason shows that they are there.
        """
        if self._rights_checked:
            return
        try:
            self._cluster.scale(self._deployment.name)
            self._cluster.set_replicas(self._deployment, self._deployment.replicas, dry_run=True)
        except (ClusterForbidden, ClusterUnavailable):
            raise
        except ClusterError as error:
            self._events.log(logging.DEBUG, "dry run of a write refused: %s", error)
        self._rights_checked = True

    def _note_other_writers(self) -> None:
        if self._dry_run or not self._leadership.leading():
            self._expected = frozenset()
            return
        now = self._deployment.replicas
        if self._expected and now not in self._expected:
            expected = "/".join(map(str, sorted(self._expected)))
            self._events.write(
                self._deployment,
                EventReason.EXTERNAL_SCALE,
                f"another client has changed the replicas from {expected} to {now}; "
                "sizing continues from there",
            )
        self._expected = frozenset({now})

    # -- acting -------------------------------------------------------------------------------

    def _carry_out(
        self, queue: Snapshot | QueueError, seen: Observation, decision: Decision
    ) -> None:
        pause = pause_of(self._deployment.annotations)
        if pause:
            replicas = seen.replicas if pause.replicas is None else pause.replicas
            action = action_of(replicas - seen.replicas)
            decision = Decision(replicas, None, action, f"paused by {pause.annotation}")
        decision, share = self._within_budget(seen, decision, pause)
        problem = str(queue) if isinstance(queue, QueueError) else ""
        self._publish(problem, seen, decision, (pause, share))
        if decision.replicas != seen.replicas:
            self._change(queue, seen, decision)
        elif self._dry_run:
            self._events.forget_state(EventReason.WOULD_SCALE)
        self._set_asleep(seen, decision, pause)

    def _within_budget(
        self, seen: Observation, decision: Decision, pause: Pause | None
    ) -> tuple[Decision, Share | None]:
        """Limit a decision to this model's share of the GPUs, where there is a budget of them."""
        if self.budget is None:
            return decision, None
        model, is_paused = self.model, pause is not None
        claim = claim_of(model.policy, model.gpus, self._state, seen, decision, paused=is_paused)
        share = self.budget.claim(model.name, claim, seen.now_s)
        limited = share.limited(seen, decision)
        if limited is not decision:
            # Else the next step would take its own number for one that another client has set.
            self._state = replace(self._state, decided=limited.replicas)
        return limited, share

    def _change(self, queue: Snapshot | QueueError, seen: Observation, decision: Decision) -> None:
        if self._clock() - seen.now_s > STALE_S + self._interval_s:
            return
        before, after = seen.replicas, decision.replicas
        message = f"{before} -> {after} replicas: {decision.reason}"
        if self._dry_run:
            reason = EventReason.WOULD_SCALE
            self._events.write_change(self._deployment, reason, (before, after), message)
            return
        if after < before and self.model.deletion_cost and isinstance(queue, Snapshot):
            self._set_deletion_costs(queue)
        with self._leadership.acting() as allowed:
            if not allowed:
                return
            # The answer may get lost: then it is either number.
            self._expected = frozenset({before, after})
            self._cluster.set_replicas(self._deployment, after)
        self._expected = frozenset({after})
        if self.budget:
            self.budget.scaled(self.model.name, after)
        self._events.write(self._deployment, reason_of(before, after), message)

    def _set_deletion_costs(self, snapshot: Snapshot) -> None:
        """Let idle pods be deleted first. A failure does not stop the scale-down."""
        try:
            costs = deletion_costs(self._cluster.pods(self.model.pod_selector), snapshot)
            for pod, cost in costs.items():
                with self._leadership.acting() as allowed:
                    if allowed:
                        self._cluster.set_deletion_cost(pod, cost)
        except ClusterError as error:
            self._events.count_error("api")
            self._events.log(logging.WARNING, "the deletion costs are not set: %s", error)

    def _set_asleep(self, seen: Observation, decision: Decision, pause: Pause | None) -> None:
        idle = seen.known and seen.waiting + seen.in_flight == 0
        at_zero = seen.replicas == 0 == decision.replicas
        if at_zero and idle and not pause and self._leadership.leading():
            self.asleep.set()
        else:
            self.asleep.clear()

    # -- publishing ---------------------------------------------------------------------------

    def _publish(
        self,
        problem: str,
        seen: Observation,
        decision: Decision,
        limits: tuple[Pause | None, Share | None],
    ) -> None:
        pause, share = limits
        about, unread = self._deployment, self._unread_steps >= UNREAD_STEPS
        message = f"the queue cannot be read, the replicas stay unchanged: {problem}"
        self._events.write_change(about, EventReason.METRICS_UNAVAILABLE, unread, message)
        self._events.write_change(about, EventReason.PAUSED, pause, decision.reason)
        is_limited = decision.cause is Cause.BUDGET
        self._events.write_change(about, EventReason.OVER_BUDGET, is_limited, decision.reason)
        cause = "paused" if pause else decision.cause
        metrics.autoscaler_decisions_total.labels(self.model.name, decision.action, cause).inc()
        self.status = ScalerStatus(
            seen=seen,
            decision=decision,
            share=share,
            problem=problem,
            leader=self._leadership.leading(),
            paused=pause is not None,
            dry_run=self._dry_run,
            forecast=self.foresight.facts() if self.foresight else {},
            pod_start=start_facts(self._pods.start, self.model.policy),
            success_at=time.time() if seen.known else self.status.success_at,
        )

    # -- failures of the API ------------------------------------------------------------------

    def _note_failure(self, error: ClusterError) -> None:
        self.asleep.clear()
        self._events.count_error(error_source(error))
        if self.budget:
            is_gone = isinstance(error, ClusterMissing)
            self.budget.unknown(self.model.name, is_gone=is_gone)
        if self.failures.add(error):
            self._events.log(logging.ERROR, "replicas stay unchanged until this works: %s", error)
        if isinstance(error, ClusterForbidden):
            self._rights_checked = self._dry_run
            message = str(error)
            self._events.write_change(self._deployment, EventReason.RBAC_DENIED, message, message)
        self.status = replace(
            self.status,
            seen=None,
            decision=None,
            share=None,
            problem=str(error),
            leader=self._leadership.leading(),
        )

    def _note_success(self) -> None:
        if self.failures.clear():
            self._events.log(logging.INFO, "the API answers again")
        self._events.forget_state(EventReason.RBAC_DENIED)


def observation(
    read_at_s: float, queue: Snapshot | QueueError, deployment: Deployment, pods: PodSummary
) -> Observation:
    """Return what ``size`` is given: the queue where it could be read, and the Deployment."""
    seen = Observation(
        now_s=read_at_s,
        replicas=deployment.replicas,
        ready=deployment.ready,
        unschedulable=pods.unschedulable,
        pod_start_s=pods.start.total_s if pods.start else None,
        rollout=deployment.rollout,
        can_run=None if pods.can_run is None else room_in_rollout(deployment, pods.can_run),
    )
    if isinstance(queue, QueueError):
        return seen
    return replace(
        seen,
        known=True,
        run=queue.run,
        waiting=queue.waiting,
        in_flight=queue.in_flight,
        accepted=queue.stats.get("accepted", 0),
        rejected=queue.stats.get("rejected", 0),
        oldest_s=queue.oldest_ms / 1000,
        bucket_ms=average_table(queue.tables),
    )


class FailureBackoff:
    """Failures in a row of one model's calls to the API. Other threads may read what is public."""

    def __init__(self, interval_s: float, clock: Callable[[], float]) -> None:
        """``interval_s`` is about how long the first backoff lasts."""
        self.denied = ""
        """The message about a missing right; "" where none is missing."""
        self._backoff = Backoff(interval_s, LONGEST_BACKOFF_S)
        self._clock = clock
        self._kind: type[ClusterError] | None = None
        self._until_s = -float("inf")

    @property
    def target_is_missing(self) -> bool:
        return self._kind is ClusterMissing

    def active(self) -> bool:
        """Whether no call is to be made yet."""
        return self._clock() < self._until_s

    def add(self, error: ClusterError) -> bool:
        """Add a failure; returns whether it is of another kind than the one before."""
        is_new = self._kind is not type(error)
        self._kind = type(error)
        backoff_s = self._backoff.next()
        if isinstance(error, ClusterUnavailable) and error.retry_after_s is not None:
            backoff_s = max(backoff_s, min(error.retry_after_s, LONGEST_RETRY_AFTER_S))
        self._until_s = self._clock() + backoff_s
        if isinstance(error, ClusterForbidden):
            self.denied = str(error)
        return is_new

    def clear(self) -> bool:
        """Note a success; returns whether there was a failure before."""
        if self._kind is None:
            return False
        self._kind, self.denied = None, ""
        self._backoff.reset()
        return True


def error_source(error: ClusterError) -> str:
    """Return the ``source`` label under which a failure is counted."""
    return _ERROR_SOURCES.get(type(error), "api")
