"""The calls to the Kubernetes API, and its objects as JSON. Only here is kubernetes used.

The library sends, authenticates and refreshes tokens. Its models are not used: a few fields of JSON
are needed, the same in every version of it. Every request has a timeout, which the library does not
set, and is sent once, as urllib3 would wait for a Retry-After inside the call.
"""

import json
import os
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from imageserve.autoscaler.cluster import Deployment, LeaseRecord, Pod
from imageserve.autoscaler.pod_start import StartStamps
from imageserve.errors import (
    ClusterConflict,
    ClusterError,
    ClusterForbidden,
    ClusterMissing,
    ClusterUnavailable,
    SettingsError,
)

COMPONENT = "imageserve-autoscaler"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

READ_TIMEOUT_S = (3.0, 10.0)
"""To connect, and between two parts of an answer."""

WRITE_TIMEOUT_S = (2.0, 3.0)
"""A write that begins just before leadership ends is over before another process may lead."""

_MESSAGE_CHARACTERS = 1000
_EVENTS_REMEMBERED = 1000

Object = dict[str, Any]


class KubernetesCluster:
    """One namespace of a cluster. Safe to share between threads.

    Each call ends within its timeout and may raise ClusterError.
    """

    def __init__(self, api: Any, namespace: str, instance: str = "") -> None:
        """Use the library's ApiClient ``api``; ``instance`` names this process in events."""
        self.namespace = namespace
        self._instance = instance or COMPONENT
        self._apps = client.AppsV1Api(api)
        self._core = client.CoreV1Api(api)
        self._events = client.EventsV1Api(api)
        self._leases = client.CoordinationV1Api(api)
        self._written: dict[tuple[str, str, str], tuple[str, int]] = {}
        """Deployment, reason and message of an event -> its name and count."""

    def deployment(self, name: str) -> Deployment:
        read = self._apps.read_namespaced_deployment
        return _read_deployment(self._get("deployments", name, read))

    def scale(self, name: str) -> int:
        """Read the replicas of a Deployment through its scale subresource."""
        read = self._apps.read_namespaced_deployment_scale
        found = self._get("deployments/scale", name, read)
        return int((found.get("spec") or {}).get("replicas") or 0)

    def set_replicas(self, deployment: Deployment, replicas: int, *, dry_run: bool = False) -> None:
        """Set the replicas. Raises ClusterConflict where the Deployment has changed since its read.

        ``dry_run``: the API checks everything and changes nothing.
        """
        version = {"resourceVersion": deployment.version}
        body = {"metadata": version, "spec": {"replicas": replicas}}
        options = {"dry_run": "All"} if dry_run else {}
        patch = self._apps.patch_namespaced_deployment_scale
        self._patch("deployments/scale", deployment.name, patch, body, **options)

    def pods(self, selector: str) -> list[Pod]:
        """List the pods with these labels."""
        read = self._core.list_namespaced_pod
        found = self._call("list pods", read, self.namespace, label_selector=selector)
        return [_pod(each) for each in found.get("items") or []]

    def listed(self, resource: str, selector: str) -> list[Object]:
        """List ``deployments`` or ``pods`` with these labels, as the API gives them."""
        read = {
            "deployments": self._apps.list_namespaced_deployment,
            "pods": self._core.list_namespaced_pod,
        }[resource]
        found = self._call(f"list {resource}", read, self.namespace, label_selector=selector)
        return list(found.get("items") or [])

    def set_deletion_cost(self, pod: str, cost: int) -> None:
        body = {"metadata": {"annotations": {DELETION_COST: str(cost)}}}
        self._patch("pods", pod, self._core.patch_namespaced_pod, body)

    def event(self, about: Deployment, reason: str, message: str, *, warning: bool) -> None:
        """Write an event that ``kubectl describe deployment`` shows."""
        message = message[:_MESSAGE_CHARACTERS]
        kind = "Warning" if warning else "Normal"
        if not self._count_again(about, reason, message):
            self._create_event(about, reason, message, kind)

    def _count_again(self, about: Deployment, reason: str, message: str) -> bool:
        """Increase the count of the same event; returns False where there is none."""
        key = (about.uid, reason, message)
        # One step: a thread of another model may clear the dictionary.
        written = self._written.pop(key, None)
        if written is None:
            return False
        name, count = written
        body = {"count": count + 1, "lastTimestamp": _now()}
        try:
            self._patch("events", name, self._core.patch_namespaced_event, body)
        except ClusterMissing:
            return False  # Kubernetes deletes events after about an hour.
        self._written[key] = (name, count + 1)
        return True

    def _create_event(self, about: Deployment, reason: str, message: str, kind: str) -> None:
        name = f"{about.name}.{uuid.uuid4().hex[:16]}"
        common = {
            "metadata": {"name": name, "namespace": self.namespace},
            "reason": reason,
            "type": kind,
            "reportingInstance": self._instance,
        }
        regarding = _reference(about, self.namespace)
        try:
            self._create("events", self._core, {**common, **_core_event(regarding, message)})
        except ClusterForbidden:
            # Some clusters grant events of one of the two API groups only.
            event = {**common, **_new_style_event(regarding, reason, message)}
            self._create("events.events.k8s.io", self._events, event)
            return
        if len(self._written) >= _EVENTS_REMEMBERED:
            self._written.clear()
        self._written[(about.uid, reason, message)] = (name, 1)

    def _create(self, resource: str, group: Any, event: Object) -> None:
        # The library sets no content type for a create.
        options = {**_write_options(), "_headers": {"Content-Type": "application/json"}}
        create = group.create_namespaced_event
        self._call(f"create {resource}", create, self.namespace, event, **options)

    def lease(self, name: str) -> LeaseRecord:
        # With the short timeout: while this call hangs the Lease is neither renewed nor taken.
        read = self._leases.read_namespaced_lease
        return _read_lease(self._get("leases", name, read, _request_timeout=WRITE_TIMEOUT_S))

    def write_lease(self, name: str, record: LeaseRecord, version: str) -> LeaseRecord:
        """Write a Lease. Raises ClusterConflict where it is no longer at ``version``."""
        spec = {
            "holderIdentity": record.holder,
            "leaseDurationSeconds": record.duration_s,
            "acquireTime": record.acquired,
            "renewTime": record.renewed,
            "leaseTransitions": record.transitions,
        }
        body = {"metadata": {"resourceVersion": version}, "spec": spec}
        patch = self._leases.patch_namespaced_lease
        return _read_lease(self._patch("leases", name, patch, body))

    def _get(self, resource: str, name: str, function: Callable[..., Any], **options: Any) -> Any:
        return self._call(f"get {resource} {name}", function, name, self.namespace, **options)

    def _patch(
        self, resource: str, name: str, function: Callable[..., Any], body: Object, **options: str
    ) -> Any:
        what = f"patch {resource} {name}"
        # The library would guess the type of a patch.
        merge = {"_content_type": "application/merge-patch+json", **_write_options(), **options}
        return self._call(what, function, name, self.namespace, body, **merge)

    def _call(self, what: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Send one request; ``what`` is its verb, resource and name, for the error."""
        options = {"_request_timeout": READ_TIMEOUT_S, **options, "_preload_content": False}
        try:
            return json.loads(function(*args, **options).data)
        except ApiException as error:
            raise _translated(error, what, self.namespace) from error
        except (HTTPError, OSError, ValueError, ConfigException) as error:
            raise ClusterUnavailable(f"no answer to {what}: {error}") from error


def _write_options() -> dict[str, Any]:
    return {"field_manager": COMPONENT, "_request_timeout": WRITE_TIMEOUT_S}


def connect(
    namespace: str | None, instance: str = "", kubeconfig: str | None = None
) -> KubernetesCluster:
    """Connect to the cluster that this process runs in, else to the one of the kubeconfig.

    ``namespace``: None for the one of the kubeconfig's context. ``kubeconfig``: its path, None for
    that of KUBECONFIG. Nothing is sent yet.

    Raises SettingsError where there is neither.
    """
    settings = client.Configuration()
    try:
        if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(settings)
            namespace = namespace or "default"
        else:
            config.load_kube_config(kubeconfig, client_configuration=settings)
            namespace = namespace or _namespace_of_context(kubeconfig)
    except (ConfigException, OSError) as error:
        raise SettingsError(
            "no cluster to talk to: this is not a pod with a service account's token, and the "
            f"kubeconfig cannot be used: {error}"
        ) from error
    settings.retries = cast(Any, False)
    settings.connection_pool_maxsize = 16
    api = client.ApiClient(settings)
    api.user_agent = COMPONENT  # For the API's audit log.
    return KubernetesCluster(api, namespace, instance)


def _namespace_of_context(kubeconfig: str | None) -> str:
    _, active = config.list_kube_config_contexts(kubeconfig)
    return str(active["context"].get("namespace") or "default")


# -- errors -------------------------------------------------------------------------------------


def _translated(error: Any, what: str, namespace: str) -> ClusterError:
    """Return our own error for one of the library's, with the message of the API."""
    detail = f"{what} in namespace {namespace}: {_message(error)}"
    if error.status == 403:
        verb, resource = what.split()[:2]
        return ClusterForbidden(f"may not {verb} {resource}: add this verb to the Role ({detail})")
    if error.status == 404:
        return ClusterMissing(f"not found: {detail}")
    if error.status == 409:
        return ClusterConflict(f"changed since it was read: {detail}")
    if error.status in (401, 429) or not error.status or error.status >= 500:
        return ClusterUnavailable(f"unavailable: {detail}", retry_after_s=_retry_after_s(error))
    return ClusterError(f"refused: {detail}")


def _message(error: Any) -> str:
    try:
        return f"{error.status} {json.loads(error.body)['message']}"
    except (ValueError, TypeError, KeyError):
        return f"{error.status} {error.reason}"


def _retry_after_s(error: Any) -> float | None:
    text = str((error.headers or {}).get("Retry-After", ""))
    return float(text) if text.isdecimal() else None


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# -- objects as JSON ----------------------------------------------------------------------------
#
# To Kubernetes an absent field, null and an empty value mean the same, and which of them it sends
# depends on its version: each field is read so that they make no difference.


def _read_deployment(found: Object) -> Deployment:
    metadata, status = found["metadata"], found.get("status") or {}
    strategy = (found["spec"].get("strategy") or {}).get("rollingUpdate") or {}
    return Deployment(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        version=metadata["resourceVersion"],
        replicas=int(found["spec"].get("replicas", 1)),
        ready=int(status.get("readyReplicas") or 0),
        max_surge=strategy.get("maxSurge", "25%"),
        max_unavailable=strategy.get("maxUnavailable", "25%"),
        rollout=int(status.get("replicas") or 0) > int(status.get("updatedReplicas") or 0),
        annotations=metadata.get("annotations") or {},
    )


def _pod(found: Object) -> Pod:
    metadata, status = found["metadata"], found.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or []}
    scheduled = conditions.get("PodScheduled", {})
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        stamps=StartStamps(
            created_s=_seconds(metadata["creationTimestamp"]),
            scheduled_s=_since_s(scheduled),
            running_s=_running_s(status),
            ready_s=_first_ready_s(status, conditions.get("Ready", {})),
            init_s=_init_s(status),
        ),
        unschedulable=scheduled.get("status") == "False"
        and scheduled.get("reason") == "Unschedulable",
        deletion_cost=_int((metadata.get("annotations") or {}).get(DELETION_COST, "0")),
        # A pod that was evicted stays there for people to see, and takes no room.
        placed=bool((found.get("spec") or {}).get("nodeName"))
        and status.get("phase") not in ("Succeeded", "Failed"),
        leaving=bool(metadata.get("deletionTimestamp")),
    )


def _first_ready_s(status: Object, ready: Object) -> float | None:
    """Return when the pod became ready for the first time; None where that is not known.

    The condition has the last time only, which is a later one after a restart of a container.
    """
    restarts = sum(each.get("restartCount", 0) for each in status.get("containerStatuses") or [])
    return None if restarts else _since_s(ready)


def _since_s(condition: Object) -> float | None:
    """Return since when a condition holds; None where it does not, or does not say."""
    stamp = condition.get("lastTransitionTime")
    return _seconds(stamp) if stamp and condition.get("status") == "True" else None


def _running_s(status: Object) -> float | None:
    """Return when the container of the model began to run; None where it is not known.

    Of several the last counts: they run beside it, and the pod is ready after all of them.
    """
    states = [each.get("state") or {} for each in status.get("containerStatuses") or []]
    stamps = [(each.get("running") or {}).get("startedAt") for each in states]
    return max((_seconds(stamp) for stamp in stamps if stamp), default=None)


def _init_s(status: Object) -> float:
    """Return how long the init containers ran: only one runs at a time."""
    states = [each.get("state") or {} for each in status.get("initContainerStatuses") or []]
    ended = [each.get("terminated") or {} for each in states]
    return sum(
        max(0.0, _seconds(each["finishedAt"]) - _seconds(each["startedAt"]))
        for each in ended
        if each.get("startedAt") and each.get("finishedAt")
    )


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0  # As Kubernetes does.


def _read_lease(found: Object) -> LeaseRecord:
    spec = found.get("spec") or {}
    return LeaseRecord(
        version=found["metadata"]["resourceVersion"],
        holder=spec.get("holderIdentity") or "",
        duration_s=spec.get("leaseDurationSeconds"),
        acquired=spec.get("acquireTime"),
        renewed=spec.get("renewTime"),
        transitions=spec.get("leaseTransitions") or 0,
    )


def _core_event(about: Object, message: str) -> Object:
    """Return what only an event of the core API group has."""
    now = _now()
    return {
        "involvedObject": about,
        "message": message,
        "count": 1,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
    }


def _new_style_event(about: Object, action: str, message: str) -> Object:
    """Return what only an event of the group ``events.k8s.io`` has."""
    return {
        "regarding": about,
        "action": action,
        "note": message,
        "eventTime": _now(),
        "reportingController": COMPONENT,
    }


def _reference(deployment: Deployment, namespace: str) -> Object:
    """Return how an event refers to its Deployment; ``kubectl describe`` matches the uid."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": deployment.name,
        "namespace": namespace,
        "uid": deployment.uid,
    }
