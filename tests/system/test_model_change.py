"""A model is replaced while requests come in: none is lost."""

import signal
from functools import partial
from pathlib import Path

from tests.system.client import at_once, in_background
from tests.system.conftest import MakeStack
from tests.system.samples import label_of, samples

NEW_SIZE = 32


def test_waiting_requests_are_answered_by_a_model_of_another_name_and_size(
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
        stack.start_worker(wait=False, MODELS_FILE=str(new_model(tmp_path)), MODEL="newer")
    labels = [future.result().labels[0] for future in futures]
    assert labels == [label_of(p.data, NEW_SIZE) for p in pictures]
    # Later ones meet only the new model: each is queued twice.
    assert [r.labels[0] for r in at_once(calls)] == labels
    assert stack.stats()["accepted"] == 2 * 24
    stack.wait_for(stack.idle, "all jobs are done")
    assert not stack.names("p")


def test_while_both_models_run_every_answer_is_right_or_says_come_back(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    stack = make_stack(workers=1)
    stack.start_worker(MODELS_FILE=str(new_model(tmp_path)), MODEL="newer")
    pictures = samples(60)
    replies = at_once([partial(stack.http.predict, p.data) for p in pictures], most=8)
    for picture, reply in zip(pictures, replies, strict=True):
        if reply.status == 200:
            assert reply.labels[0] in {picture.label, label_of(picture.data, NEW_SIZE)}
        else:
            assert (reply.status, reply.code) == (503, "busy")
            assert reply.retry_after_s == 1
    # Each attempt meets the wrong model with probability 1/2, and there are ten attempts.
    assert sum(reply.status == 200 for reply in replies) > 50

    stack.workers[0].send(signal.SIGTERM)
    assert stack.workers[0].wait() == 0
    replies = at_once([partial(stack.http.predict, p.data) for p in pictures], most=8)
    assert [r.labels[0] for r in replies] == [label_of(p.data, NEW_SIZE) for p in pictures]


def new_model(directory: Path) -> Path:
    path = directory / "models.yaml"
    model = f"stand-in:batch_ms=5,image_ms=0,size={NEW_SIZE}"
    path.write_text(f"newer:\n  queue: image_queue\n  network: {model}\n")
    return path
