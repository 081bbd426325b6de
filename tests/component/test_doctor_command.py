"""``imageserve doctor`` on a real Redis, with a Kubernetes API and a web server over HTTP."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.kubernetes_api import KubernetesApi, serving
from tests.queues import RedisQueue
from tests.redis_server import QueueMaker, RedisServer, free_port

from imageserve.cli import main
from imageserve.queue.snapshot import WorkerInfo

WORKER = WorkerInfo("w1", "shapes", (8, 8, 3), 8, {8: 20.0}, "ready", "pod-1")
ALL = [{"apiGroups": ["", "apps"], "resources": ["deployments", "pods"], "verbs": ["list"]}]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def queue(
    redis_server: RedisServer,
    make_queue: QueueMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> RedisQueue:
    """Return the queue of a Redis that is set up well, with one worker."""
    admin = redis_server.client()
    for name, value in (("maxmemory", "2gb"), ("appendonly", "yes")):
        admin.config_set(name, value)
    monkeypatch.setenv("REDIS_URL", redis_server.url)
    monkeypatch.setenv("WEB_PORT", str(free_port()))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    made = make_queue(redis_server.url)
    made.heartbeat(WORKER)
    return made


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with serving(KubernetesApi(ALL)) as api:
        yield api


def doctor(capsys: Capture, *options: str) -> tuple[int, list[str], dict[str, Any]]:
    """Return exit status, names of the findings, and all that is printed."""
    status = main(["doctor", "--json", *options])
    told = json.loads(capsys.readouterr().out)
    return status, [each["name"] for each in told["findings"]], told


def test_a_system_that_is_well_has_no_finding(queue: RedisQueue, capsys: Capture) -> None:
    status, names, told = doctor(capsys)

    assert (status, names) == (0, [])
    # Neither is there, and neither was asked for.
    assert [each.partition(":")[0] for each in told["unseen"]] == ["the cluster", "the web server"]


def test_the_worst_is_said_first_and_decides_the_exit_status(
    queue: RedisQueue, redis_server: RedisServer, make_queue: QueueMaker, capsys: Capture
) -> None:
    make_queue(redis_server.url, "cats").heartbeat(replace(WORKER, id="w2", model="cats"))
    queue.bury("{}", "the model failed")

    warned = doctor(capsys)
    redis_server.client().config_set("maxmemory-policy", "allkeys-lru")
    critical = doctor(capsys)

    assert warned[:2] == (2, ["queue-without-model", "dead"])
    assert critical[:2] == (3, ["redis-evicts", "queue-without-model", "dead"])
    assert "cats" in warned[2]["findings"][0]["what"]
    assert "the model failed" in warned[2]["findings"][1]["what"]
    assert critical[2]["findings"][0] == {
        "name": "redis-evicts",
        "what": "Redis has maxmemory-policy allkeys-lru: when full it throws pictures away",
        "severity": "critical",
        "page": "docs/operations.md#imageserveredisevicts",
        "do": "CONFIG SET maxmemory-policy noeviction",
    }


def test_people_read_what_to_do_and_where_it_is_explained(
    queue: RedisQueue, capsys: Capture
) -> None:
    queue.leave(WORKER.id)

    assert main(["doctor"]) == 0, "a note"

    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "note: model shapes has no live worker; no picture waits",
        "  do: nothing, if the model may scale to zero",
        "  see: docs/operations.md#imageservenoworkers (idle-without-workers)",
    ]
    assert lines[3].startswith("not looked at: the cluster: no cluster to talk to")


def test_a_redis_that_is_away_is_a_finding(
    queue: RedisQueue, redis_server: RedisServer, capsys: Capture
) -> None:
    redis_server.stop()

    assert doctor(capsys)[:2] == (3, ["redis-away"])


def test_deployments_and_pods_are_looked_at_where_rights_allow(
    queue: RedisQueue, api: KubernetesApi, tmp_path: Path, capsys: Capture
) -> None:
    release = {"app.kubernetes.io/instance": "pics"}
    containers = {"spec": {"containers": [{"image": "imageserve/model:0.2.0"}]}}
    api.add_deployment("pics-model-shapes", replicas=2, ready=1)
    api.get("deployments", "pics-model-shapes")["metadata"]["labels"] = release
    api.get("deployments", "pics-model-shapes")["spec"]["template"] = containers
    pod = api.add_pod("pod-2", **release, **{"imageserve-model": "shapes"})
    last = {"reason": "OOMKilled", "finishedAt": datetime.now(UTC).isoformat()}
    killed = {"restartCount": 2, "lastState": {"terminated": last}}
    ready = {"type": "Ready", "status": "True"}
    pod["status"] |= {"conditions": [ready], "containerStatuses": [killed]}
    options = ["--release", "pics", "--kubeconfig", str(api.kubeconfig(tmp_path, "me"))]

    status, names, _ = doctor(capsys, *options)
    elsewhere = doctor(capsys, *options, "--release", "other")
    api.rules.clear()
    forbidden = doctor(capsys, *options)

    assert (status, names) == (2, ["not-ready", "restarts", "pod-without-worker"])
    assert "--release" in elsewhere[2]["unseen"][0], "a wrong name is not a system that is well"
    assert forbidden[:2] == (0, [])
    assert "may not list deployments" in forbidden[2]["unseen"][0]


def test_a_web_server_that_was_named_and_does_not_answer_is_a_finding(
    queue: RedisQueue, capsys: Capture
) -> None:
    assert doctor(capsys, "--url", "http://127.0.0.1:9")[:2] == (3, ["web-away"])


def test_a_line_that_is_no_key_is_found(
    queue: RedisQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "keys").write_text("a-key-of-sixteen\nshort\n")
    monkeypatch.setenv("API_KEYS_FILE", str(tmp_path / "keys"))

    status, names, told = doctor(capsys)

    assert (status, names) == (2, ["unfit-key"])
    assert told["findings"][0]["what"] == (
        f"API_KEYS_FILE: {tmp_path / 'keys'}, line 2: a key has fewer than 16 characters"
    )
