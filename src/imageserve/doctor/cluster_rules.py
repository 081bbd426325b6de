"""What is wrong with Deployments and pods. Pure: they come as Kubernetes gives them."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from imageserve.autoscaler.cluster import pause_of
from imageserve.doctor.facts import Facts, Found, Object

BY_HAND = ("kubectl-edit", "kubectl-patch", "kubectl-set")
"""Field managers of people's commands. A restart, ``kubectl-rollout``, changes no value."""
FAILING = ("CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError")


def cluster_findings(facts: Facts) -> Iterator[Found]:
    for deployment in facts.deployments:
        yield from _deployment(deployment)
    for pod in facts.pods:
        yield from _pod(pod)
    yield from _releases(facts)
    yield from _unseen_workers(facts)


def _deployment(deployment: Object) -> Iterator[Found]:
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    name, ready = metadata["name"], status.get("readyReplicas") or 0
    wanted = deployment["spec"].get("replicas", 1)
    if ready < wanted:
        what = f"{ready} of {wanted} pods of {name} are ready"
        yield "not-ready" if ready else "none-ready", what
    if pause := pause_of(metadata.get("annotations") or {}):
        yield "paused", f"the autoscaler leaves {name} alone: {pause.annotation}"
    for container in _containers(deployment):
        counts = Counter(each["name"] for each in container.get("env") or ())
        if twice := [each for each, count in counts.items() if count > 1]:
            yield "env-twice", f"{name} gives {', '.join(twice)} twice: the last one holds"
    managers = {each.get("manager", "") for each in metadata.get("managedFields") or ()}
    for manager in sorted(managers & set(BY_HAND)):
        what = f"{name} was changed by hand ({manager}) and may differ from the release's values"
        yield "changed-by-hand", what


def _pod(pod: Object) -> Iterator[Found]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition.get("reason") == "Unschedulable" and condition.get("status") == "False":
            yield "no-node", f"{name} has no node: {condition.get('message', '')}"
    for container in status.get("containerStatuses") or ():
        waits = ((container.get("state") or {}).get("waiting") or {}).get("reason", "")
        last = ((container.get("lastState") or {}).get("terminated") or {}).get("reason", "")
        count = container.get("restartCount", 0)
        what = f"{name}: restarts: {count}{last and f', the last one after {last}'}"
        if waits in FAILING:
            yield "crash-loop", f"{what}; now it is in {waits}"
        elif count:
            yield "restarts", what


def _releases(facts: Facts) -> Iterator[Found]:
    """Compare the tags of images; ``-cuda`` and the like behind them may differ."""
    tags = {
        deployment["metadata"]["name"]: tag.partition("-")[0]
        for deployment in facts.deployments
        for container in _containers(deployment)
        if (
            tag := container.get("image", "").partition("@")[0].rpartition("/")[2].partition(":")[2]
        )
    }
    if len(set(tags.values())) > 1:
        yield "releases-differ", "images differ: " + ", ".join(f"{k} {v}" for k, v in tags.items())


def _unseen_workers(facts: Facts) -> Iterator[Found]:
    readable = {model for model, _ in facts.snapshots()}
    seen = {worker.host for _, snapshot in facts.snapshots() for worker in snapshot.workers}
    for pod in facts.pods:
        metadata, conditions = pod["metadata"], (pod.get("status") or {}).get("conditions") or ()
        serves = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        model = (metadata.get("labels") or {}).get("imageserve-model")
        if model in readable and serves and metadata["name"] not in seen:
            what = (
                f"{metadata['name']} is ready, and its worker is not seen in the queue of {model}"
            )
            yield "pod-without-worker", what


def _containers(deployment: Object) -> list[Any]:
    return list(deployment["spec"]["template"]["spec"]["containers"])
