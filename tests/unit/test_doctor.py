"""The doctor's rules: each finding is planted once, and a healthy system has none."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from imageserve.cli.doctor import RULES
from imageserve.config.settings import Settings
from imageserve.doctor.advice import ADVICE, in_order
from imageserve.doctor.facts import Facts, WebFacts
from imageserve.errors import QueueError, QueueForbidden, QueueUnavailable
from imageserve.queue.snapshot import Snapshot, WebInfo, WorkerInfo

NOW = 1_760_000_000_000
GIB = 2**30
POD = "imageserve-model-shapes-abc"
WORKER = WorkerInfo(
    "w1", "shapes", (64, 64, 3), 8, {1: 10.0, 8: 20.0}, "ready", POD, NOW - 1000, version="1"
)
OTHER = replace(WORKER, id="w2", host="imageserve-model-shapes-def")
SNAPSHOT = Snapshot(NOW, 0, 0, 0, 0, 0, workers=(WORKER,), web=(WebInfo("a", 400.0, NOW - 1000),))
SERVER: dict[str, Any] = {
    "redis_version": "7.2.4",
    "role": "master",
    "maxmemory": 4 * GIB,
    "maxmemory_policy": "noeviction",
    "used_memory": GIB,
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
}
STATUS = {"redis": "ok", "models": {"shapes": {"workers": [{"id": "w1"}]}}}
ANSWERED = 'imageserve_requests_total{code="",endpoint="predict",status="200"} 1000.0\n'
CONTAINER = {"image": "registry.test/imageserve/model:0.2.0-cuda", "env": [{"name": "A"}]}
DEPLOYMENT: dict[str, Any] = {
    "metadata": {"name": "imageserve-model-shapes", "managedFields": [{"manager": "helm"}]},
    "spec": {"replicas": 1, "template": {"spec": {"containers": [CONTAINER]}}},
    "status": {"readyReplicas": 1},
}
READY = {"type": "Ready", "status": "True"}
MODEL_POD: dict[str, Any] = {
    "metadata": {"name": POD, "labels": {"imageserve-model": "shapes"}},
    "status": {"conditions": [READY], "containerStatuses": [{"restartCount": 0}]},
}
HEALTHY = Facts(
    now_ms=NOW + 100,
    queues={"shapes": SNAPSHOT},
    infos=(SERVER,),
    web=WebFacts("http://web", STATUS, ANSWERED),
    deployments=(DEPLOYMENT,),
    pods=(MODEL_POD,),
)


def found(facts: Facts) -> dict[str, str]:
    return dict(in_order(each for rule in RULES for each in rule(facts)))


def queue(**changes: Any) -> Facts:
    """Return healthy facts but for the snapshot."""
    return replace(HEALTHY, queues={"shapes": replace(SNAPSHOT, **changes)})


def workers(*listed: WorkerInfo) -> Facts:
    return queue(workers=listed)


def unread(error: QueueError) -> Facts:
    return replace(HEALTHY, queues={"shapes": error}, infos=())


def server(**changes: Any) -> Facts:
    return replace(HEALTHY, infos=({**SERVER, **changes},))


def limits(**changes: Any) -> Facts:
    return replace(HEALTHY, settings=Settings(**changes))


def web(problem: str = "", status: Mapping[str, Any] = STATUS, more: str = "") -> Facts:
    return replace(HEALTHY, web=WebFacts("http://web", status, ANSWERED + more, problem))


def deployment(**parts: Any) -> Facts:
    return replace(HEALTHY, deployments=({**DEPLOYMENT, **parts},))


def containers(*listed: Mapping[str, Any]) -> Facts:
    return deployment(spec={"replicas": 1, "template": {"spec": {"containers": listed}}})


def pod(**status: Any) -> Facts:
    return replace(HEALTHY, pods=({**MODEL_POD, "status": {**MODEL_POD["status"], **status}},))


def annotated(**more: Any) -> Facts:
    return deployment(metadata={"name": "imageserve-model-shapes", **more})


OLD_WEB = {**DEPLOYMENT, "metadata": {"name": "imageserve-web"}}
OLD_WEB["spec"] = {"template": {"spec": {"containers": [{"image": "imageserve/web:0.1.0"}]}}}
ANSWER = 'imageserve_requests_total{{code="{}",endpoint="predict",status="{}"}} {}\n'


def killed(at: str) -> dict[str, Any]:
    """Return the state of a container that was; ``NOW`` is 2025-10-09 08:53."""
    last = {"terminated": {"reason": "OOMKilled", "finishedAt": at}}
    return {"restartCount": 3, "lastState": last}


KILLED = killed("2025-10-09T08:00:00Z")

#: Name of a finding -> a system that has it, and a word that it must say.
PLANTED: dict[str, tuple[Facts, str]] = {
    "redis-away": (unread(QueueUnavailable("no answer")), "no answer"),
    "redis-refuses": (unread(QueueForbidden("no EVAL")), "no EVAL"),
    "redis-replica": (server(role="slave"), "replica"),
    "redis-disk": (server(aof_last_write_status="err"), "aof_last_write_status: err"),
    "redis-full": (server(used_memory=3.9 * GIB), "97%"),
    "redis-evicts": (server(maxmemory_policy="allkeys-lru"), "allkeys-lru"),
    "redis-evicted": (server(evicted_keys=7), "7 keys"),
    "redis-no-maxmemory": (server(maxmemory=0), "no maxmemory"),
    "queue-larger-than-redis": (limits(queue_bytes_limit=3 * GIB), "3072 MiB"),
    "redis-no-aof": (server(aof_enabled=0), "append-only"),
    "clock": (replace(HEALTHY, now_ms=NOW - 60_000), "60 s ahead of"),
    "no-workers": (queue(workers=(), queued=4), "4 pictures wait"),
    "idle-without-workers": (queue(workers=()), "no live worker"),
    "wrong-model": (workers(WORKER, replace(OTHER, model="cats")), "serve cats and shapes"),
    "stand-in": (workers(replace(WORKER, runtime="stand-in")), "made up"),
    "worker-problem": (workers(replace(WORKER, problem="no folder 2")), "w1 of model shapes: no"),
    "silent-workers": (workers(WORKER, replace(OTHER, last_seen=NOW - 20_000)), "w2"),
    "versions-differ": (workers(WORKER, replace(OTHER, version="2")), "1, 2"),
    "slow-worker": (workers(WORKER, replace(OTHER, bucket_ms={8: 80.0})), "w2"),
    "capacity-differs": (queue(web=(WebInfo("a", 40.0, NOW),)), "web processes decode 40"),
    "batch-too-long": (workers(replace(WORKER, bucket_ms={8: 16_000.0})), "16.0 s"),
    "queue-too-small": (limits(queue_limit=15), "16 pictures of 12288 bytes"),
    "lease-too-long": (limits(lease_s=20.0), "LEASE_S (20)"),
    "dead": (queue(dead=2), "2 pictures"),
    "queue-without-model": (replace(HEALTHY, other_queues=("cats",)), "queue cats"),
    "unfit-key": (replace(HEALTHY, keys_problem="line 3: too short"), "line 3"),
    "web-away": (web(problem="refused"), "refused"),
    "web-without-redis": (web(status={**STATUS, "redis": "unavailable"}), "cannot read"),
    "other-models": (web(status={"redis": "ok", "models": {"cats": {}}}), "serves cats"),
    "other-workers": (
        web(status={"redis": "ok", "models": {"shapes": {"workers": [{"id": "w9"}]}}}),
        "other workers",
    ),
    "bugs": (web(more=ANSWER.format("internal", 500, 2)), "2 requests"),
    "none-ready": (deployment(status={}), "0 of 1"),
    "not-ready": (
        deployment(spec={**DEPLOYMENT["spec"], "replicas": 3}, status={"readyReplicas": 2}),
        "2 of 3",
    ),
    "paused": (
        annotated(annotations={"imageserve.dev/autoscaler-paused": "true"}),
        "autoscaler-paused",
    ),
    "env-twice": (containers({**CONTAINER, "env": [{"name": "LEASE_S"}] * 2}), "LEASE_S"),
    "changed-by-hand": (annotated(managedFields=[{"manager": "kubectl-edit"}]), "kubectl-edit"),
    "restarts": (pod(containerStatuses=[KILLED]), "restarts: 3, the last one after OOMKilled"),
    "crash-loop": (
        pod(containerStatuses=[{**KILLED, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]),
        "CrashLoopBackOff",
    ),
    "releases-differ": (
        replace(HEALTHY, deployments=(DEPLOYMENT, OLD_WEB)),
        "imageserve-web 0.1.0",
    ),
    "pod-without-worker": (workers(replace(WORKER, host="another")), POD),
}


def test_a_healthy_system_has_no_finding() -> None:
    assert found(HEALTHY) == {}


@pytest.mark.parametrize("name", ADVICE)
def test_what_is_planted_is_found(name: str) -> None:
    facts, word = PLANTED[name]

    assert word in found(facts)[name]


def test_a_planted_fault_brings_few_other_findings() -> None:
    """An operator reads the cause, and not all that follows from it."""
    many = {name: list(found(facts)) for name, (facts, _) in PLANTED.items()}

    assert {name: each for name, each in many.items() if len(each) > 3} == {}


def test_nothing_else_is_said_where_redis_cannot_be_read() -> None:
    facts = replace(unread(QueueUnavailable("no answer")), web=None)

    assert list(found(facts)) == ["redis-away"]


def test_a_command_with_settings_of_its_own_is_the_first_thing_that_is_said() -> None:
    elsewhere = web(status={"redis": "ok", "models": {"cats": {}}})

    assert next(iter(found(replace(elsewhere, queues=queue(workers=()).queues)))) == "other-models"


def test_what_is_as_it_should_be_is_no_finding() -> None:
    """Web processes that can do more; an old restart; a container that somebody added; a digest."""
    old = pod(containerStatuses=[killed("2025-10-07T08:00:00Z")])
    sidecar = containers(CONTAINER, {"image": "mesh/proxy:1.24", "env": [{"name": "A"}] * 2})
    digest = containers({"image": "registry.test:5000/imageserve/web@sha256:0123abcd"}).deployments[
        0
    ]
    named = {**digest, "metadata": {"name": "imageserve-web"}}
    both = replace(HEALTHY, deployments=(*sidecar.deployments, named))

    assert [found(each) for each in (old, both)] == [{}, {}]
    assert found(queue(web=(WebInfo("a", 4000.0, NOW),))) == {}


def test_the_worst_comes_first_and_each_once() -> None:
    told = in_order([("paused", "b"), ("dead", "d"), ("redis-away", "a"), ("dead", "d")])

    assert [name for name, _ in told] == ["redis-away", "dead", "paused"]
    severities = [advice["severity"] for advice in ADVICE.values()]
    assert severities == sorted(severities, key=["critical", "warning", "note"].index)


def test_a_version_that_is_loading_is_no_difference() -> None:
    loading = workers(replace(WORKER, loading="2"), replace(OTHER, version="2"))

    assert "versions-differ" not in found(loading)


def test_the_reason_that_most_dead_pictures_have_is_named() -> None:
    newest = [{"reason": reason} for reason in ("lost", "broken", "lost")]

    told = found(replace(queue(dead=3), dead={"shapes": newest}))

    assert told == {
        "dead": "3 pictures of model shapes were given up; of the last 3, 2 because: lost"
    }


def test_every_finding_names_a_page_and_a_section_that_exist() -> None:
    root = Path(__file__).parents[2]
    for advice in ADVICE.values():
        page, _, place = advice["page"].partition("#")
        titles = re.findall(r"^#+ (.*)$", (root / page).read_text(), flags=re.MULTILINE)
        # As pages on the web name their sections.
        places = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
        assert place in places, advice
