"""``imageserve autoscaler explain``: what is seen right now, and what follows. Writes nothing."""

import argparse
import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imageserve.autoscaler.cluster import Cluster, Deployment
from imageserve.autoscaler.observation import Decision, Observation
from imageserve.autoscaler.pause import pause_of
from imageserve.autoscaler.pod_watch import PodWatch
from imageserve.autoscaler.sample import with_queue
from imageserve.autoscaler.scaling_file import ModelScaling, Scaling
from imageserve.autoscaler.sizing import State, size
from imageserve.cli.autoscaler import add_cluster_options, scaling_of
from imageserve.config.settings import Settings
from imageserve.errors import ClusterError, QueueError, SettingsError
from imageserve.queue.observations import QueueReader, Reading
from imageserve.queue.queue import live_tables
from imageserve.queue.redis.connection import RedisAccess

ASK_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class _Looks:
    """What several looks in a row brought, oldest first."""

    readings: Sequence[tuple[float, Reading]]
    problem: str


@dataclass(frozen=True, slots=True)
class _Pods:
    """What the API said of one model; ``deployment`` is None where it said nothing."""

    deployment: Deployment | None
    unschedulable: int = 0
    start_s: float | None = None
    problem: str = ""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser().parse_args(arguments)
    settings = Settings.from_env(environ)
    scaling = scaling_of(settings)
    models = _chosen(scaling, options.model)
    cluster, problem = _cluster(options.namespace or settings.pod_namespace, options.kubeconfig)
    looks = _look(settings, models, options.seconds)
    running = _ask_running(settings.metrics_port)
    facts = {
        model.name: {
            **_explained(model, looks, _pods(cluster, model, problem)),
            "running autoscaler": running.get(model.name),
        }
        for model in models
    }
    if options.json:
        print(json.dumps(facts))
    else:
        for name, values in facts.items():
            _print_model(name, values)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imageserve autoscaler explain",
        description="Print what there is to see of each model's queue and Deployment, and what "
        "sizing makes of it. It looks for a few seconds, as arrivals are counted over time, and "
        "has no past: patience and step limits are those of an autoscaler that has just started. "
        "What the running one says is shown beside it where this runs in its pod. Where the "
        "cluster cannot be reached, live workers stand in for pods. Nothing is written.",
        epilog="Settings come from the environment: SCALING_FILE, REDIS_URL, POD_NAMESPACE, ...",
    )
    parser.add_argument("--model", help="only this model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="how long to look at arrivals (default 3)"
    )
    add_cluster_options(parser)
    return parser


def _chosen(scaling: Scaling, name: str | None) -> list[ModelScaling]:
    if name is None:
        return list(scaling.models.values())
    if name not in scaling.models:
        raise SettingsError(f"no model {name!r}; there are {', '.join(scaling.models)}")
    return [scaling.models[name]]


def _cluster(namespace: str | None, kubeconfig: str | None) -> tuple[Cluster | None, str]:
    from imageserve.autoscaler.kubernetes_cluster import connect

    try:
        return connect(namespace, kubeconfig=kubeconfig), ""
    except SettingsError as error:
        return None, str(error)


def _look(settings: Settings, models: Sequence[ModelScaling], seconds: float) -> _Looks:
    """Read the queues at the beginning and at the end of some seconds."""
    reader = QueueReader(RedisAccess.from_settings(settings), [model.queue for model in models])
    try:
        first = (time.monotonic(), reader.read())
        time.sleep(max(0.0, min(seconds, 60.0)))
        return _Looks([first, (time.monotonic(), reader.read())], "")
    except QueueError as error:
        return _Looks([], str(error))


def _pods(cluster: Cluster | None, model: ModelScaling, problem: str) -> _Pods:
    if cluster is None:
        return _Pods(None, problem=problem)
    try:
        deployment = cluster.deployment(model.deployment)
        pods = cluster.pods(model.pod_selector)
    except ClusterError as error:
        return _Pods(None, problem=str(error))
    facts = PodWatch().look(pods, 0.0)
    # How long they have been so is not known to somebody who has just come.
    homeless = sum(pod.unschedulable for pod in pods)
    return _Pods(deployment, homeless, facts.start_s)


def _explained(model: ModelScaling, looks: _Looks, pods: _Pods) -> dict[str, Any]:
    facts: dict[str, Any] = {"queue": {"name": model.queue}, "deployment": _deployment(model, pods)}
    if not looks.readings:
        facts["queue"]["problem"] = looks.problem
        return facts
    seen, decision = _decided(model, looks, pods)
    snapshot = looks.readings[-1][1].snapshots[model.queue]
    facts["queue"] |= {
        "waiting": seen.backlog,
        "in_flight": seen.in_flight,
        "oldest_s": seen.oldest_s,
        "accepted": seen.accepted,
        "rejected": seen.rejected,
    }
    facts["workers"] = {"live": len(live_tables(snapshot)), "bucket_ms": dict(seen.bucket_ms)}
    facts["decision"] = {
        "replicas": decision.replicas,
        "raw": decision.raw,
        "cause": decision.cause,
        "reason": decision.reason,
        "arrivals_per_s": decision.arrivals_per_s,
        "capacity_per_s": decision.capacity_per_s,
    }
    return facts


def _decided(model: ModelScaling, looks: _Looks, pods: _Pods) -> tuple[Observation, Decision]:
    """Let sizing have all looks in turn; returns the last one and what came of it."""
    state = State()
    for at_s, reading in looks.readings:
        snapshot = reading.snapshots[model.queue]
        bare = Observation(at_s, False, "", 0, 0, 0, 0, 0.0, pod_start_s=pods.start_s)
        seen = with_queue(bare, reading.run, snapshot)
        live = len(live_tables(snapshot))
        seen = replace(
            seen,
            replicas=pods.deployment.replicas if pods.deployment else live,
            ready=pods.deployment.ready if pods.deployment else live,
            unschedulable=pods.unschedulable,
        )
        decision, state = size(model.policy, state, seen)
    return seen, decision


def _deployment(model: ModelScaling, pods: _Pods) -> dict[str, Any]:
    policy = model.policy
    facts: dict[str, Any] = {
        "name": model.deployment,
        "bounds": [policy.min_replicas, policy.max_replicas],
    }
    if pods.deployment is None:
        return {**facts, "problem": pods.problem}
    pause = pause_of(pods.deployment.annotations)
    return {
        **facts,
        "replicas": pods.deployment.replicas,
        "ready": pods.deployment.ready,
        "unschedulable": pods.unschedulable,
        "pod_start_s": pods.start_s,
        "paused": pause.words if pause else None,
    }


def _ask_running(port: int) -> Mapping[str, Any]:
    """Ask the autoscaler in this pod, if this is its pod, what it says itself."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_TIMEOUT_S)
    try:
        connection.request("GET", "/recommendations")
        said: Mapping[str, Any] = json.load(connection.getresponse())["models"]
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return {}
    finally:
        connection.close()
    return said


def _print_model(name: str, facts: Mapping[str, Any]) -> None:
    print(name)
    for part, values in facts.items():
        if values is None:
            continue
        print(f"  {part}")
        for key, value in values.items():
            if value not in (None, {}):
                print(f"    {key:<15} {_shown(value)}")
    print()


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list):
        return " to ".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(each)}" for key, each in value.items())
    return str(value)
