"""Says what the autoscaler does with one model: events on its Deployment, log lines, counters.

Only the leader writes events, and a failed event never stops anything.
"""

import logging
from enum import StrEnum

from imageserve import metrics
from imageserve.autoscaler.cluster import Cluster, Deployment
from imageserve.autoscaler.lease import Leadership
from imageserve.errors import ClusterError

log = logging.getLogger(__name__)


class Reason(StrEnum):
    """The reasons of events: stable words to filter by."""

    SCALED_UP = "ScaledUp"
    SCALED_DOWN = "ScaledDown"
    SCALED_TO_ZERO = "ScaledToZero"
    ACTIVATED = "Activated"
    WOULD_SCALE = "WouldScale"
    METRICS_UNAVAILABLE = "MetricsUnavailable"
    UNSCHEDULABLE = "Unschedulable"
    EXTERNAL_SCALE = "ExternalScale"
    PAUSED = "Paused"
    RBAC_DENIED = "RBACDenied"


_WARNINGS = {
    Reason.METRICS_UNAVAILABLE,
    Reason.UNSCHEDULABLE,
    Reason.EXTERNAL_SCALE,
    Reason.RBAC_DENIED,
}


def reason_of(before: int, after: int) -> Reason:
    """Return the reason of an event about a change of the replicas."""
    if before == 0:
        return Reason.ACTIVATED
    if after == 0:
        return Reason.SCALED_TO_ZERO
    return Reason.SCALED_UP if after > before else Reason.SCALED_DOWN


class Journal:
    """The journal of one model."""

    def __init__(self, model: str, cluster: Cluster, leadership: Leadership) -> None:
        self._model = model
        self._cluster = cluster
        self._leadership = leadership

    def tell(self, about: Deployment, reason: Reason, message: str) -> None:
        """Write an event, and a log line with the same words."""
        if not self._leadership.leading():
            return
        warning = reason in _WARNINGS
        level = logging.WARNING if warning else logging.INFO
        fields = {"model": self._model, "deployment": about.name, "event": reason.value}
        log.log(level, "%s", message, extra={"fields": fields})
        try:
            self._cluster.event(about, reason, message, warning=warning)
        except ClusterError as error:
            self.error("events")
            log.debug("no event: %s", error)

    def decided(self, action: str, reason: str) -> None:
        """Count a decision."""
        metrics.autoscaler_decisions_total.labels(self._model, action, reason).inc()

    def error(self, source: str) -> None:
        """Count a failure."""
        metrics.autoscaler_errors_total.labels(self._model, source).inc()

    def started(self, seconds: float) -> None:
        """Count a pod's start."""
        metrics.autoscaler_pod_start_seconds.labels(self._model).observe(seconds)

    def log(self, level: int, message: str, *args: object) -> None:
        """Write a log line about this model."""
        log.log(level, message, *args, extra={"fields": {"model": self._model}})
