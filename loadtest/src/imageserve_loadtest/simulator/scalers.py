"""The scaling rules that are compared: imageserve's own, KEDA's, and a fixed fleet. Pure."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from imageserve.autoscaler.budget import Budget, claim_of
from imageserve.autoscaler.decision import Foreseen, Observation
from imageserve.autoscaler.foresight import Counted, foresight_of
from imageserve.autoscaler.load import capacity_per_s
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.sizing import State, size

BucketMs = Mapping[int, float]
"""Milliseconds of one model call by batch size."""

INTERVAL_S = 5.0
"""``interval_s`` of the autoscaler."""

WAKE_S = 0.1
"""From the first job at zero pods to the autoscaler's decision. Generous: on one machine it takes a
few milliseconds."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a scaler can see at one instant."""

    now_s: float
    waiting: int
    in_flight: int
    accepted: int
    rejected: int
    oldest_s: float
    replicas: int
    ready: int
    bucket_ms: BucketMs
    """Of live workers; empty where there are none."""
    pod_start_s: float | None
    """Measured; None before the first pod has started."""
    unschedulable: int = 0
    """Pods that have waited for room for a minute."""


class Scaler(Protocol):
    """One rule and its state, for one run."""

    @property
    def interval_s(self) -> float:
        """Seconds between two decisions."""

    @property
    def wake_s(self) -> float | None:
        """Seconds from the first job at zero pods to a decision; None: it waits for the next."""

    def decide(self, seen: Snapshot) -> int:
        """Return the wanted number of replicas."""


class Imageserve:
    """This project's autoscaler: it calls the same ``size`` as the real one.

    Its memory begins with the trace, which begins on a Thursday at midnight.
    """

    wake_s = WAKE_S

    def __init__(self, policy: Policy, interval_s: float = INTERVAL_S) -> None:
        self.interval_s = interval_s
        self._policy = policy
        self._state = State()
        self._foresight = foresight_of(policy, "", None)

    def decide(self, seen: Snapshot) -> int:
        decision, self._state = size(self._policy, self._state, self._observation(seen))
        return decision.replicas

    def _observation(self, seen: Snapshot) -> Observation:
        return Observation(
            now_s=seen.now_s,
            known=True,
            run="simulated",
            waiting=seen.waiting,
            in_flight=seen.in_flight,
            accepted=seen.accepted,
            rejected=seen.rejected,
            oldest_s=seen.oldest_s,
            bucket_ms=seen.bucket_ms,
            replicas=seen.replicas,
            ready=seen.ready,
            pod_start_s=seen.pod_start_s,
            foreseen=self._foreseen(seen),
            unschedulable=seen.unschedulable,
        )

    def _foreseen(self, seen: Snapshot) -> Foreseen | None:
        if self._foresight is None:
            return None
        count = Counted(seen.now_s, "simulated", seen.accepted + seen.rejected)
        self._foresight.count(count, leading=True)
        capacity = capacity_per_s(seen.bucket_ms, self._policy) or self._state.capacity_per_s
        start_s = seen.pod_start_s or self._policy.pod_start_s
        return self._foresight.foreseen(seen.now_s, capacity, start_s)


class Budgeted(Imageserve):
    """The autoscaler where several models share a budget. Each has one of these."""

    def __init__(self, policy: Policy, budget: Budget, name: str, gpus: int) -> None:
        super().__init__(policy)
        self._budget = budget
        self._name = name
        self._gpus = gpus

    def decide(self, seen: Snapshot) -> int:
        """Decide within the share. Nobody is woken: who has to give a pod does so at its turn."""
        observation = self._observation(seen)
        decision, state = size(self._policy, self._state, observation)
        claim = claim_of(self._policy, self._gpus, state, observation, decision, paused=False)
        share, _ = self._budget.claim(self._name, claim, seen.now_s)
        replicas = share.limited(observation, decision).replicas
        self._state = replace(state, decided=replicas)
        self._budget.scaled(self._name, replicas)
        return replicas


class FixedFleet:
    """A constant number of pods."""

    interval_s = 3600.0
    wake_s = None

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas

    def decide(self, seen: Snapshot) -> int:
        del seen
        return self._replicas


class Schedule:
    """Numbers of pods that were computed before; the last one holds to the end."""

    wake_s = None

    def __init__(self, pods: Sequence[int], interval_s: float) -> None:
        self._pods = pods
        self.interval_s = interval_s

    def decide(self, seen: Snapshot) -> int:
        """Return the number of the step that has just begun."""
        return self._pods[min(round(seen.now_s / self.interval_s), len(self._pods) - 1)]


# -- KEDA ---------------------------------------------------------------------------------------
# Written from the documentation and the source of KEDA 2.20 and Kubernetes 1.36, with defaults
# except for the settings named here. The simplifications favour KEDA: metrics arrive at once,
# nothing fails, and KEDA and the HPA never wait for each other.

SYNC_S = 15.0
"""``--horizontal-pod-autoscaler-sync-period``; KEDA reads the list at each sync."""

POLL_S = 30.0
"""``pollingInterval`` of KEDA, which only scales from 0 to 1 and back."""

TOLERANCE = 0.1
"""``--horizontal-pod-autoscaler-tolerance``."""

DOWN_STABILIZATION_S = 300.0
"""``behavior.scaleDown.stabilizationWindowSeconds``; 0 for scaleUp."""

UP_PERIOD_S, UP_FACTOR, UP_PODS = 15.0, 2, 4
"""``behavior.scaleUp.policies``: 100 % or 4 pods per 15 s, the larger; scaleDown 100 %."""


class Keda:
    """KEDA's redis scaler and its HorizontalPodAutoscaler.

    They scale on the length of the list, with or without the jobs in flight. ``list_length`` is the
    trigger's target, ``cooldown_s`` its cooldownPeriod.
    """

    interval_s = SYNC_S
    wake_s = None

    def __init__(
        self,
        list_length: int,
        *,
        count_in_flight: bool,
        min_replicas: int,
        max_replicas: int,
        cooldown_s: float,
    ) -> None:
        self._list_length = list_length
        self._count_in_flight = count_in_flight
        self._min = min_replicas
        self._max = max_replicas
        self._cooldown_s = cooldown_s
        self._active_s: float | None = None
        self._polled_s = -math.inf
        self._recommended: deque[tuple[float, int]] = deque()
        self._counts: deque[tuple[float, int]] = deque()

    def decide(self, seen: Snapshot) -> int:
        """Do one sync of the HPA, and a poll of KEDA if one is due."""
        metric = seen.waiting + (seen.in_flight if self._count_in_flight else 0)
        replicas = seen.replicas
        if seen.now_s - self._polled_s >= POLL_S:
            self._polled_s = seen.now_s
            replicas = self._poll(seen.now_s, metric, replicas)
        if replicas == 0 or replicas != seen.replicas:
            return replicas  # The HPA is off at 0, and sees what KEDA has set at its next sync.
        return self._sync(seen.now_s, metric, replicas)

    def _poll(self, now_s: float, metric: int, replicas: int) -> int:
        """Activate and deactivate. ``activationListLength`` is 0: active means more than that."""
        if metric > 0 or self._active_s is None:
            self._active_s = now_s
        if metric > 0 and replicas == 0:
            return max(1, self._min)
        idle_s = now_s - self._active_s
        if metric == 0 and self._min == 0 and idle_s >= self._cooldown_s:
            self._recommended.clear()
            return 0
        return replicas

    def _sync(self, now_s: float, metric: int, replicas: int) -> int:
        if not self._recommended:
            self._recommended.append((now_s, replicas))
        proposed = self._proposed(metric, replicas)
        self._recommended.append((now_s, proposed))
        while self._recommended[0][0] <= now_s - DOWN_STABILIZATION_S:
            self._recommended.popleft()
        stabilized = max(each for _, each in self._recommended)
        wanted = proposed if proposed > replicas else min(stabilized, replicas)
        wanted = min(wanted, self._scale_up_limit(now_s, replicas))
        return min(max(wanted, 1, self._min), self._max)

    def _proposed(self, metric: int, replicas: int) -> int:
        """Divide the metric by the target (AverageValue), unless it is within the tolerance."""
        if abs(metric / (self._list_length * replicas) - 1) <= TOLERANCE:
            return replicas
        return min(max(math.ceil(metric / self._list_length), 1, self._min), self._max)

    def _scale_up_limit(self, now_s: float, replicas: int) -> int:
        self._counts.append((now_s, replicas))
        while self._counts[0][0] <= now_s - UP_PERIOD_S:
            self._counts.popleft()
        before = min(each for _, each in self._counts)
        return max(before * UP_FACTOR, before + UP_PODS)
