"""Three models on a Redis Cluster: one of its three masters is gone, two models do not notice."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from tests.redis_server import RedisCluster
from tests.redis_server import running as running_redis
from tests.system.client import Reply
from tests.system.samples import label_of, samples
from tests.system.stack import Stack, stacks

SIZE = 32
NORMAL_S = 1.5
"""An answer takes about 20 ms; a time-out of Redis takes 2 s or more."""


@contextmanager
def serving(directory: Path, redis_program: str, cluster: RedisCluster) -> Iterator[Stack]:
    """Run a web server and a worker per model on the cluster."""
    models = cluster.queue_names()
    file = directory / "models.yaml"
    network = f"stand-in:batch_ms=5,image_ms=0,size={SIZE}"
    entries = [f"{name}: {{queue: {name}, network: '{network}'}}\n" for name in models]
    file.write_text("".join(entries))
    env = {"REDIS_URL": cluster.url, "MODELS_FILE": str(file), "MODEL": ""}
    stack = Stack(directory, redis_program, env, ())
    stacks.append(stack)
    try:
        stack.start_web(wait=False)
        for name in models:
            stack.start_worker(wait=False, MODEL=name)
        for worker in stack.workers:
            stack.wait_for(partial(worker.lines, "ready"), f"{worker.name} is ready", 60)
        stack.wait_for(lambda: stack.http.status_of("/readyz") == 200, "the web server", 60)
        yield stack
    finally:
        stacks.remove(stack)
        stack.end()


@pytest.fixture
def cluster(tmp_path: Path, redis_program: str) -> Iterator[RedisCluster]:
    options = ("--cluster-require-full-coverage", "no")
    with running_redis(
        RedisCluster(redis_program, tmp_path / "cluster", *options, masters=3)
    ) as cluster:
        yield cluster


def timed(stack: Stack, model: str, picture: bytes) -> tuple[float, Reply]:
    began = time.monotonic()
    reply = stack.http.predict(picture, f"?model={model}")
    return time.monotonic() - began, reply


def test_with_one_master_gone_the_models_on_the_others_are_served(
    tmp_path: Path, redis_program: str, cluster: RedisCluster
) -> None:
    with serving(tmp_path, redis_program, cluster) as stack:
        lost, *others = cluster.queue_names()
        pictures = [picture.data for picture in samples(10)]
        expected = [label_of(picture, SIZE) for picture in pictures]
        for model in (lost, *others):
            assert timed(stack, model, pictures[0])[1].status == 200

        cluster.node_of(lost).kill()

        for _ in range(3):
            # Requests for the lost model go on: its outage must not slow down the others.
            assert timed(stack, lost, pictures[0])[1].code == "redis_unavailable"
            for model in others:
                with ThreadPoolExecutor(len(pictures)) as pool:
                    answers = list(pool.map(partial(timed, stack, model), pictures))
                assert [reply.labels[0] for _, reply in answers] == expected
                assert max(seconds for seconds, _ in answers) < NORMAL_S
        assert_the_others_are_shown(stack, lost, others)

        cluster.node_of(lost).start()

        stack.wait_for(lambda: timed(stack, lost, pictures[0])[1].status == 200, "it is back", 30)


def assert_the_others_are_shown(stack: Stack, lost: str, others: list[str]) -> None:
    began = time.monotonic()
    status = stack.http.get("/status").json
    assert time.monotonic() - began < 2 * NORMAL_S
    assert (sorted(status["models"]), status["redis"]) == (sorted(others), "unavailable")
    for model in others:
        assert len(status["models"][model]["workers"]) == 1
    listed = stack.http.get("/models").json["models"]
    workers = {name: facts["workers"] for name, facts in listed.items()}
    assert workers == {lost: None, **dict.fromkeys(others, 1)}
    text = stack.http.get("/metrics").text
    for model in others:
        assert f'imageserve_workers{{model="{model}",queue="{model}"}} 1.0' in text
    assert f'imageserve_workers{{model="{lost}"' not in text
    assert stack.http.status_of("/readyz") == 200
