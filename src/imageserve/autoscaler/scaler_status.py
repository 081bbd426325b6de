"""What the autoscaler publishes of one model: its status, events and log lines."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from imageserve import metrics
from imageserve.autoscaler.budget import Share
from imageserve.autoscaler.cluster import Deployment
from imageserve.autoscaler.decision import Decision, Observation
from imageserve.autoscaler.lease import Leadership
from imageserve.errors import ClusterError

if TYPE_CHECKING:
    from imageserve.autoscaler.kubernetes import KubernetesCluster

log = logging.getLogger(__name__)


class Mode(StrEnum):
    """Whether queue and Deployment can be read, and whether decisions are carried out."""

    KNOWN = "known"
    UNKNOWN_REDIS = "unknown (redis)"
    UNKNOWN_API = "unknown (api)"
    PAUSED = "paused"
    FOLLOWER = "follower"
    DRY_RUN = "dry-run"


@dataclass(frozen=True, slots=True)
class ScalerStatus:
    """One model after its last step: for metrics, ``explain``, KEDA. Unknown is None, never 0."""

    seen: Observation | None = None
    """None while the Deployment cannot be read."""
    decision: Decision | None = None
    share: Share | None = None
    """None where there is no budget."""
    problem: str = "not sized yet"
    """Why the mode is an unknown one; "" in any other."""
    leader: bool = False
    paused: bool = False
    dry_run: bool = False
    forecast: Mapping[str, Any] = field(default_factory=dict)
    """See `Foresight.facts`."""
    pod_start: Mapping[str, Any] = field(default_factory=dict)
    """See `start_facts`."""
    success_at: float | None = None
    """When queue and Deployment were last read, seconds since the epoch."""

    @property
    def mode(self) -> Mode:
        if self.seen is None:
            return Mode.UNKNOWN_API
        if not self.seen.known:
            return Mode.UNKNOWN_REDIS
        if self.paused:
            return Mode.PAUSED
        if not self.leader:
            return Mode.FOLLOWER
        return Mode.DRY_RUN if self.dry_run else Mode.KNOWN

    def gauges(self) -> Mapping[str, float]:
        """Return the metrics of this model, without those that are not known."""
        values: dict[str, float | None] = {
            "last_success_timestamp_seconds": self.success_at,
            "leader": self.leader,
            "paused": self.paused,
            "dry_run": self.dry_run,
        }
        if self.decision:
            values["wanted_replicas"] = self.decision.replicas
            values["raw_replicas"] = self.decision.raw
            values["arrivals_per_second"] = self.decision.arrivals_per_s
            values["capacity_per_second"] = self.decision.capacity_per_s
        if self.share:
            values["budget_gpus"] = self.share.budget
            values["budget_gpus_per_replica"] = self.share.gpus
            values["budget_claimed_replicas"] = self.share.wants
            values["budget_given_replicas"] = self.share.pods
        if self.seen:
            values["current_replicas"] = self.seen.replicas
            values["ready_replicas"] = self.seen.ready
            values["unschedulable_replicas"] = self.seen.unschedulable
        if self.seen and self.seen.known:
            values["queue_waiting"] = self.seen.waiting
            values["queue_in_flight"] = self.seen.in_flight
            values["queue_oldest_seconds"] = self.seen.oldest_s
        if self.forecast:
            values |= {name: self.forecast.get(of) for name, of in _FORECAST_GAUGES.items()}
        known = {name: value for name, value in values.items() if value is not None}
        return {f"imageserve_autoscaler_{name}": float(value) for name, value in known.items()}

    def start_gauges(self) -> Mapping[str, Mapping[str, float]]:
        """Return the metrics of each phase of a pod's start."""
        name = "imageserve_autoscaler_pod_start_phase_seconds"
        phases = self.pod_start.get("phases_s", {})
        return {phase: {name: seconds} for phase, seconds in phases.items()}

    def recommendation(self) -> dict[str, Any] | None:
        """Return this model's part of ``/recommendations``; None where there is no decision."""
        if self.decision is None or self.seen is None:
            return None
        return {
            "replicas": self.decision.replicas,
            "raw": self.decision.raw,
            "reason": self.decision.reason,
            "cause": self.decision.cause,
            "arrivals_per_s": self.decision.arrivals_per_s,
            "capacity_per_s": self.decision.capacity_per_s,
            "forecast": for_people(self.forecast),
            "mode": self.mode,
            "current": self.seen.replicas,
            "ready": self.seen.ready,
            "pod_start": self.pod_start,
            "budget": self.share.facts() if self.share else None,
        }


def for_people(forecast: Mapping[str, Any]) -> dict[str, Any]:
    """Return those facts of a forecast that ``explain`` prints."""
    return {name: forecast[name] for name in ("expects", "back_test", "known") if name in forecast}


_FORECAST_GAUGES = {
    "forecast_known_steps": "known_steps",
    "forecast_per_second": "per_s",
    "forecast_replicas": "pods",
    "forecast_tested": "tested",
    "forecast_right": "right",
    "forecast_saved_pictures": "saved",
    "forecast_replica_hours": "hours",
}


class EventReason(StrEnum):
    """The reasons of events: part of the interface, as people filter by them."""

    SCALED_UP = "ScaledUp"
    SCALED_DOWN = "ScaledDown"
    SCALED_TO_ZERO = "ScaledToZero"
    ACTIVATED = "Activated"
    WOULD_SCALE = "WouldScale"
    METRICS_UNAVAILABLE = "MetricsUnavailable"
    UNSCHEDULABLE = "Unschedulable"
    EXTERNAL_SCALE = "ExternalScale"
    PAUSED = "Paused"
    OVER_BUDGET = "OverBudget"
    RBAC_DENIED = "RBACDenied"


_WARNINGS = {
    EventReason.METRICS_UNAVAILABLE,
    EventReason.UNSCHEDULABLE,
    EventReason.EXTERNAL_SCALE,
    EventReason.RBAC_DENIED,
}


def reason_of(before: int, after: int) -> EventReason:
    """Return the reason of an event about a change of the replicas."""
    if before == 0:
        return EventReason.ACTIVATED
    if after == 0:
        return EventReason.SCALED_TO_ZERO
    return EventReason.SCALED_UP if after > before else EventReason.SCALED_DOWN


class ScalerEvents:
    """Writes events on one model's Deployment, log lines, and counters.

    Only the leader writes events, and a failure to write one never stops a step.
    """

    def __init__(self, model: str, cluster: "KubernetesCluster", leadership: Leadership) -> None:
        self._model = model
        self._cluster = cluster
        self._leadership = leadership
        self._states: dict[EventReason, object] = {}

    def write(self, about: Deployment, reason: EventReason, message: str) -> None:
        """Write an event, and a log line with the same text."""
        if not self._leadership.leading():
            return
        warning = reason in _WARNINGS
        level = logging.WARNING if warning else logging.INFO
        fields = {"model": self._model, "deployment": about.name, "event": reason.value}
        log.log(level, "%s", message, extra={"fields": fields})
        try:
            self._cluster.event(about, reason, message, warning=warning)
        except ClusterError as error:
            self.count_error("events")
            log.debug("event not written: %s", error)

    def write_change(
        self, about: Deployment, reason: EventReason, state: object, message: str
    ) -> None:
        """Write an event where ``state`` is truthy and differs from the last one."""
        if state and self._states.get(reason) != state:
            self.write(about, reason, message)
        self._states[reason] = state

    def forget_state(self, reason: EventReason) -> None:
        """Let ``write_change`` write the same state again."""
        self._states.pop(reason, None)

    def count_error(self, source: str) -> None:
        metrics.autoscaler_errors_total.labels(self._model, source).inc()

    def log(self, level: int, message: str, *args: object) -> None:
        """Write a log line about this model."""
        log.log(level, message, *args, extra={"fields": {"model": self._model}})
