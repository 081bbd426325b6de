"""A model of KEDA's redis scaler with the HorizontalPodAutoscaler that it creates.

Written from the documentation and the source of KEDA 2.20 and Kubernetes 1.36, all settings at
their defaults but those that are named here. What is left out makes it better than it is: metrics
arrive at once, nothing fails, and the two loops never wait for each other.
"""

import math
from collections import deque

from imageserve.autoscaler.simulator.scalers import Glance

SYNC_S = 15.0
"""``--horizontal-pod-autoscaler-sync-period``; KEDA reads the list anew at each one."""

POLL_S = 30.0
"""``pollingInterval``: of KEDA itself, which only goes from 0 to 1 and back."""

TOLERANCE = 0.1
"""``--horizontal-pod-autoscaler-tolerance``."""

DOWN_STABILIZATION_S = 300.0
"""``behavior.scaleDown.stabilizationWindowSeconds``; 0 upwards."""

UP_PERIOD_S, UP_FACTOR, UP_PODS = 15.0, 2, 4
"""``behavior.scaleUp.policies``: 100 % or 4 pods per 15 s, the higher one. Downwards 100 %."""


class Keda:
    """Scales on the length of the list, with or without the jobs in flight.

    ``list_length`` is the target of the trigger; ``cooldown_s`` its cooldownPeriod.
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

    def look(self, glance: Glance) -> int:
        """Do one sync of the HPA, and a poll of KEDA where one is due."""
        metric = glance.waiting + (glance.in_flight if self._count_in_flight else 0)
        replicas = glance.replicas
        if glance.now_s - self._polled_s >= POLL_S:
            self._polled_s = glance.now_s
            replicas = self._poll(glance.now_s, metric, replicas)
        if replicas == 0 or replicas != glance.replicas:
            return replicas  # At 0 the HPA is off; it sees what KEDA has set at its next sync.
        return self._sync(glance.now_s, metric, replicas)

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
        held = max(each for _, each in self._recommended)
        wanted = proposed if proposed > replicas else min(held, replicas)
        wanted = min(wanted, self._most(now_s, replicas))
        return min(max(wanted, 1, self._min), self._max)

    def _proposed(self, metric: int, replicas: int) -> int:
        """Divide by the target (AverageValue), unless that is nearly what there is."""
        if abs(metric / (self._list_length * replicas) - 1) <= TOLERANCE:
            return replicas
        return min(max(math.ceil(metric / self._list_length), 1, self._min), self._max)

    def _most(self, now_s: float, replicas: int) -> int:
        """Limit what is added within a period."""
        self._counts.append((now_s, replicas))
        while self._counts[0][0] <= now_s - UP_PERIOD_S:
            self._counts.popleft()
        before = min(each for _, each in self._counts)
        return max(before * UP_FACTOR, before + UP_PODS)
