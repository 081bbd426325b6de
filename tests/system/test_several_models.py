"""Several models behind one web server, each with its queue, its size and its workers."""

from collections.abc import Iterator
from functools import partial

import pytest
from tests.system.client import at_once
from tests.system.samples import label_of, samples
from tests.system.stack import Stack, running

SIZES = {"large": 64, "small": 32}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("models")
    file = directory / "models.yaml"
    file.write_text("".join(map(entry, SIZES)))
    with running(directory, redis_program, workers=0, MODELS_FILE=str(file), MODEL="") as stack:
        for name in SIZES:
            stack.start_worker(wait=False, MODEL=name)
        for worker in stack.workers:
            stack.wait_for(partial(worker.lines, "ready"), f"{worker.name} is ready", 60)
        yield stack


def entry(name: str) -> str:
    network = f"stand-in:batch_ms=5,image_ms=0,size={SIZES[name]}"
    return f"{name}:\n  queue: {name}_queue\n  network: {network}\n"


def test_each_model_answers_for_itself_and_the_first_is_the_default(stack: Stack) -> None:
    for query, size in (("", 64), ("?model=large", 64), ("?model=small", 32)):
        pictures = samples(20)
        replies = at_once([partial(stack.http.predict, p.data, query) for p in pictures])
        assert [r.labels[0] for r in replies] == [label_of(p.data, size) for p in pictures]
    assert stack.db.hget("{large_queue}:stats", "completed") == b"40"
    assert stack.db.hget("{small_queue}:stats", "completed") == b"20"


def test_the_error_for_an_unknown_model_lists_the_known_ones(stack: Stack) -> None:
    reply = stack.http.predict(samples(1)[0].data, "?model=other")
    assert (reply.status, reply.code) == (404, "unknown_model")
    assert all(name in reply.json["error"]["message"] for name in SIZES)


def test_all_models_are_listed(stack: Stack) -> None:
    models = stack.http.get("/models").json["models"]
    assert list(models) == list(SIZES)
    for name, size in SIZES.items():
        assert models[name]["queue"] == f"{name}_queue"
        assert models[name]["input_size"] == [size, size]
        assert models[name]["workers"] == 1
    assert stack.http.get("/status").json["models"].keys() == SIZES.keys()


def test_metrics_tell_the_models_apart(stack: Stack) -> None:
    text = stack.http.get("/metrics").text
    for name in SIZES:
        assert f'imageserve_workers{{model="{name}",queue="{name}_queue"}} 1.0' in text
