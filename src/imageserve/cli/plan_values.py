"""The values of the chart for a plan, as a map and as YAML."""

import binascii
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from imageserve.config.choices import DEFAULT_BATCH_SIZE, DEFAULT_MODEL, DEFAULT_PRECISION
from imageserve.models.catalog import is_model_file
from imageserve.plan import MAX_CLIENTS, MEBI, Plan

WEB_PROCESS_MIB = 704 + 192
"""Memory of a web process beside its uploads: the chart's ``web.decodeMemoryBytes`` + 192 MiB."""
QUEUE_LIMIT = 2048
"""``limits.queueLimit`` of the chart."""
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))
"""What YAML takes for a value that is no text."""
_SLOTS = 16384
"""Of a Redis Cluster. Its nodes have equal parts of them."""


def values_of(plan: Plan, network: str, runtime: str, precision: str) -> dict[str, Any]:
    """Return what differs from the chart's defaults, and what a reader would look for."""
    names = _names(plan)
    entry = _model(plan, network, runtime, precision)
    models = {name: {**entry, **_queue(plan, name, at)} for at, name in enumerate(names)}
    others = {} if DEFAULT_MODEL in models else {DEFAULT_MODEL: {"enabled": False}}
    return {
        "limits": {
            "requestTimeoutSeconds": _whole(plan.load.deadline_s),
            "queueLimit": max(QUEUE_LIMIT, plan.redis.waiting),
            "queueBytesLimit": size_text(plan.redis.queue_bytes),
        },
        "web": _web(plan),
        "defaultModel": names[0],
        "models": {**others, **models},
        "redis": _redis(plan),
    }


def _names(plan: Plan) -> list[str]:
    """Return the names of the model, one for each queue."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", plan.worker.name).strip("._-")[:50] or "model"
    if plan.redis.nodes == 1:
        return [base]
    return [f"{base}-{number}" for number in range(1, plan.redis.nodes + 1)]


def _queue(plan: Plan, name: str, node: int) -> dict[str, str]:
    """Return a queue's name whose slot lies on this node of the cluster."""
    if plan.redis.nodes == 1:
        return {}
    tried = (f"image_queue_{name}{'' if not n else f'_{n}'}" for n in range(100 * _SLOTS))
    return {"queue": next(queue for queue in tried if _node(queue, plan.redis.nodes) == node)}


def _node(queue: str, nodes: int) -> int:
    return binascii.crc_hqx(queue.encode(), 0) % _SLOTS * nodes // _SLOTS


def _model(plan: Plan, network: str, runtime: str, precision: str) -> dict[str, Any]:
    models, worker = plan.models, plan.worker
    entry: dict[str, Any] = {"network": network}
    if is_model_file(network):
        entry["labels"] = str(PurePath(network).with_name("labels.txt"))
    if runtime == "onnx":
        entry |= {"runtime": runtime, "image": {"repository": "imageserve/model-onnx"}}
    if precision != DEFAULT_PRECISION:
        entry["precision"] = precision
    if models.batch != DEFAULT_BATCH_SIZE:
        entry["batchSize"] = models.batch
    if worker.gpu:
        entry["gpu"] = {"count": 1}
    elif worker.cores is not None:
        entry |= {"threads": worker.cores, "resources": {"requests": {"cpu": worker.cores}}}
    most = models.pods_per_queue
    entry["scaling"] = {
        "replicas": most,
        "minReplicas": min(most, plan.place.least_model_pods),
        "maxReplicas": most,
        "serviceRatePerReplica": _whole(round(models.pod_per_s, 3)),
        "targetWaitSeconds": _whole(round(models.target_wait_s, 3)),
    }
    return entry


def _web(plan: Plan) -> dict[str, Any]:
    web = plan.web
    limit = web.processes_per_pod * (WEB_PROCESS_MIB + web.memory_bytes // MEBI)
    return {
        "replicas": web.pods,
        "processes": web.processes_per_pod,
        "slots": web.slots,
        "memoryBytes": size_text(web.memory_bytes),
        "resources": {
            "requests": {"cpu": _whole(web.pod_cores), "memory": f"{limit // 2}Mi"},
            "limits": {"memory": f"{limit}Mi"},
        },
    }


def _redis(plan: Plan) -> dict[str, Any]:
    redis = plan.redis
    if redis.nodes > 1:
        nodes = [f"redis-{number}.example.com:6379" for number in range(1, redis.nodes + 1)]
        return {"enabled": False, "external": {"cluster": {"enabled": True, "nodes": nodes}}}
    if not plan.place.logged:
        return {"enabled": False, "external": {"host": "redis.example.com"}}
    memory = size_text(2 * redis.maxmemory)  # A rewrite of the append-only file copies.
    found: dict[str, Any] = {
        "maxmemory": size_text(redis.maxmemory),
        "resources": {"requests": {"cpu": 1, "memory": memory}, "limits": {"memory": memory}},
        "persistence": {"size": size_text(4 * redis.maxmemory)},
    }
    if redis.connections > MAX_CLIENTS:
        found["extraConfig"] = [f"maxclients {most_clients(redis.connections)}"]
    return found


def _whole(value: float) -> float:
    """Return a whole number as one: without a point in YAML."""
    return int(value) if value == int(value) else value


def most_clients(connections: int) -> int:
    """Return a ``maxclients`` with room for others, such as the autoscaler."""
    return -(-connections // 1000) * 1000 + 1000


def size_text(size: int) -> str:
    """Write a number of whole MiB as the chart reads it."""
    mebi = size // MEBI
    return f"{mebi // 1024}Gi" if mebi % 1024 == 0 else f"{mebi}Mi"


def as_yaml(value: Any, indent: int = 0) -> Iterator[str]:
    """Yield the lines of a map of maps, lists of texts, and scalars."""
    space = " " * indent
    for key, below in value.items():
        if isinstance(below, Mapping):
            yield f"{space}{_key(key)}:"
            yield from as_yaml(below, indent + 2)
        elif isinstance(below, list):
            yield f"{space}{_key(key)}:"
            yield from (f"{space}  - {json.dumps(each)}" for each in below)
        else:
            yield f"{space}{_key(key)}: {json.dumps(below)}"


def _key(text: str) -> str:
    plain = re.fullmatch(r"[A-Za-z]\w*", text) and text.lower() not in _WORDS
    return text if plain else json.dumps(text)
