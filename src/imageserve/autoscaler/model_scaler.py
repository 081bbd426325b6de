"""Sizes one model: reads its Deployment, asks ``size``, carries the answer out, says why."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from imageserve.autoscaler.cluster import Cluster, Deployment
from imageserve.autoscaler.journal import Journal, Reason, reason_of
from imageserve.autoscaler.lease import Leadership
from imageserve.autoscaler.observation import Action, Decision, Observation
from imageserve.autoscaler.pause import Pause, pause_of
from imageserve.autoscaler.pod_watch import PodFacts, PodWatch, deletion_costs
from imageserve.autoscaler.report import Mode, Report
from imageserve.autoscaler.sample import Sample, with_queue
from imageserve.autoscaler.scaling_file import ModelScaling
from imageserve.autoscaler.sizing import State, size
from imageserve.autoscaler.trouble import Trouble, source_of
from imageserve.errors import (
    ClusterConflict,
    ClusterError,
    ClusterForbidden,
    ClusterUnavailable,
)

TRIES = 3
"""So often in one step is a Deployment read again that somebody else has changed."""

BLIND_STEPS = 3
"""After so many without the queue's numbers an event says so."""

STALE_S = 20.0
"""Numbers older than this, because a call took so long, are not acted upon."""


class ModelScaler:
    """One model. ``step`` is called by one thread; what is public may be read by others."""

    def __init__(
        self,
        model: ModelScaling,
        cluster: Cluster,
        leadership: Leadership,
        *,
        interval_s: float = 5.0,
        dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``interval_s`` is how often ``step`` is called: how long a first failure is rested."""
        self.model = model
        self.report = Report(dry_run=dry_run)
        self.asleep = threading.Event()
        """Set while this process would have to wake the model, and nothing waits yet."""
        self.trouble = Trouble(interval_s, clock)
        self._cluster = cluster
        self._leadership = leadership
        self._journal = Journal(model.name, cluster, leadership)
        self._interval_s = interval_s
        self._dry_run = dry_run
        self._clock = clock
        self._state = State()
        self._about = Deployment(model.deployment, "", "", 0, 0)
        self._pods = PodWatch()
        self._facts = PodFacts()
        self._looked_at: tuple[int, int] | None = None
        self._expected: frozenset[int] = frozenset()
        self._may = dry_run
        self._told: dict[Reason, object] = {}
        self._blind = 0

    @property
    def met(self) -> bool:
        """Whether the API has ever said of the Deployment all that is needed."""
        return self.report.success_at is not None or self.trouble.target_is_missing

    def step(self, sample: Sample) -> None:
        """Size the model once. No failure of the API leaves it."""
        if self.trouble.resting():
            return
        try:
            self._step(sample)
        except ClusterError as error:
            self._note_failure(error)
        else:
            self._note_success()

    def _step(self, sample: Sample) -> None:
        remembered = self._state
        for _ in range(TRIES):
            deployment = self._about = self._cluster.deployment(self.model.deployment)
            self._check_rights(deployment)
            self._note_foreign_writers(deployment)
            seen = self._observe(sample, deployment)
            decision, self._state = size(self.model.policy, remembered, seen)
            try:
                self._carry_out(sample, deployment, seen, decision)
            except ClusterConflict:
                self._journal.error("conflict")
                continue
            return
        self._journal.log(logging.WARNING, "somebody else changes %s all the time", deployment.name)

    # -- seeing -------------------------------------------------------------------------------

    def _observe(self, sample: Sample, deployment: Deployment) -> Observation:
        facts = self._look_at_pods(deployment)
        seen = Observation(
            now_s=sample.at_s,
            known=False,
            run="",
            backlog=0,
            in_flight=0,
            accepted=0,
            rejected=0,
            oldest_s=0.0,
            replicas=deployment.replicas,
            ready=deployment.ready,
            unschedulable=facts.unschedulable,
            pod_start_s=facts.start_s,
        )
        if sample.reading is None:
            return seen
        return with_queue(seen, sample.reading.run, sample.reading.snapshots[self.model.queue])

    def _look_at_pods(self, deployment: Deployment) -> PodFacts:
        """List the pods only where they can tell something new."""
        now = (deployment.replicas, deployment.ready)
        if now == self._looked_at and deployment.ready == deployment.replicas:
            return self._facts
        facts = self._pods.look(self._cluster.pods(self.model.pod_selector), self._clock())
        for seconds in facts.new_starts_s:
            self._journal.started(seconds)
        self._facts, self._looked_at = facts, now
        message = f"{facts.unschedulable} pods have found no node for a minute"
        self._tell_once(deployment, Reason.UNSCHEDULABLE, facts.unschedulable, message)
        return facts

    def _check_rights(self, deployment: Deployment) -> None:
        """Try, without an effect, what will have to be done: a missing right is better known now.

        Rights are checked before anything else; a refusal for another reason says they are there.
        """
        if self._may:
            return
        try:
            self._cluster.scale(deployment.name)
            self._cluster.set_replicas(deployment, deployment.replicas, dry_run=True)
        except (ClusterForbidden, ClusterUnavailable):
            raise
        except ClusterError as error:
            self._journal.log(logging.DEBUG, "tried to write: %s", error)
        self._may = True

    def _note_foreign_writers(self, deployment: Deployment) -> None:
        if self._dry_run or not self._leadership.leading():
            self._expected = frozenset()
            return
        if self._expected and deployment.replicas not in self._expected:
            was = "/".join(map(str, sorted(self._expected)))
            self._journal.tell(
                deployment,
                Reason.EXTERNAL_SCALE,
                f"somebody else set the replicas from {was} to {deployment.replicas}; going on "
                "from there",
            )
        self._expected = frozenset({deployment.replicas})

    # -- acting -------------------------------------------------------------------------------

    def _carry_out(
        self, sample: Sample, deployment: Deployment, seen: Observation, decision: Decision
    ) -> None:
        pause = pause_of(deployment.annotations)
        if pause:
            decision = _paused_decision(pause, seen)
        self._tell_about_state(sample, deployment, pause)
        self._journal.decided(decision.action, "paused" if pause else decision.cause)
        self._publish(sample, seen, decision, paused=pause is not None)
        if decision.replicas != deployment.replicas:
            self._change(sample, deployment, decision)
        elif self._dry_run:
            self._told.pop(Reason.WOULD_SCALE, None)
        self._set_asleep(seen, decision, pause)

    def _change(self, sample: Sample, deployment: Deployment, decision: Decision) -> None:
        if self._clock() - sample.at_s > STALE_S + self._interval_s:
            return
        before, after = deployment.replicas, decision.replicas
        message = f"{before} -> {after} replicas: {decision.reason}"
        if self._dry_run:
            self._tell_once(deployment, Reason.WOULD_SCALE, (before, after), message)
            return
        if after < before and self.model.deletion_cost:
            self._mark_pods(sample)
        with self._leadership.acting() as allowed:
            if not allowed:
                return
            # Where the answer gets lost, both are no surprise.
            self._expected = frozenset({before, after})
            self._cluster.set_replicas(deployment, after)
        self._expected = frozenset({after})
        self._journal.tell(deployment, reason_of(before, after), message)

    def _mark_pods(self, sample: Sample) -> None:
        """Have idle pods go first. Where this fails, the scale-down goes on all the same."""
        if sample.reading is None:
            return
        snapshot = sample.reading.snapshots[self.model.queue]
        try:
            costs = deletion_costs(self._cluster.pods(self.model.pod_selector), snapshot)
            for pod, cost in costs.items():
                with self._leadership.acting() as allowed:
                    if allowed:
                        self._cluster.set_deletion_cost(pod, cost)
        except ClusterError as error:
            self._journal.error("api")
            self._journal.log(logging.WARNING, "pods are not marked: %s", error)

    def _set_asleep(self, seen: Observation, decision: Decision, pause: Pause | None) -> None:
        idle = seen.known and seen.backlog + seen.in_flight == 0
        at_zero = seen.replicas == 0 == decision.replicas
        if at_zero and idle and not pause and self._leadership.leading():
            self.asleep.set()
        else:
            self.asleep.clear()

    # -- saying -------------------------------------------------------------------------------

    def _tell_about_state(
        self, sample: Sample, deployment: Deployment, pause: Pause | None
    ) -> None:
        self._blind = self._blind + 1 if sample.reading is None else 0
        blind = self._blind >= BLIND_STEPS
        message = f"the queue cannot be read, the replicas stay as they are: {sample.problem}"
        self._tell_once(deployment, Reason.METRICS_UNAVAILABLE, blind, message)
        words = pause.words if pause else ""
        self._tell_once(deployment, Reason.PAUSED, words, f"paused by {words}")

    def _tell_once(self, about: Deployment, reason: Reason, state: object, message: str) -> None:
        """Write an event when ``state`` changes to something that is true."""
        if state and self._told.get(reason) != state:
            self._journal.tell(about, reason, message)
        self._told[reason] = state

    def _publish(
        self, sample: Sample, seen: Observation, decision: Decision, *, paused: bool
    ) -> None:
        known = sample.reading is not None
        self.report = Report(
            mode=self._mode(known=known, paused=paused),
            seen=seen,
            decision=decision,
            problem=sample.problem,
            leader=self._leadership.leading(),
            paused=paused,
            dry_run=self._dry_run,
            success_at=time.time() if known else self.report.success_at,
        )

    def _mode(self, *, known: bool, paused: bool) -> Mode:
        if not known:
            return Mode.UNKNOWN_REDIS
        if paused:
            return Mode.PAUSED
        if not self._leadership.leading():
            return Mode.FOLLOWER
        return Mode.DRY_RUN if self._dry_run else Mode.KNOWN

    # -- failing ------------------------------------------------------------------------------

    def _note_failure(self, error: ClusterError) -> None:
        self.asleep.clear()
        self._journal.error(source_of(error))
        if self.trouble.add(error):
            self._journal.log(logging.ERROR, "nothing is changed until it is mended: %s", error)
        if isinstance(error, ClusterForbidden):
            self._may = self._dry_run
            self._tell_once(self._about, Reason.RBAC_DENIED, str(error), str(error))
        self.report = replace(
            self.report,
            mode=Mode.UNKNOWN_API,
            seen=None,
            decision=None,
            problem=str(error),
            leader=self._leadership.leading(),
        )

    def _note_success(self) -> None:
        if self.trouble.over():
            self._journal.log(logging.INFO, "the API answers again")
        self._told.pop(Reason.RBAC_DENIED, None)


def _paused_decision(pause: Pause, seen: Observation) -> Decision:
    wanted = seen.replicas if pause.replicas is None else pause.replicas
    change = wanted - seen.replicas
    action = Action.UP if change > 0 else Action.DOWN if change < 0 else Action.HOLD
    return Decision(replicas=wanted, raw=None, action=action, reason=f"paused by {pause.words}")
