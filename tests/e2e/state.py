"""Pure functions over the objects that kubectl prints."""

from collections.abc import Iterable, Iterator

from tests.chart.helm import Object
from tests.chart.objects import Labels, title

INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"


def selector(release: str, component: str = "") -> str:
    both = {INSTANCE: release, COMPONENT: component}
    return ",".join(f"{key}={value}" for key, value in both.items() if value)


def name_of(obj: Object) -> str:
    return str(obj["metadata"]["name"])


def is_leaving(pod: Object) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def unsettled(workloads: Iterable[Object], pods: Iterable[Object]) -> list[str]:
    """Return what a release still waits for: pods to be ready, or to be gone.

    The pods themselves are counted: the status of a Deployment lags behind.
    """
    present = list(pods)
    return [reason for each in workloads for reason in _reasons(each, present)]


def _reasons(workload: Object, pods: list[Object]) -> Iterator[str]:
    status, desired = workload.get("status", {}), workload["spec"]["replicas"]
    labels = workload["spec"]["selector"]["matchLabels"]
    mine = [pod for pod in pods if labels.items() <= labels_of(pod).items()]
    if status.get("observedGeneration", 0) < workload["metadata"]["generation"]:
        yield f"{title(workload)} has not been observed yet"
    if status.get("updatedReplicas", 0) != desired:
        yield f"{title(workload)}: {status.get('updatedReplicas', 0)} of {desired} pods are new"
    if sum(map(is_ready, mine)) != desired:
        yield f"{title(workload)}: {sum(map(is_ready, mine))} of {desired} pods are ready"
    yield from (f"{title(pod)} is leaving" for pod in mine if is_leaving(pod))


def labels_of(obj: Object) -> Labels:
    return obj["metadata"].get("labels") or {}


def restarts(pods: Iterable[Object]) -> dict[str, int]:
    """Return the pods whose containers were started more than once."""
    counts = {
        name_of(pod): sum(each["restartCount"] for each in pod["status"]["containerStatuses"])
        for pod in pods
    }
    return {name: count for name, count in counts.items() if count}


def listed_kinds(text: str) -> list[str]:
    """Read what ``kubectl api-resources --output=name`` prints.

    Kinds that the cluster writes by itself are left out: events and metrics.
    """
    kinds = [line.strip() for line in text.splitlines() if line.strip()]
    return [kind for kind in kinds if not _is_written_by_the_cluster(kind)]


def _is_written_by_the_cluster(kind: str) -> bool:
    name, _, group = kind.partition(".")
    return name == "events" or group.endswith("metrics.k8s.io")
