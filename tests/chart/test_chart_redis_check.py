"""The hook that tries an external Redis before an upgrade; its program runs for real."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.chart.helm import Helm, Object
from tests.chart.network import Flow, Peer, allowed, pod_peer
from tests.chart.objects import (
    PodTemplate,
    annotations,
    of_kind,
    pod_templates,
    title,
    walk,
)
from tests.chart.pod_security import violations
from tests.chart.situations import (
    PASSWORD,
    PULLED,
    SITUATIONS,
    Situation,
    each_situation,
    external_redis,
)
from tests.chart.test_chart_settings import file_in
from tests.redis_server import RedisServer, executables, free_port

NS = "pictures"
SECRET = "not-a-real-password"
EXTERNAL = [each for each in SITUATIONS if "external" in each.name or "sentinel" in each.name]


def check_in(objects: list[Object]) -> list[Object]:
    """Return the objects of the check, in the order in which Helm creates them."""
    hooks = [o for o in objects if annotations(o).get("helm.sh/hook") == "pre-upgrade"]
    return sorted(hooks, key=lambda o: int(annotations(o)["helm.sh/hook-weight"]))


def pod_of(objects: list[Object]) -> PodTemplate:
    (pod,) = pod_templates(check_in(objects))
    return pod


# -- what it does ---------------------------------------------------------------------------------


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(executables()[0].found(), tmp_path / "redis", "--requirepass", SECRET)
    # Its own client has no password: it is ready as soon as it says so.
    server._answers = lambda: b"Ready to accept" in log.read_bytes()  # type: ignore[method-assign]
    log = tmp_path / "redis" / "log.txt"
    server.start()
    yield server
    server.stop()


def run(
    objects: list[Object], directory: Path, password: str = SECRET, wait_s: str = "0"
) -> subprocess.CompletedProcess[str]:
    """Run the container as the kubelet would, on this machine's Python."""
    (container,) = pod_of(objects).containers
    env = {each["name"]: each.get("value", password) for each in container["env"]}
    path = directory / "models.yaml"
    path.write_text(file_in(pod_of(objects), container, env["MODELS_FILE"], objects))
    arguments = [wait_s if each == "20" else each for each in container["args"]]
    return subprocess.run(
        [sys.executable, "-m", "imageserve", *arguments],
        env={
            **env,
            "MODELS_FILE": str(path),
            "PATH": os.defpath,
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def to(port: int) -> dict[str, Any]:
    return external_redis(host="127.0.0.1", port=port, existingSecret="redis")


def test_a_redis_that_can_serve_passes(
    helm4: Helm, redis_server: RedisServer, tmp_path: Path
) -> None:
    several = {"defaultModel": "shapes", "models": {"other": {"network": "stand-in"}}}
    done = run(helm4.render(to(redis_server.port), several), tmp_path)

    assert done.returncode == 0, done.stderr
    for queue in ("image_queue", "image_queue_other"):
        assert f"{queue}: Redis can serve as its queue\n" in done.stdout


def test_a_wrong_port_is_found_before_anything_is_taken_away(helm4: Helm, tmp_path: Path) -> None:
    done = run(helm4.render(to(free_port())), tmp_path, wait_s="1")

    assert done.returncode == 1
    assert "image_queue: Redis: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_password_ends_it_at_once(
    helm4: Helm, redis_server: RedisServer, tmp_path: Path
) -> None:
    done = run(helm4.render(to(redis_server.port)), tmp_path, password="wrong", wait_s="1000")

    assert done.returncode == 1
    assert "Redis refused: " in done.stderr


# -- when it runs ---------------------------------------------------------------------------------


@each_situation(EXTERNAL)
def test_it_runs_before_an_upgrade_and_a_failure_keeps_its_log(
    helm: Helm, situation: Situation
) -> None:
    *before, job = check_in(situation.render(helm))

    assert job["kind"] == "Job"
    assert {o["kind"] for o in before} == {"Secret", "NetworkPolicy"}
    assert {annotations(o)["helm.sh/hook-delete-policy"] for o in [*before, job]} == {
        "before-hook-creation,hook-succeeded"
    }
    assert job["spec"]["backoffLimit"] == 0
    assert pod_of([job]).spec["restartPolicy"] == "Never"
    # Helm waits five minutes.
    assert job["spec"]["activeDeadlineSeconds"] < 300


@each_situation(EXTERNAL)
def test_it_needs_nothing_of_a_release_that_does_not_exist_yet(
    helm4: Helm, situation: Situation
) -> None:
    objects = situation.render(helm4)
    *before, job = check_in(objects)
    of_the_release = {
        o["metadata"]["name"] for o in objects if "helm.sh/hook" not in annotations(o)
    }
    own = {o["metadata"]["name"] for o in before}

    named = {v for path, v in walk(job["spec"]) if path[-1:] and path[-1] in ("name", "secretName")}

    assert "serviceAccountName" not in pod_of([job]).spec
    assert named & of_the_release <= own
    assert named & own


@pytest.mark.parametrize(
    "values",
    [
        (PASSWORD,),
        (external_redis(check={"enabled": False}),),
        ({"manifests": True}, external_redis()),
    ],
    ids=["own Redis", "switched off", "manifests"],
)
def test_it_is_left_out(helm4: Helm, values: Any) -> None:
    assert check_in(helm4.render(*values)) == []
    assert "redis-check" not in helm4.text(*values)


# -- its pod --------------------------------------------------------------------------------------


@each_situation(EXTERNAL)
def test_it_reaches_the_new_redis_under_the_old_policies(helm4: Helm, situation: Situation) -> None:
    """The policies of the release that is to be upgraded let its pods reach the old Redis only."""
    old = of_kind(helm4.render(PASSWORD, namespace=NS), "NetworkPolicy")
    new = check_in(situation.render(helm4, namespace=NS))
    pod = pod_peer(pod_of(new), NS)
    env = {each["name"]: each.get("value", "") for each in pod_of(new).containers[0]["env"]}
    port = int(env["REDIS_URL"].partition("://")[2].partition("/")[0].rpartition(":")[2])
    redis, dns = Peer("203.0.113.9"), Peer("10.42.9.9", "kube-system", {"k8s-app": "kube-dns"})

    assert not allowed(old, NS, Flow(pod, redis, port))
    assert allowed([*old, *new], NS, Flow(pod, redis, port))
    assert allowed([*old, *new], NS, Flow(pod, dns, 53, "UDP"))
    assert not allowed([*old, *new], NS, Flow(redis, pod, 8000))


@pytest.mark.parametrize("account", [{}, {"name": "puller"}], ids=str)
def test_an_account_of_the_user_is_that_of_the_web_pods(helm4: Helm, account: Any) -> None:
    """It is there before the upgrade, and pull secrets may hang on it."""
    objects = helm4.render(to(6379), {"web": {"serviceAccount": {"create": False, **account}}})
    (web,) = [p for p in pod_templates(objects) if title(p.owner) == "Deployment/imageserve-web"]

    assert web.spec["serviceAccountName"] == account.get("name", "default")
    assert pod_of(objects).spec["serviceAccountName"] == web.spec["serviceAccountName"]


def test_it_is_pulled_and_secured_like_the_other_pods(helm4: Helm) -> None:
    shared = {"securityContext": {"seLinuxOptions": {"level": "s0"}}, "tolerations": [{"key": "a"}]}
    objects = helm4.render(to(6379), PULLED, {"web": shared})
    (web,) = [p for p in pod_templates(objects) if title(p.owner) == "Deployment/imageserve-web"]
    check = pod_of(objects)

    assert violations(check.spec) == []
    for key in ("imagePullSecrets", "securityContext", "tolerations"):
        assert check.spec[key] == web.spec[key]
    for key in ("image", "imagePullPolicy", "securityContext"):
        assert check.containers[0][key] == web.containers[0][key]
    assert check.spec["automountServiceAccountToken"] is False
