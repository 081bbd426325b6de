"""What tests of every kind share: real redis-servers, queues on them, and the rendered chart.

A test that asks for ``shared_redis`` or ``redis_server`` runs once per redis-server that this
machine has. A missing one is a skip at home and a failure where ``CI=true``.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from bench.history import NotInHistory, unpack, unpack_source
from tests.chart.helm import PROGRAMS, Helm
from tests.kubernetes_api import KubernetesApi, rules_of, serving
from tests.redis_server import (
    Executable,
    QueueMaker,
    RedisServer,
    RedisServers,
    executables,
    running,
)

RELEASE = "27709f3"
"""The commit that is release 0.1.0."""

# A slow example is no failure: the machine may be busy.
hypothesis.settings.register_profile("unhurried", hypothesis.settings(), deadline=None)
# For `make mutants`: that a property fails is enough, the smallest example is not looked for.
hypothesis.settings.register_profile(
    "mutants",
    deadline=None,
    max_examples=25,
    derandomize=True,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
hypothesis.settings.load_profile("unhurried")


def pytest_collection_finish() -> None:
    # Ten thousand collected tests live as long as pytest: looking through them takes half a second
    # of each collection of garbage.
    gc.freeze()


@pytest.fixture(scope="session")
def redis_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServers]:
    servers = RedisServers(tmp_path_factory.mktemp("redis"))
    yield servers
    servers.stop()


@pytest.fixture(params=executables(), ids=str)
def redis_executable(request: pytest.FixtureRequest) -> Executable:
    executable: Executable = request.param
    return executable


@pytest.fixture
def shared_redis(redis_executable: Executable, redis_servers: RedisServers) -> RedisServer:
    """A server that other tests use too, emptied. It must not be killed or set up differently."""
    return redis_servers.get(redis_executable)


@pytest.fixture
def redis_server(redis_executable: Executable, tmp_path: Path) -> Iterator[RedisServer]:
    """A server of this test's own, to be killed, frozen and set up at will."""
    with running(RedisServer(redis_executable.found(), tmp_path / "redis")) as server:
        yield server


@pytest.fixture
def make_queue() -> Iterator[QueueMaker]:
    maker = QueueMaker()
    yield maker
    maker.close()


@pytest.fixture(scope="session")
def autoscaler_chart(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Two models and their autoscaler, as a real helm renders them into namespace default."""
    cache = getattr(request.config, "cache", None)
    unpacked = cache.mkdir("helm") if cache else tmp_path_factory.mktemp("helm-programs")
    helm = Helm(PROGRAMS[0].unpacked(unpacked), tmp_path_factory.mktemp("helm"))
    models = {
        "shapes": {"scaling": {"deletionCost": True}},
        "other": {"network": "shapes", "queue": "other_queue"},
    }
    limits = {"queueBytesLimit": "64Mi"}
    return helm.render({"models": models, "defaultModel": "shapes", "limits": limits})


@pytest.fixture
def kubernetes_api(autoscaler_chart: list[dict[str, Any]]) -> Iterator[KubernetesApi]:
    """A Kubernetes API that grants what the chart's Role grants; with one replica each."""
    with serving(KubernetesApi(rules_of(autoscaler_chart, "imageserve-autoscaler"))) as api:
        for rendered in autoscaler_chart:
            name = rendered["metadata"]["name"]
            if rendered["kind"] == "Deployment" and name.startswith("imageserve-model-"):
                api.add_deployment(name, replicas=1)
            elif rendered["kind"] == "Lease":
                api.add_lease(name)
        yield api


@pytest.fixture(scope="session")
def old_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the source of the release; skip the test where the history does not hold it."""
    with _history():
        return unpack_source(RELEASE, tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="session")
def old_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the chart of the release, as `old_source` does with the source."""
    with _history():
        return unpack(RELEASE, "charts/imageserve", tmp_path_factory.mktemp("release"))


@contextmanager
def _history() -> Iterator[None]:
    try:
        yield
    except NotInHistory as error:
        pytest.skip(f"release 0.1.0 ({RELEASE}) is not in the history of this checkout: {error}")
