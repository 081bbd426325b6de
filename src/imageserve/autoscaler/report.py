"""What one model's autoscaler last saw, decided and did: for metrics, ``explain`` and KEDA."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from imageserve.autoscaler.observation import Decision, Observation


class Mode(StrEnum):
    """What the numbers are worth, and what may be done about them."""

    KNOWN = "known"
    UNKNOWN_REDIS = "unknown (redis)"
    UNKNOWN_API = "unknown (api)"
    PAUSED = "paused"
    FOLLOWER = "follower"
    DRY_RUN = "dry-run"


@dataclass(frozen=True, slots=True)
class Report:
    """One model at one instant. A number that is not known is None, never 0."""

    mode: Mode = Mode.UNKNOWN_API
    seen: Observation | None = None
    """None while the Deployment cannot be read."""
    decision: Decision | None = None
    problem: str = ""
    """Why the mode is an unknown one."""
    leader: bool = False
    paused: bool = False
    dry_run: bool = False
    success_at: float | None = None
    """When all of it last went well, seconds since the epoch."""

    def gauges(self) -> Mapping[str, float]:
        """Return the metrics of this model, without those that are not known."""
        values: dict[str, float | None] = {
            **(_wanted(self.decision) if self.decision else {}),
            **(_pods(self.seen) if self.seen else {}),
            **(_queue(self.seen) if self.seen and self.seen.known else {}),
            "last_success_timestamp_seconds": self.success_at,
            "leader": self.leader,
            "paused": self.paused,
            "dry_run": self.dry_run,
        }
        known = {name: value for name, value in values.items() if value is not None}
        return {f"imageserve_autoscaler_{name}": float(value) for name, value in known.items()}

    def recommendation(self) -> dict[str, Any] | None:
        """Return what is wanted, as JSON has it; None where nothing can be said."""
        if self.decision is None or self.seen is None:
            return None
        return {
            "replicas": self.decision.replicas,
            "raw": self.decision.raw,
            "reason": self.decision.reason,
            "cause": self.decision.cause,
            "mode": self.mode,
            "current": self.seen.replicas,
            "ready": self.seen.ready,
        }


def _wanted(decision: Decision) -> dict[str, float | None]:
    return {
        "wanted_replicas": decision.replicas,
        "raw_replicas": decision.raw,
        "arrivals_per_second": decision.arrivals_per_s,
        "capacity_per_second": decision.capacity_per_s,
    }


def _pods(seen: Observation) -> dict[str, float | None]:
    return {
        "current_replicas": seen.replicas,
        "ready_replicas": seen.ready,
        "unschedulable_replicas": seen.unschedulable,
    }


def _queue(seen: Observation) -> dict[str, float | None]:
    return {
        "queue_waiting": seen.backlog,
        "queue_in_flight": seen.in_flight,
        "queue_oldest_seconds": seen.oldest_s,
    }
