"""The chart's own Redis: a real redis-server accepts its configuration and applies it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.chart.helm import Helm, Object
from tests.chart.objects import PodTemplate, of_kind, pod_templates, the
from tests.chart.situations import PASSWORD
from tests.redis_server import Executable, eventually, free_port

MEBI = 2**20
SECRET_WORD = "a password, with spaces"
VALUES: dict[str, Any] = {"redis": {"extraConfig": ["slowlog-max-len 64", "maxclients 500"]}}


def redis_pod(objects: list[Object]) -> PodTemplate:
    (found,) = [p for p in pod_templates(objects) if p.spec["containers"][0]["name"] == "redis"]
    return found


def client(port: int, password: str | None) -> "redis.Redis":
    return redis.Redis(host="127.0.0.1", port=port, password=password, retry=Retry(NoBackoff(), 0))


@pytest.fixture
def port(helm4: Helm, redis_executable: Executable, tmp_path: Path) -> Iterator[int]:
    """The port of a server that was started as the container starts it."""
    program = redis_executable.found()
    objects = helm4.render(VALUES, PASSWORD)
    config = tmp_path / "redis.conf"
    text = the(objects, "ConfigMap", "imageserve-redis")["data"]["redis.conf"]
    config.write_text(text.replace("dir /data\n", f"dir {tmp_path}\n"))
    _, path, *options = redis_pod(objects).spec["containers"][0]["command"]
    assert path == "/etc/redis/redis.conf"
    told = [SECRET_WORD if each == "$(REDISCLI_AUTH)" else each for each in options]
    number = free_port()
    here = ["--bind", "127.0.0.1", "--port", str(number)]
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen([program, str(config), *told, *here], stdout=log, stderr=log)
    try:
        eventually(lambda: _answers(number), f"an answer; {tmp_path}/log.txt")
        yield number
    finally:
        process.terminate()
        process.wait(20)


def _answers(port: int) -> bool:
    try:
        with client(port, SECRET_WORD) as asking:
            return bool(asking.ping())
    except redis.RedisError:
        return False


def test_it_is_set_up_as_the_values_say(port: int) -> None:
    with client(port, SECRET_WORD) as asking:
        said: Any = asking.config_get("*")

    assert said["maxmemory"] == str(512 * 2**20)
    # Web and model pods refuse a Redis without it.
    assert said["maxmemory-policy"] == "noeviction"
    assert said["appendonly"] == "yes"
    assert said["save"] == ""
    assert said["slowlog-max-len"] == "64"
    assert said["maxclients"] == "500"


@pytest.mark.parametrize(
    ("redis", "expected"),
    [
        pytest.param({}, 512 * MEBI, id="of the defaults"),
        pytest.param({"requests": {"memory": "900Mi"}}, 450 * MEBI, id="of the request"),
        pytest.param(
            {"requests": {"memory": None}, "limits": {"memory": "3Gi"}},
            1536 * MEBI,
            id="Kubernetes requests what the limit is",
        ),
    ],
)
def test_half_of_the_memory_that_is_requested_is_for_data(
    helm4: Helm, redis: dict[str, Any], expected: int
) -> None:
    objects = helm4.render({"redis": {"resources": redis}}, PASSWORD)
    config = the(objects, "ConfigMap", "imageserve-redis")["data"]["redis.conf"]

    assert f"\nmaxmemory {expected}\n" in config


def test_a_maxmemory_that_is_given_counts(helm4: Helm) -> None:
    objects = helm4.render({"redis": {"maxmemory": "500Mi"}}, PASSWORD)

    config = the(objects, "ConfigMap", "imageserve-redis")["data"]["redis.conf"]

    assert f"\nmaxmemory {500 * MEBI}\n" in config


def test_a_client_without_the_password_is_refused(port: int) -> None:
    for password in (None, "another"):
        with client(port, password) as asking, pytest.raises(redis.AuthenticationError):
            asking.ping()


def test_its_probes_carry_the_password(helm4: Helm) -> None:
    container = redis_pod(helm4.render(PASSWORD)).spec["containers"][0]
    names = {each["name"]: each.get("valueFrom") for each in container["env"]}

    assert "secretKeyRef" in names["REDISCLI_AUTH"]
    for kind in ("startup", "readiness", "liveness"):
        assert container[f"{kind}Probe"]["exec"]["command"][0] == "redis-cli"


def test_valkey_is_called_by_its_own_name(helm4: Helm) -> None:
    image = {"repository": "valkey/valkey", "tag": "8.1.4"}
    container = redis_pod(helm4.render({"redis": {"image": image}}, PASSWORD)).spec["containers"][0]

    assert container["command"][0] == "valkey-server"
    assert container["livenessProbe"]["exec"]["command"][0] == "valkey-cli"


def test_there_is_one_and_never_two_at_once(helm4: Helm) -> None:
    owner = redis_pod(helm4.render(PASSWORD)).owner

    assert owner["spec"]["replicas"] == 1
    assert owner["kind"] == "StatefulSet" or owner["spec"]["strategy"]["type"] == "Recreate"


def test_its_data_is_on_a_claim_that_may_outlive_the_release(helm4: Helm) -> None:
    persistence = {"enabled": True, "keep": True, "size": "9Gi", "storageClassName": "fast"}
    objects = helm4.render({"redis": {"persistence": persistence}}, PASSWORD)
    (claim,) = of_kind(objects, "PersistentVolumeClaim")

    assert claim["spec"]["resources"]["requests"]["storage"] == "9Gi"
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_without_a_claim_its_space_on_the_node_is_limited(helm4: Helm) -> None:
    volumes = redis_pod(helm4.render(PASSWORD)).spec["volumes"]

    assert {"name": "data", "emptyDir": {"sizeLimit": "4Gi"}} in volumes


def test_no_service_leads_to_it_from_outside(helm4: Helm) -> None:
    values = {"web": {"service": {"type": "LoadBalancer"}}}
    types = {
        service["metadata"]["name"]: service["spec"].get("type", "ClusterIP")
        for service in of_kind(helm4.render(values, PASSWORD), "Service")
    }

    assert types == {"imageserve-web": "LoadBalancer", "imageserve-redis": "ClusterIP"}
