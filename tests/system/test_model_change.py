"""A model is replaced while requests come: none is lost; none gets a model of another name."""

import signal
import time
from functools import partial
from pathlib import Path

from tests.system.client import at_once, in_background
from tests.system.conftest import MakeStack
from tests.system.samples import AS_SERVED, label_of, samples

from imageserve.decoding import decode
from imageserve.models.stand_in import stand_in_label
from imageserve.preparation import Preparation
from imageserve.queue.admission import FRESH_S

NEW_SIZE = 32


def test_waiting_requests_are_answered_by_a_model_of_another_size(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    stack = make_stack(workers=1)
    (old,) = stack.workers
    old.send(signal.SIGTERM)
    assert old.wait() == 0
    pictures = samples(12)
    calls = [partial(stack.http.predict, p.data) for p in pictures]
    with in_background(calls) as futures:
        stack.wait_for(lambda: stack.waiting() == 12, "all wait, at the old size")
        stack.start_worker(wait=False, MODELS_FILE=str(new_model(tmp_path)), MODEL="stand-in")
    labels = [future.result().labels[0] for future in futures]
    assert labels == [label_of(p.data, NEW_SIZE) for p in pictures]
    # What workers need is looked at once a second: later ones are queued once, but for those that
    # came while one of them looked.
    time.sleep(FRESH_S + 0.1)
    assert [r.labels[0] for r in at_once(calls)] == labels
    assert 3 * 12 <= stack.stats()["accepted"] < 4 * 12
    stack.wait_for(stack.idle, "all jobs are done")
    assert not stack.names("p")


def test_while_both_sizes_are_served_every_request_is_answered(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    stack = make_stack(workers=1)
    stack.start_worker(MODELS_FILE=str(new_model(tmp_path)), MODEL="stand-in")
    pictures = samples(40)
    one_by_one = [stack.http.predict(picture.data) for picture in pictures]
    together = at_once([partial(stack.http.predict, p.data) for p in pictures], most=8)
    for picture, reply in zip(2 * pictures, [*one_by_one, *together], strict=True):
        assert reply.status == 200
        assert reply.labels[0] in {picture.label, label_of(picture.data, NEW_SIZE)}

    stack.workers[0].send(signal.SIGTERM)
    assert stack.workers[0].wait() == 0
    replies = at_once([partial(stack.http.predict, p.data) for p in pictures], most=8)
    assert [r.labels[0] for r in replies] == [label_of(p.data, NEW_SIZE) for p in pictures]


def test_two_services_on_one_queue_never_answer_with_the_model_of_the_other(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    stack = make_stack(workers=1)
    file = str(new_model(tmp_path, "other", size=64))
    stack.start_worker(MODELS_FILE=file, MODEL="other")
    pictures = samples(40)
    replies = at_once([partial(stack.http.predict, p.data) for p in pictures], most=8)
    refused = [reply for reply in replies if reply.status != 200]
    assert refused
    assert len(refused) < len(replies)
    for reply in refused:
        assert (reply.status, reply.code, reply.retry_after_s) == (503, "busy", 2)
        assert "the model other works on the queue image_queue of the model stand-in" in reply.text
    # The labels of both are the same, so the worker's log says who answered.
    (other,) = stack.workers[1:]
    assert sum(line["run"] for line in other.batches()) == 0
    stack.wait_for(
        lambda: stack.web.lines("several models work on the queue image_queue"), "a warning"
    )


def test_two_versions_that_need_different_pictures_each_get_theirs(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    stack = make_stack(workers=1)
    stack.start_worker(MODELS_FILE=str(cropping(tmp_path)), MODEL="stand-in")
    pictures = samples(24)
    calls = [partial(stack.http.predict, p.data) for p in pictures]

    replies = at_once(calls, most=8)

    versions = [reply.headers["x-model-version"] for reply in replies]
    assert set(versions) == {"1", "2"}
    for picture, reply, version in zip(pictures, replies, versions, strict=True):
        expected = picture.label if version == "1" else cropped_label(picture.data)
        assert reply.labels[0] == expected


def test_a_model_at_zero_is_woken_by_pictures_that_are_prepared_for_it(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "web.yaml"
    elsewhere.write_text("stand-in: {queue: image_queue, network: /models/elsewhere/}\n")
    stack = make_stack(workers=0, MODELS_FILE=str(elsewhere), MODEL="")
    file = str(cropping(tmp_path))
    picture, other = samples(2)

    refused = stack.http.predict(picture.data)
    assert (refused.status, refused.code, refused.retry_after_s) == (503, "busy", 5)
    assert "no worker of it has been seen yet" in refused.text
    assert stack.stats() == {"rejected": 1}, "demand, from which the autoscaler starts the first"
    assert stack.http.get("/models").json["models"]["stand-in"]["input_size"] is None

    worker = stack.start_worker(MODELS_FILE=file, MODEL="stand-in")
    stack.wait_for(lambda: stack.http.predict(picture.data).status == 200, "the first answer")
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    accepted = stack.count("accepted")
    with in_background([partial(stack.http.predict, other.data)]) as (future,):
        stack.wait_for(stack.waiting, "a picture that waits for a worker")
        stack.start_worker(wait=False, MODELS_FILE=file, MODEL="stand-in")
    assert future.result().labels[0] == cropped_label(other.data)
    assert stack.count("accepted") == accepted + 1


def cropping(directory: Path) -> Path:
    path = directory / "cropping.yaml"
    path.write_text(
        "stand-in: {queue: image_queue, network: 'stand-in:batch_ms=5,image_ms=0,version=2', "
        "input_size: 64, resize: crop, resize_to: 80}\n"
    )
    return path


def cropped_label(data: bytes) -> str:
    how = Preparation((64, 64), resize="crop", resize_to=80)
    return stand_in_label(decode(data, how, AS_SERVED))


def new_model(directory: Path, name: str = "stand-in", *, size: int = NEW_SIZE) -> Path:
    path = directory / "models.yaml"
    model = f"stand-in:batch_ms=5,image_ms=0,size={size}"
    path.write_text(f"{name}:\n  queue: image_queue\n  network: {model}\n")
    return path
