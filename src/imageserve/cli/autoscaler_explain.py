"""``imageserve autoscaler explain``: what the autoscaler would decide now. Writes nothing."""

import argparse
import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imageserve.autoscaler.budget import Claim, Share, allot, claim_of
from imageserve.autoscaler.cluster import Deployment, PodSummary, PodWatch, pause_of
from imageserve.autoscaler.decision import Decision, Observation
from imageserve.autoscaler.foresight import foresight_of
from imageserve.autoscaler.load import Arrivals, capacity_per_s
from imageserve.autoscaler.pod_start import start_facts
from imageserve.autoscaler.scaler import observation
from imageserve.autoscaler.scaler_status import for_people
from imageserve.autoscaler.scaling_file import ModelScaling, read_scaling_file
from imageserve.autoscaler.sizing import State, size
from imageserve.cli.extras import add_cluster_options, argument, chosen
from imageserve.config.reader import number
from imageserve.config.settings import Settings
from imageserve.errors import ClusterError, ImageserveError, QueueError, SettingsError
from imageserve.queue.monitor import Monitor, Snapshots
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.snapshot import Snapshot

ASK_TIMEOUT_S = 1.0

Target = tuple[Deployment, PodSummary] | ImageserveError
"""One model's Deployment and pods, or why they cannot be read."""


@dataclass(frozen=True, slots=True)
class Explained:
    """One model: what is printed, and what its decision here was based on."""

    facts: dict[str, Any]
    decided: tuple[Observation, Decision, Claim] | None = None


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser().parse_args(arguments)
    settings = Settings.from_env(environ)
    scaling = read_scaling_file(settings.scaling_file)
    shown = chosen(scaling.models, options.model)
    # A share of a budget follows from what all models want.
    models = list(scaling.models.values()) if scaling.gpu_budget else shown
    running = _ask_running(settings.metrics_port)
    # What the running autoscaler has decided, and on which numbers, is the truth. Arrivals that are
    # counted here, over a shorter time, would be others.
    counted_s = options.seconds if any(model.name not in running for model in models) else None
    monitor = Monitor(RedisAccess.from_settings(settings), [model.queue for model in models])
    reads = _readings(monitor, counted_s)
    namespace = options.namespace or settings.pod_namespace
    targets = _targets(models, reads[-1][1], namespace, options.kubeconfig)
    explained = {
        model.name: _explained(model, reads, targets[model.name], running.get(model.name), monitor)
        for model in models
    }
    if scaling.gpu_budget and not running:
        _share(scaling.gpu_budget, explained)
    facts = {model.name: explained[model.name].facts for model in shown}
    if options.json:
        print(json.dumps(facts))
    else:
        for name, values in facts.items():
            _print_model(name, values)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imageserve autoscaler explain",
        description="Print each model's queue and Deployment, and the decision that follows. In "
        "the autoscaler's pod it is the last decision of the running one. Elsewhere arrivals are "
        "counted over a few seconds, and windows and step limits are those of an autoscaler that "
        "has just started. Where the cluster cannot be reached, live workers are counted instead "
        "of pods. Nothing is written.",
        epilog="Settings come from the environment: SCALING_FILE, REDIS_URL, POD_NAMESPACE, ...",
    )
    parser.add_argument("--model", help="only this model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--seconds",
        type=argument(number(0, 60)),
        default=5.0,
        help="how long to count arrivals where no autoscaler runs (default 5)",
    )
    add_cluster_options(parser)
    return parser


def _readings(monitor: Monitor, seconds: float | None) -> list[tuple[float, Snapshots]]:
    """Read the queues, with ``seconds`` once more after them; returns the times too."""
    reads = [(time.monotonic(), monitor.snapshots())]
    if seconds is not None:
        time.sleep(seconds)
        reads.append((time.monotonic(), monitor.snapshots()))
    return reads


def _targets(
    models: Sequence[ModelScaling],
    snapshots: Snapshots,
    namespace: str | None,
    kubeconfig: str | None,
) -> Mapping[str, Target]:
    from imageserve.autoscaler.kubernetes import connect

    try:
        cluster = connect(namespace, kubeconfig=kubeconfig)
    except SettingsError as error:
        return dict.fromkeys((model.name for model in models), error)
    targets: dict[str, Target] = {}
    for model in models:
        try:
            deployment = cluster.deployment(model.deployment)
            pods = cluster.pods(model.pod_selector)
        except ClusterError as error:
            targets[model.name] = error
            continue
        # Since when they are unschedulable is not known here.
        unschedulable = sum(pod.unschedulable and not pod.leaving for pod in pods)
        queue = snapshots[model.queue]
        workers = queue.live_workers if isinstance(queue, Snapshot) else []
        start = PodWatch().update(pods, 0.0, workers).start
        targets[model.name] = deployment, PodSummary(unschedulable, start)
    return targets


def _explained(
    model: ModelScaling,
    reads: Sequence[tuple[float, Snapshots]],
    target: Target,
    published: Mapping[str, Any] | None,
    monitor: Monitor,
) -> Explained:
    """Return the facts of the last reading, and the decision: as published, else our own."""
    queue: dict[str, Any] = {"name": model.queue}
    facts: dict[str, Any] = {"queue": queue, "deployment": _deployment(model, target)}
    start = target[1].start if isinstance(target, tuple) else None
    facts["pod start"] = start_facts(start, model.policy)
    if published:
        facts["decision"] = {**published, "by": "the running autoscaler"}
        facts["pod start"] = facts["decision"].pop("pod_start", facts["pod start"])
        facts["forecast"] = facts["decision"].pop("forecast", None) or None
    at_s, snapshots = reads[-1]
    snapshot = snapshots[model.queue]
    if isinstance(snapshot, QueueError):
        queue["problem"] = str(snapshot)
        return Explained(facts)
    live = len(snapshot.tables)
    workers = Deployment(model.deployment, "", "", live, live), PodSummary()
    seen = observation(at_s, snapshot, *(target if isinstance(target, tuple) else workers))
    queue |= _values(seen, "waiting", "in_flight", "oldest_s", "accepted", "rejected")
    facts["workers"] = {"live": live, "bucket_ms": dict(seen.bucket_ms)}
    if published:
        return Explained(facts)
    seen, forecast = _foreseen(model, monitor, seen, facts["pod start"]["usual_s"])
    facts["decision"], state, decision = _decided(model, reads[0], seen)
    facts["forecast"] = forecast
    paused = isinstance(target, tuple) and pause_of(target[0].annotations) is not None
    claim = claim_of(model.policy, model.gpus, state, seen, decision, paused=paused)
    return Explained(facts, (seen, decision, claim) if model.gpus else None)


def _share(gpus: int, explained: Mapping[str, Explained]) -> None:
    """Limit the decisions that were made here to each model's share of the budget."""
    decided = {name: each.decided for name, each in explained.items() if each.decided}
    claims = {name: claim for name, (_, _, claim) in decided.items()}
    for name, pods in allot(gpus, claims, time.monotonic()).items():
        seen, decision, claim = decided[name]
        share = Share(gpus, claim.gpus, claim.wants, pods)
        limited = _values(share.limited(seen, decision), "replicas", "cause", "reason")
        explained[name].facts["decision"] |= {**limited, "budget": share.facts()}


def _decided(
    model: ModelScaling, first: tuple[float, Snapshots], seen: Observation
) -> tuple[dict[str, Any], State, Decision]:
    """Decide as an autoscaler would that has counted arrivals at this rate for its whole window."""
    before_s, before = first[0], first[1][model.queue]
    counted_s, state = seen.now_s - before_s, State()
    if isinstance(before, Snapshot) and before.run == seen.run and counted_s > 0:
        now = seen.accepted + seen.rejected
        came = now - before.stats.get("accepted", 0) - before.stats.get("rejected", 0)
        window_s = model.policy.arrivals_window_s
        earlier = (seen.now_s - window_s, now - round(came * window_s / counted_s))
        state = State(before_s, seen.run, arrivals=Arrivals((earlier,)), busy_s=seen.now_s)
    decision, state = size(model.policy, state, seen)
    names = ("replicas", "raw", "cause", "reason", "arrivals_per_s", "capacity_per_s")
    counted = f"arrivals counted for {counted_s:.1f} s, as no autoscaler answers here"
    return {**_values(decision, *names), "by": counted}, state, decision


def _foreseen(
    model: ModelScaling, monitor: Monitor, seen: Observation, pod_start_s: float
) -> tuple[Observation, dict[str, Any] | None]:
    """Add what the memory in Redis expects now; returns what is to be printed of it, too."""
    foresight = foresight_of(model.policy, model.queue, monitor)
    if foresight is None:
        return seen, None
    now_s = time.time()
    foresight.look(now_s)
    capacity = capacity_per_s(seen.bucket_ms, model.policy)
    foreseen = foresight.foreseen(now_s, capacity, pod_start_s)
    return replace(seen, foreseen=foreseen), for_people(foresight.facts())


def _values(source: object, *names: str) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}


def _deployment(model: ModelScaling, target: Target) -> dict[str, Any]:
    bounds = [model.policy.min_replicas, model.policy.max_replicas]
    facts: dict[str, Any] = {"name": model.deployment, "bounds": bounds}
    if isinstance(target, ImageserveError):
        return {**facts, "problem": str(target)}
    deployment, pods = target
    pause = pause_of(deployment.annotations)
    return {
        **facts,
        "replicas": deployment.replicas,
        "ready": deployment.ready,
        "unschedulable": pods.unschedulable,
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
