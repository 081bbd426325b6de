"""Scores, embeddings and probable labels over HTTP, from real web processes and workers."""

import math
import struct
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image
from tests.onnx_files import LABELS, kernel_of, write_labels, write_onnx
from tests.pictures import encoded
from tests.system.client import Reply, at_once
from tests.system.conftest import MakeStack
from tests.system.samples import EXACT, Sample, samples
from tests.system.stack import SOURCE, Stack

from imageserve.models.stand_in import stand_in_class

BYTES = "application/octet-stream"
STAND_IN = "stand-in:batch_ms=5,image_ms=0,size=64"


def numbers(reply: Reply) -> tuple[float, ...]:
    """Return the numbers of an answer in bytes, having checked its shape."""
    assert reply.status == 200, reply.text
    assert reply.headers["content-type"] == BYTES
    sides = [int(side) for side in reply.headers["x-shape"].split(",")]
    return struct.unpack(f"<{math.prod(sides)}f", reply.body)


def best(scores: tuple[float, ...]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)


def test_vectors_and_probable_labels_of_many_pictures_at_once(make_stack: MakeStack) -> None:
    stack = make_stack(MODEL=f"{STAND_IN},embedding=12", BATCH_SIZE="16")
    pictures = samples(40)
    asked = [stack.http.predict] * 4
    queries = ("?output=scores", "?output=embedding", "?min=0.5", "")
    calls = [
        partial(ask, picture.data, query, Accept=BYTES)
        for picture in pictures
        for ask, query in zip(asked, queries, strict=True)
    ]

    replies = at_once(calls, most=32)

    for number, picture in enumerate(pictures):
        scores, embedding, probable, usual = replies[4 * number : 4 * number + 4]
        assert best(numbers(scores)) == stand_in_class(picture.label, 1000)
        assert bytes(map(int, numbers(embedding))).decode() == picture.label
        assert probable.labels == [picture.label]
        assert usual.labels[0] == picture.label
        assert len(usual.labels) == 5
    assert stack.http.get("/models").json["models"]["stand-in"]["outputs"] == [
        "labels",
        "scores",
        "embedding",
    ]
    # Labels may be read once more, vectors are gone once they were read.
    stack.wait_for(lambda: len(stack.names("r")) == 80, "the results of vectors are removed")


def test_long_vectors_come_whole_and_longer_ones_say_what_to_do(make_stack: MakeStack) -> None:
    longest = 190_000
    stack = make_stack(MODEL=f"{STAND_IN},classes={longest},embedding={longest + 10_000}")
    pictures = samples(24)
    calls = [partial(stack.http.predict, p.data, "?output=scores", Accept=BYTES) for p in pictures]

    for picture, reply in zip(pictures, at_once(calls, most=24), strict=True):
        assert best(numbers(reply)) == stand_in_class(picture.label, longest)
    reply = stack.http.predict(pictures[0].data, "?output=embedding")
    assert (reply.status, reply.code) == (422, "model_failed")
    assert reply.message.endswith("that one may have: name a shorter inner layer")
    assert stack.http.predict(pictures[0].data).labels[0] == pictures[0].label


def test_a_real_model_of_several_labels_gives_all_of_it(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    folder = tmp_path / "tags"
    folder.mkdir()
    write_onnx(folder / "model.onnx", head="Sigmoid", weight=0.01)
    write_labels(folder / "labels.txt", LABELS)
    (folder / "imageserve.yaml").write_text("embedding: means")
    stack = make_stack(MODEL=f"{folder}/")
    picture = encoded(Image.new("RGB", (8, 8), (200, 100, 50)), "PNG")

    told = stack.http.get("/models").json["models"]["tags"]
    scores = numbers(stack.http.predict(picture, "?output=scores", Accept=BYTES))
    embedding = numbers(stack.http.predict(picture, "?output=embedding", Accept=BYTES))
    least = sorted(scores)[1]
    probable = stack.http.predict(picture, f"?min={least - 1e-4:.6f}").json["predictions"]

    assert (told["multi_label"], told["classes"]) == (True, 3)
    assert told["outputs"] == ["labels", "scores", "embedding"]
    assert [*embedding] == [200, 100, 50]
    logits = np.asarray(embedding) @ kernel_of(weight=0.01)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)
    assert [each["probability"] for each in probable] == sorted(scores, reverse=True)[:2]


# -- beside release 0.1.0 -------------------------------------------------------------------------


@pytest.fixture
def picture() -> Sample:
    return samples(1)[0]


def gives(stack: Stack, outputs: list[str] | None) -> None:
    """Wait until all web processes know that the workers give this."""
    stack.wait_for(
        lambda: stack.http.get("/models").json["models"]["stand-in"]["outputs"] == outputs,
        f"workers that give {outputs}",
    )


def test_beside_a_worker_of_0_1_0_vectors_wait_and_labels_do_not(
    make_stack: MakeStack, picture: Sample, old_source: Path
) -> None:
    stack = make_stack(workers=0)
    old = stack.start_worker(PYTHONPATH=str(old_source))
    gives(stack, None)
    refused = stack.http.predict(picture.data, "?output=scores")
    assert (refused.status, refused.code) == (503, "busy")
    assert refused.retry_after_s > 0
    assert refused.message == "0 of 1 workers of the model give its scores"
    assert stack.http.predict(picture.data, "?min=0.5").labels == [picture.label]
    assert len(stack.http.predict(picture.data, "?top=all").labels) == 1000

    stack.start_worker()
    gives(stack, ["labels"])
    replies = at_once([partial(stack.http.predict, picture.data, "?min=0.5")] * 20)
    assert [reply.labels for reply in replies] == [[picture.label]] * 20
    assert stack.http.predict(picture.data, "?output=scores").status == 503

    old.kill()
    stack.db.zrem(stack.keys.workers, *old_ids(stack))
    gives(stack, ["labels", "scores"])
    stack.wait_for(
        lambda: stack.http.predict(picture.data, "?output=scores").status == 200, "scores"
    )


def old_ids(stack: Stack) -> list[bytes]:
    """Return the workers whose heartbeats do not say what they give."""
    infos = cast(dict[bytes, bytes], stack.db.hgetall(stack.keys.workers_info))
    return [worker for worker, info in infos.items() if b'"outputs"' not in info]


def test_a_web_process_of_0_1_0_gets_labels_of_a_new_worker(
    make_stack: MakeStack, old_source: Path
) -> None:
    (picture,) = samples(1, policy=EXACT)
    stack = make_stack(workers=0, PYTHONPATH=str(old_source))
    stack.start_worker(PYTHONPATH=str(SOURCE))

    reply = stack.http.predict(picture.data, "?top=3&min=0.5&output=scores")

    assert reply.labels[0] == picture.label
    assert len(reply.labels) == 3
