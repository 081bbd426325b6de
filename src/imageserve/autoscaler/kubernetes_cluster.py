"""The Cluster on the Kubernetes API; the only door to the kubernetes library.

The library sends, authenticates and refreshes tokens; its models are left aside, as what is needed
is a few fields of plain JSON, the same in every version of it. Every call has timeouts (the library
has none of its own) and is sent once: urllib3 would sleep through a Retry-After by itself.
"""

import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from imageserve.autoscaler.cluster import Deployment, LeaseRecord, Pod
from imageserve.errors import (
    ClusterConflict,
    ClusterError,
    ClusterForbidden,
    ClusterMissing,
    ClusterUnavailable,
    SettingsError,
)

log = logging.getLogger(__name__)

READ_TIMEOUT_S = (3.0, 10.0)
"""To connect, and between two pieces of an answer."""

WRITE_TIMEOUT_S = (2.0, 3.0)
"""A leader that begins a write as its leadership ends is through before another may lead."""

COMPONENT = "imageserve-autoscaler"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_MESSAGE_CHARACTERS = 1000


class KubernetesCluster:
    """One namespace of a cluster. Safe to share between threads."""

    def __init__(self, api: Any, namespace: str, instance: str = "") -> None:
        """Use the library's ApiClient ``api``; ``instance`` is this process's name in events."""
        self.namespace = namespace
        self._instance = instance or COMPONENT
        self._apps = client.AppsV1Api(api)
        self._core = client.CoreV1Api(api)
        self._events = client.EventsV1Api(api)
        self._leases = client.CoordinationV1Api(api)
        self._told: dict[tuple[str, str, str], tuple[str, int]] = {}

    def deployment(self, name: str) -> Deployment:
        found = self._get("deployments", name, self._apps.read_namespaced_deployment)
        return _deployment(found)

    def scale(self, name: str) -> int:
        found = self._get("deployments/scale", name, self._apps.read_namespaced_deployment_scale)
        return int(found["spec"].get("replicas", 0))

    def set_replicas(self, deployment: Deployment, replicas: int, *, dry_run: bool = False) -> None:
        body = {
            "metadata": {"resourceVersion": deployment.version},
            "spec": {"replicas": replicas},
        }
        self._patch(
            "deployments/scale",
            deployment.name,
            self._apps.patch_namespaced_deployment_scale,
            body,
            field_manager=COMPONENT,
            **({"dry_run": "All"} if dry_run else {}),
        )

    def pods(self, selector: str) -> Sequence[Pod]:
        found = self._call(
            "list pods",
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=selector,
        )
        alive = [each for each in found["items"] if "deletionTimestamp" not in each["metadata"]]
        return [_pod(each) for each in alive]

    def set_deletion_cost(self, pod: str, cost: int) -> None:
        body = {"metadata": {"annotations": {DELETION_COST: str(cost)}}}
        self._patch("pods", pod, self._core.patch_namespaced_pod, body, field_manager=COMPONENT)

    def event(self, about: Deployment, reason: str, message: str, *, warning: bool) -> None:
        message = message[:_MESSAGE_CHARACTERS]
        kind = "Warning" if warning else "Normal"
        if not self._repeat(about, reason, message):
            self._new_event(about, reason, message, kind)

    def _repeat(self, about: Deployment, reason: str, message: str) -> bool:
        """Count an event that was written before once more; False where there is none."""
        key = (about.uid, reason, message)
        if key not in self._told:
            return False
        name, count = self._told.pop(key)
        body = {"count": count + 1, "lastTimestamp": _now()}
        try:
            self._patch("events", name, self._core.patch_namespaced_event, body)
        except ClusterMissing:
            return False  # Events live for an hour or so.
        self._told[key] = (name, count + 1)
        return True

    def _new_event(self, about: Deployment, reason: str, message: str, kind: str) -> None:
        name = f"{about.name}.{uuid.uuid4().hex[:16]}"
        try:
            body = self._core_event(name, about, reason, message, kind)
            self._create("events", self._core.create_namespaced_event, body)
        except ClusterForbidden:
            # Some clusters give the right for one of the two API groups only.
            body = self._new_style_event(name, about, reason, message, kind)
            self._create("events.events.k8s.io", self._events.create_namespaced_event, body)
            return
        if len(self._told) >= 1000:
            self._told.clear()
        self._told[(about.uid, reason, message)] = (name, 1)

    def _core_event(
        self, name: str, about: Deployment, reason: str, message: str, kind: str
    ) -> dict[str, Any]:
        now = _now()
        return {
            "metadata": {"name": name, "namespace": self.namespace},
            "involvedObject": self._reference(about),
            "reason": reason,
            "message": message,
            "type": kind,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
        }

    def _new_style_event(
        self, name: str, about: Deployment, reason: str, message: str, kind: str
    ) -> dict[str, Any]:
        return {
            "metadata": {"name": name, "namespace": self.namespace},
            "regarding": self._reference(about),
            "reason": reason,
            "action": reason,
            "note": message,
            "type": kind,
            "eventTime": _now(),
            "reportingController": COMPONENT,
            "reportingInstance": self._instance,
        }

    def _reference(self, about: Deployment) -> dict[str, str]:
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": about.name,
            "namespace": self.namespace,
            "uid": about.uid,
        }

    def lease(self, name: str) -> LeaseRecord:
        # In short: who waits for a hung answer neither renews nor takes over.
        read = self._leases.read_namespaced_lease
        return _lease(self._get("leases", name, read, _request_timeout=WRITE_TIMEOUT_S))

    def write_lease(self, name: str, record: LeaseRecord, version: str) -> LeaseRecord:
        body = {
            "metadata": {"resourceVersion": version},
            "spec": {
                "holderIdentity": record.holder,
                "leaseDurationSeconds": record.duration_s,
                "acquireTime": record.acquired,
                "renewTime": record.renewed,
                "leaseTransitions": record.transitions,
            },
        }
        patch = self._leases.patch_namespaced_lease
        return _lease(self._patch("leases", name, patch, body, field_manager=COMPONENT))

    def _get(self, resource: str, name: str, function: Callable[..., Any], **options: Any) -> Any:
        return self._call(f"get {resource} {name}", function, name, self.namespace, **options)

    def _patch(
        self,
        resource: str,
        name: str,
        function: Callable[..., Any],
        body: Mapping[str, Any],
        **options: str,
    ) -> Any:
        what = f"patch {resource} {name}"
        options_ = {**options, "_request_timeout": WRITE_TIMEOUT_S}
        return self._call(what, function, name, self.namespace, body, **options_)

    def _create(self, resource: str, function: Callable[..., Any], body: Mapping[str, Any]) -> None:
        self._call(
            f"create {resource}",
            function,
            self.namespace,
            body,
            _request_timeout=WRITE_TIMEOUT_S,
        )

    def _call(self, what: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Send one request; ``what`` is its verb, resource and name, for the error."""
        options = {"_request_timeout": READ_TIMEOUT_S, **options, "_preload_content": False}
        try:
            return json.loads(function(*args, **options).data)
        except ApiException as error:
            raise _translated(error, what, self.namespace) from error
        except (HTTPError, OSError, ValueError, ConfigException) as error:
            raise ClusterUnavailable(f"no answer to {what}: {error}") from error


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
            "no cluster to talk to: this is no pod with a service account's token, and the "
            f"kubeconfig cannot be used: {error}"
        ) from error
    settings.retries = cast(Any, False)
    settings.connection_pool_maxsize = 16
    return KubernetesCluster(client.ApiClient(settings), namespace, instance)


def _namespace_of_context(kubeconfig: str | None) -> str:
    _, active = config.list_kube_config_contexts(kubeconfig)
    return str(active["context"].get("namespace") or "default")


def _translated(error: Any, what: str, namespace: str) -> ClusterError:
    """Return our own error for one of the library's; the API's own words are kept."""
    said = f"{what} in namespace {namespace}: {_message(error)}"
    if error.status == 403:
        verb, resource = what.split()[:2]
        return ClusterForbidden(f"may not {verb} {resource}: give the Role this verb ({said})")
    if error.status == 404:
        return ClusterMissing(f"not there: {said}")
    if error.status == 409:
        return ClusterConflict(f"changed meanwhile: {said}")
    if error.status in (401, 429) or not error.status or error.status >= 500:
        return ClusterUnavailable(f"not now: {said}", retry_after_s=_retry_after_s(error))
    return ClusterError(f"refused: {said}")


def _message(error: Any) -> str:
    try:
        return f"{error.status} {json.loads(error.body)['message']}"
    except (ValueError, TypeError, KeyError):
        return f"{error.status} {error.reason}"


def _retry_after_s(error: Any) -> float | None:
    text = str((error.headers or {}).get("Retry-After", ""))
    return float(text) if text.isdecimal() else None


def _deployment(found: Any) -> Deployment:
    metadata = found["metadata"]
    return Deployment(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        version=metadata["resourceVersion"],
        replicas=int(found["spec"].get("replicas", 1)),
        ready=int(found.get("status", {}).get("readyReplicas", 0)),
        annotations=metadata.get("annotations") or {},
    )


def _pod(found: Any) -> Pod:
    metadata, status = found["metadata"], found.get("status", {})
    conditions = {each["type"]: each for each in status.get("conditions") or []}
    ready = conditions.get("Ready", {})
    scheduled = conditions.get("PodScheduled", {})
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        created_s=_seconds(metadata["creationTimestamp"]),
        ready_s=_seconds(ready["lastTransitionTime"]) if ready.get("status") == "True" else None,
        unschedulable=scheduled.get("status") == "False"
        and scheduled.get("reason") == "Unschedulable",
        deletion_cost=_whole((metadata.get("annotations") or {}).get(DELETION_COST, "0")),
    )


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0  # Kubernetes reads it so, too.


def _lease(found: Any) -> LeaseRecord:
    spec = found.get("spec") or {}
    return LeaseRecord(
        version=found["metadata"]["resourceVersion"],
        holder=spec.get("holderIdentity") or "",
        duration_s=spec.get("leaseDurationSeconds"),
        acquired=spec.get("acquireTime"),
        renewed=spec.get("renewTime"),
        transitions=spec.get("leaseTransitions") or 0,
    )


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
