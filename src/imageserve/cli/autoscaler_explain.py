"""``imageserve autoscaler explain``: what the autoscaler would decide now. Writes nothing."""

import argparse
import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imageserve.autoscaler.cluster import Cluster, Deployment, PodSummary, PodWatch, pause_of
from imageserve.autoscaler.scaler import observation
from imageserve.autoscaler.scaling_file import ModelScaling, Scaling
from imageserve.autoscaler.sizing import Decision, Observation, State, size
from imageserve.cli.autoscaler import add_cluster_options, scaling_of
from imageserve.config.settings import Settings
from imageserve.errors import ClusterError, QueueError, SettingsError
from imageserve.queue.monitor import Monitor
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.snapshot import Snapshot

ASK_TIMEOUT_S = 1.0

Snapshots = Mapping[str, Snapshot | QueueError]


@dataclass(frozen=True, slots=True)
class _Target:
    """One model's Deployment and pods; ``deployment`` is None where it cannot be read."""

    deployment: Deployment | None
    pods: PodSummary = field(default_factory=PodSummary)
    problem: str = ""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser().parse_args(arguments)
    settings = Settings.from_env(environ)
    scaling = scaling_of(settings)
    models = _chosen(scaling, options.model)
    cluster, problem = _cluster(options.namespace or settings.pod_namespace, options.kubeconfig)
    reads = _read_twice(settings, models, options.seconds)
    running = _ask_running(settings.metrics_port)
    facts = {
        model.name: {
            **_explained(model, reads, _target(cluster, model, problem)),
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
        description="Print each model's queue and Deployment, and the decision that follows. "
        "Arrivals are counted over a few seconds. There is no history: windows and step limits are "
        "those of an autoscaler that has just started. In the autoscaler's pod the decision of the "
        "running one is printed too. Where the cluster cannot be reached, live workers are counted "
        "instead of pods. Nothing is written.",
        epilog="Settings come from the environment: SCALING_FILE, REDIS_URL, POD_NAMESPACE, ...",
    )
    parser.add_argument("--model", help="only this model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="how long to count arrivals (default 3)"
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
    from imageserve.autoscaler.kubernetes import connect

    try:
        return connect(namespace, kubeconfig=kubeconfig), ""
    except SettingsError as error:
        return None, str(error)


def _read_twice(
    settings: Settings, models: Sequence[ModelScaling], seconds: float
) -> list[tuple[float, Snapshots]]:
    """Read the queues at the start and at the end of some seconds; returns the times too."""
    monitor = Monitor(RedisAccess.from_settings(settings), [model.queue for model in models])
    first = (time.monotonic(), monitor.snapshots())
    time.sleep(max(0.0, min(seconds, 60.0)))
    return [first, (time.monotonic(), monitor.snapshots())]


def _target(cluster: Cluster | None, model: ModelScaling, problem: str) -> _Target:
    if cluster is None:
        return _Target(None, problem=problem)
    try:
        deployment = cluster.deployment(model.deployment)
        pods = cluster.pods(model.pod_selector)
    except ClusterError as error:
        return _Target(None, problem=str(error))
    start_s = PodWatch().update(pods, 0.0).start_s
    # Since when they are unschedulable is not known here.
    unschedulable = sum(pod.unschedulable for pod in pods)
    return _Target(deployment, PodSummary(unschedulable, start_s))


def _explained(
    model: ModelScaling, reads: Sequence[tuple[float, Snapshots]], target: _Target
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "queue": {"name": model.queue},
        "deployment": _deployment(model, target),
    }
    queues = [(at_s, snapshots[model.queue]) for at_s, snapshots in reads]
    known = [(at_s, queue) for at_s, queue in queues if isinstance(queue, Snapshot)]
    if len(known) < len(queues):
        facts["queue"]["problem"] = next(str(q) for _, q in queues if isinstance(q, QueueError))
        return facts
    seen, decision = _decided(model, known, target)
    facts["queue"] |= {
        "waiting": seen.waiting,
        "in_flight": seen.in_flight,
        "oldest_s": seen.oldest_s,
        "accepted": seen.accepted,
        "rejected": seen.rejected,
    }
    facts["workers"] = {"live": len(known[-1][1].tables), "bucket_ms": dict(seen.bucket_ms)}
    facts["decision"] = {
        "replicas": decision.replicas,
        "raw": decision.raw,
        "cause": decision.cause,
        "reason": decision.reason,
        "arrivals_per_s": decision.arrivals_per_s,
        "capacity_per_s": decision.capacity_per_s,
    }
    return facts


def _decided(
    model: ModelScaling, snapshots: Sequence[tuple[float, Snapshot]], target: _Target
) -> tuple[Observation, Decision]:
    """Call ``size`` on each snapshot in turn; returns the last observation and its decision."""
    state = State()
    for at_s, snapshot in snapshots:
        live = len(snapshot.tables)
        deployment = target.deployment or Deployment(model.deployment, "", "", live, live)
        seen = observation(at_s, snapshot, deployment, target.pods)
        decision, state = size(model.policy, state, seen)
    return seen, decision


def _deployment(model: ModelScaling, target: _Target) -> dict[str, Any]:
    policy = model.policy
    facts: dict[str, Any] = {
        "name": model.deployment,
        "bounds": [policy.min_replicas, policy.max_replicas],
    }
    if target.deployment is None:
        return {**facts, "problem": target.problem}
    pause = pause_of(target.deployment.annotations)
    return {
        **facts,
        "replicas": target.deployment.replicas,
        "ready": target.deployment.ready,
        "unschedulable": target.pods.unschedulable,
        "pod_start_s": target.pods.start_s,
        "paused": pause.annotation if pause else None,
    }


def _ask_running(port: int) -> Mapping[str, Any]:
    """Return the recommendations of the autoscaler in this pod; empty where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_TIMEOUT_S)
    try:
        connection.request("GET", "/recommendations")
        models: Mapping[str, Any] = json.load(connection.getresponse())["models"]
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return {}
    finally:
        connection.close()
    return models


def _print_model(name: str, facts: Mapping[str, Any]) -> None:
    print(name)
    for part, values in facts.items():
        if values is None:
            continue
        print(f"  {part}")
        for key, value in values.items():
            if value not in (None, {}):
                print(f"    {key:<15} {_text(value)}")
    print()


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, list):
        return " to ".join(map(str, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(each)}" for key, each in value.items())
    return str(value)
