"""Objects of the Kubernetes API as plain JSON, to and from our own values. Pure.

A field that is absent, null or empty means the same to Kubernetes, and what is written for absent
changes with its versions: each is read so that it makes no difference.
"""

from datetime import datetime
from typing import Any

from imageserve.autoscaler.cluster import Deployment, LeaseRecord, Pod

COMPONENT = "imageserve-autoscaler"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

Object = dict[str, Any]


def read_deployment(found: Object) -> Deployment:
    """Read a Deployment."""
    metadata = found["metadata"]
    return Deployment(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        version=metadata["resourceVersion"],
        replicas=int(found["spec"].get("replicas", 1)),
        ready=int((found.get("status") or {}).get("readyReplicas") or 0),
        annotations=metadata.get("annotations") or {},
    )


def read_scale(found: Object) -> int:
    """Read the replicas of a Scale."""
    return int((found.get("spec") or {}).get("replicas") or 0)


def scale_body(deployment: Deployment, replicas: int) -> Object:
    """Return what sets the replicas, and nothing where the Deployment has changed."""
    return {"metadata": {"resourceVersion": deployment.version}, "spec": {"replicas": replicas}}


def read_pods(found: Object) -> list[Pod]:
    """Read a list of pods, without those that are about to end."""
    items = found.get("items") or []
    return [_pod(each) for each in items if not each["metadata"].get("deletionTimestamp")]


def _pod(found: Object) -> Pod:
    metadata, status = found["metadata"], found.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or []}
    scheduled = conditions.get("PodScheduled", {})
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        created_s=_seconds(metadata["creationTimestamp"]),
        ready_s=_first_ready_s(status, conditions.get("Ready", {})),
        unschedulable=scheduled.get("status") == "False"
        and scheduled.get("reason") == "Unschedulable",
        deletion_cost=_whole((metadata.get("annotations") or {}).get(DELETION_COST, "0")),
    )


def _first_ready_s(status: Object, ready: Object) -> float | None:
    """Return when the pod was ready for the first time, as far as that is known.

    The condition tells of the last time only: another one, where a container was started again.
    """
    restarts = sum(each.get("restartCount", 0) for each in status.get("containerStatuses") or [])
    stamp = ready.get("lastTransitionTime")
    return _seconds(stamp) if stamp and ready.get("status") == "True" and not restarts else None


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0  # Kubernetes reads it so, too.


def deletion_cost_body(cost: int) -> Object:
    """Return what marks a pod."""
    return {"metadata": {"annotations": {DELETION_COST: str(cost)}}}


def read_lease(found: Object) -> LeaseRecord:
    """Read a Lease, held or not."""
    spec = found.get("spec") or {}
    return LeaseRecord(
        version=found["metadata"]["resourceVersion"],
        holder=spec.get("holderIdentity") or "",
        duration_s=spec.get("leaseDurationSeconds"),
        acquired=spec.get("acquireTime"),
        renewed=spec.get("renewTime"),
        transitions=spec.get("leaseTransitions") or 0,
    )


def lease_body(record: LeaseRecord, version: str) -> Object:
    """Return what writes a Lease, and nothing where it is no longer at ``version``."""
    return {
        "metadata": {"resourceVersion": version},
        "spec": {
            "holderIdentity": record.holder,
            "leaseDurationSeconds": record.duration_s,
            "acquireTime": record.acquired,
            "renewTime": record.renewed,
            "leaseTransitions": record.transitions,
        },
    }


def core_event(about: Object, reason: str, message: str, kind: str, now: str) -> Object:
    """Return an event of the core API group, without its name and its writer's."""
    return {
        "involvedObject": about,
        "reason": reason,
        "message": message,
        "type": kind,
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
    }


def new_style_event(about: Object, reason: str, message: str, kind: str, now: str) -> Object:
    """Return an event of the group ``events.k8s.io``, without its name and its writer's."""
    return {
        "regarding": about,
        "reason": reason,
        "action": reason,
        "note": message,
        "type": kind,
        "eventTime": now,
        "reportingController": COMPONENT,
    }


def reference(deployment: Deployment, namespace: str) -> Object:
    """Return how an event names its Deployment; ``kubectl describe`` looks for the uid."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": deployment.name,
        "namespace": namespace,
        "uid": deployment.uid,
    }
