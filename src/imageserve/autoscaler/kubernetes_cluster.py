"""The Cluster on the Kubernetes API; the only door to the kubernetes library.

The library sends, authenticates and refreshes tokens; its models are left aside, as what is needed
is a few fields of plain JSON, the same in every version of it. Every call has timeouts (the library
has none of its own) and is sent once: urllib3 would sleep through a Retry-After by itself.
"""

import json
import logging
import os
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from imageserve.autoscaler.cluster import Deployment, LeaseRecord, Pod
from imageserve.autoscaler.kubernetes_objects import (
    COMPONENT,
    Object,
    core_event,
    deletion_cost_body,
    lease_body,
    new_style_event,
    read_deployment,
    read_lease,
    read_pods,
    read_scale,
    reference,
    scale_body,
)
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

PATCH_TYPE = "application/merge-patch+json"
"""Said with each patch: the library would guess, and creates without saying a type at all."""

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
        read = self._apps.read_namespaced_deployment
        return read_deployment(self._get("deployments", name, read))

    def scale(self, name: str) -> int:
        read = self._apps.read_namespaced_deployment_scale
        return read_scale(self._get("deployments/scale", name, read))

    def set_replicas(self, deployment: Deployment, replicas: int, *, dry_run: bool = False) -> None:
        self._patch(
            "deployments/scale",
            deployment.name,
            self._apps.patch_namespaced_deployment_scale,
            scale_body(deployment, replicas),
            **({"dry_run": "All"} if dry_run else {}),
        )

    def pods(self, selector: str) -> Sequence[Pod]:
        found = self._call(
            "list pods",
            self._core.list_namespaced_pod,
            self.namespace,
            label_selector=selector,
        )
        return read_pods(found)

    def set_deletion_cost(self, pod: str, cost: int) -> None:
        self._patch("pods", pod, self._core.patch_namespaced_pod, deletion_cost_body(cost))

    def event(self, about: Deployment, reason: str, message: str, *, warning: bool) -> None:
        message = message[:_MESSAGE_CHARACTERS]
        kind = "Warning" if warning else "Normal"
        if not self._repeat(about, reason, message):
            self._new_event(about, reason, message, kind)

    def _repeat(self, about: Deployment, reason: str, message: str) -> bool:
        """Count an event that was written before once more; False where there is none."""
        key = (about.uid, reason, message)
        # In one step: another model's thread may empty the memory.
        told = self._told.pop(key, None)
        if told is None:
            return False
        name, count = told
        body = {"count": count + 1, "lastTimestamp": _now()}
        try:
            self._patch("events", name, self._core.patch_namespaced_event, body)
        except ClusterMissing:
            return False  # Events live for an hour or so.
        self._told[key] = (name, count + 1)
        return True

    def _new_event(self, about: Deployment, reason: str, message: str, kind: str) -> None:
        name = f"{about.name}.{uuid.uuid4().hex[:16]}"
        told = (reference(about, self.namespace), reason, message, kind, _now())
        try:
            self._create_event("events", name, self._core, core_event(*told))
        except ClusterForbidden:
            # Some clusters give the right for one of the two API groups only.
            self._create_event("events.events.k8s.io", name, self._events, new_style_event(*told))
            return
        if len(self._told) >= 1000:
            self._told.clear()
        self._told[(about.uid, reason, message)] = (name, 1)

    def _create_event(self, resource: str, name: str, group: Any, event: Object) -> None:
        metadata = {"name": name, "namespace": self.namespace}
        self._call(
            f"create {resource}",
            group.create_namespaced_event,
            self.namespace,
            {"metadata": metadata, "reportingInstance": self._instance, **event},
            **_write_options(),
            _headers={"Content-Type": "application/json"},
        )

    def lease(self, name: str) -> LeaseRecord:
        # In short: who waits for a hung answer neither renews nor takes over.
        read = self._leases.read_namespaced_lease
        return read_lease(self._get("leases", name, read, _request_timeout=WRITE_TIMEOUT_S))

    def write_lease(self, name: str, record: LeaseRecord, version: str) -> LeaseRecord:
        patch = self._leases.patch_namespaced_lease
        return read_lease(self._patch("leases", name, patch, lease_body(record, version)))

    def _get(self, resource: str, name: str, function: Callable[..., Any], **options: Any) -> Any:
        return self._call(f"get {resource} {name}", function, name, self.namespace, **options)

    def _patch(
        self,
        resource: str,
        name: str,
        function: Callable[..., Any],
        body: Object,
        **options: str,
    ) -> Any:
        what = f"patch {resource} {name}"
        options_ = {**_write_options(), "_content_type": PATCH_TYPE, **options}
        return self._call(what, function, name, self.namespace, body, **options_)

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
            "no cluster to talk to: this is no pod with a service account's token, and the "
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


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
