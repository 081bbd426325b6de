"""What is wrong with Deployments and pods. Pure: they come as Kubernetes gives them."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from imageserve.autoscaler.cluster import pause_of
from imageserve.doctor.facts import Facts, Found, Object, holding

BY_HAND = {"kubectl-edit", "kubectl-patch", "kubectl-set"}
"""Field managers of people's commands. A restart, ``kubectl-rollout``, changes no value."""
FAILING = ("CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError")
_TAG = re.compile(r"^[^@]*:([^-/:@]+)[^/:@]*(@|$)")
LATELY = timedelta(days=1)
"""An older restart says nothing of the system as it is."""


def cluster_findings(facts: Facts) -> Iterator[Found]:
    since = datetime.fromtimestamp(facts.now_ms / 1000, UTC) - LATELY
    for deployment in facts.deployments:
        yield from _deployment(deployment)
    for pod in facts.pods:
        yield from _pod(pod, since)
    yield from _unseen_workers(facts)
    # Tags only: what is behind a dash, such as -cuda, may differ.
    names = [each["metadata"]["name"] for each in facts.deployments]
    found = [_TAG.search(_container(each).get("image", "")) for each in facts.deployments]
    tags = {name: tag[1] for name, tag in zip(names, found, strict=True) if tag}
    told = ", ".join(f"{name} {tag}" for name, tag in tags.items())
    yield from holding((len(set(tags.values())) > 1, "releases-differ", f"images differ: {told}"))


def _deployment(deployment: Object) -> Iterator[Found]:
    metadata, wanted = deployment["metadata"], deployment["spec"].get("replicas", 1)
    name, ready = metadata["name"], (deployment.get("status") or {}).get("readyReplicas") or 0
    pause = pause_of(metadata.get("annotations") or {})
    counts = Counter(each["name"] for each in _container(deployment).get("env") or ())
    twice = ", ".join(each for each, count in counts.items() if count > 1)
    managers = {each.get("manager", "") for each in metadata.get("managedFields") or ()} & BY_HAND
    by = f"{name} was changed by {', '.join(sorted(managers))}: it may differ from its values"
    few = f"{ready} of {wanted} pods of {name} are ready"
    yield from holding(
        (0 < ready < wanted, "not-ready", few),
        (0 == ready < wanted, "none-ready", few),
        (pause, "paused", f"the autoscaler leaves {name} alone: {pause and pause.annotation}"),
        (twice, "env-twice", f"{name} gives {twice} twice: the last one holds"),
        (managers, "changed-by-hand", by),
    )


def _pod(pod: Object, since: datetime) -> Iterator[Found]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for container in status.get("containerStatuses") or ():
        waits = ((container.get("state") or {}).get("waiting") or {}).get("reason", "")
        last = (container.get("lastState") or {}).get("terminated") or {}
        lately = "finishedAt" in last and datetime.fromisoformat(last["finishedAt"]) > since
        what = f"{name}: restarts: {container.get('restartCount', 0)}"
        what += f", the last one after {last['reason']}" if last.get("reason") else ""
        yield from holding(
            (waits in FAILING, "crash-loop", f"{what}; now it is in {waits}"),
            (lately and waits not in FAILING, "restarts", what),
        )


def _unseen_workers(facts: Facts) -> Iterator[Found]:
    hosts = {model: {each.host for each in read.workers} for model, read in facts.snapshots()}
    for pod in facts.pods:
        metadata, conditions = pod["metadata"], (pod.get("status") or {}).get("conditions") or ()
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        model, name = (metadata.get("labels") or {}).get("imageserve-model"), metadata["name"]
        unseen = ready and model in hosts and name not in hosts[model]
        what = f"{name} is ready, and its worker is not seen in the queue of model {model}"
        yield from holding((unseen, "pod-without-worker", what))


def _container(deployment: Object) -> Object:
    """Return imageserve's own container; those behind it were added by others."""
    return dict(deployment["spec"]["template"]["spec"]["containers"][0])
