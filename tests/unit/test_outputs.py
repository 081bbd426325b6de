"""What may be asked of a model beside its likeliest labels, and how long an answer may be."""

import json
from dataclasses import replace

import pytest
from tests.memory_queue import encode_job

from imageserve.predictions import FEW_LABELS, Outputs, Prediction
from imageserve.queue.outputs import (
    MOST_RESULT_BYTES,
    NEVER,
    NOT_YET,
    asked_labels,
    bounded,
    given_by_all,
    missing,
)
from imageserve.queue.snapshot import (
    Snapshot,
    WorkerInfo,
    decode_worker_info,
    encode_worker_info,
)
from imageserve.queue.wire import (
    Finished,
    Job,
    NotAResult,
    Result,
    UnsupportedJob,
    decode_job,
    decode_result,
    encode_result,
)

NOW = 1_000_000
SCORES, BOTH, OLD = Outputs(("scores",)), Outputs(("scores", "embedding"), True), None
JOB = Job("id-1", "m", (8, 8, 3), 5, "reply", "trace", 60_000, ts=7, deadline=9)
RESULT = Result("id-1", "m", 1.5, 2.5, 32, predictions=(Prediction("cat", 0.75),))


def worker(outputs: Outputs | None, model: str = "m", state: str = "ready") -> WorkerInfo:
    return WorkerInfo(
        "w", model, (8, 8, 3), 4, {4: 20.0}, state, "host", NOW, outputs=outputs, classes=3
    )


def snapshot(*workers: WorkerInfo) -> Snapshot:
    return Snapshot(NOW, 0, 0, 0, 0, 0, workers=workers)


# -- what workers give ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "output", "expected"),
    [
        pytest.param([], "embedding", None, id="none lives: the one that comes will say"),
        pytest.param([worker(SCORES), worker(BOTH)], "scores", None, id="all give it"),
        pytest.param([worker(SCORES), worker(BOTH)], "embedding", NOT_YET, id="one gives it"),
        pytest.param([worker(SCORES)], "embedding", NEVER, id="the model names none"),
        pytest.param([worker(OLD)], "scores", NOT_YET, id="a worker of 0.1.0"),
        pytest.param([worker(OLD), worker(BOTH)], "scores", NOT_YET, id="in a rolling upgrade"),
        pytest.param(
            [worker(SCORES, "other"), worker(BOTH)], "embedding", None, id="another model"
        ),
        pytest.param(
            [worker(OLD, state="stopping"), worker(BOTH)],
            "scores",
            None,
            id="an old one that stops",
        ),
        pytest.param([worker(OLD)], "labels", None, id="labels from all"),
    ],
)
def test_an_output_is_asked_for_while_all_live_workers_of_the_model_give_it(
    workers: list[WorkerInfo], output: str, expected: str | None
) -> None:
    found = missing(snapshot(*workers), "m", output)

    assert (found and found[0]) == expected


def test_what_each_worker_gives_is_listed_in_one_order() -> None:
    assert given_by_all([worker(BOTH)]) == ["labels", "scores", "embedding"]
    assert given_by_all([worker(BOTH), worker(SCORES)]) == ["labels", "scores"]
    assert given_by_all([worker(BOTH), worker(OLD)]) == ["labels"]


@pytest.mark.parametrize("outputs", [SCORES, BOTH, Outputs(), OLD])
def test_a_heartbeat_says_what_a_model_gives(outputs: Outputs | None) -> None:
    info = worker(outputs)

    assert decode_worker_info("w", NOW, encode_worker_info(info)) == replace(info, last_seen=NOW)


@pytest.mark.parametrize("told", [None, "scores", {"scores": 1}, [["scores"]], [1]])
def test_a_worker_of_a_later_release_that_says_it_otherwise_counts_all_the_same(
    told: object,
) -> None:
    text = json.dumps({**json.loads(encode_worker_info(worker(BOTH))), "outputs": told})

    info = decode_worker_info("w", NOW, text)

    assert (info.outputs, info.bucket_ms) == (None, {4: 20.0})


# -- jobs and results -----------------------------------------------------------------------------


def test_a_job_that_asks_for_labels_alone_has_no_field_that_version_1_lacks() -> None:
    assert not {"min", "want"} & json.loads(encode_job(JOB)).keys()
    asked = json.loads(encode_job(replace(JOB, least=0.25, want="scores")))
    assert (asked["min"], asked["want"]) == (0.25, "scores")


@pytest.mark.parametrize("wrong", [{"min": "0.3"}, {"min": -1}, {"min": True}, {"want": 5}])
def test_a_job_with_a_wrong_wish_is_not_run(wrong: dict[str, object]) -> None:
    job = decode_job(json.dumps({**json.loads(encode_job(JOB)), **wrong}))

    assert isinstance(job, UnsupportedJob)


@pytest.mark.parametrize("vector", ["a", "%%%%", "AAA=", 5, None])
def test_a_result_with_a_vector_that_is_none_is_no_result(vector: object) -> None:
    with pytest.raises(NotAResult):
        decode_result(json.dumps({**json.loads(encode_result(RESULT)), "vector": vector}))


@pytest.mark.parametrize(
    ("top", "least", "expected"),
    [
        pytest.param(2, 0.0, ["a", "b"], id="the likeliest"),
        pytest.param(9, 0.2, ["a", "b"], id="those that are likely enough"),
        pytest.param(1, 0.2, ["a"], id="at most so many of them"),
        pytest.param(9, 0.25, ["a", "b"], id="just likely enough"),
        pytest.param(9, 0.9, ["a"], id="one, so that it is a result"),
    ],
)
def test_a_result_has_the_labels_that_its_job_asks_for(
    top: int, least: float, expected: list[str]
) -> None:
    batch = (Prediction("a", 0.5), Prediction("b", 0.25), Prediction("c", 0.125))

    kept = asked_labels(replace(JOB, top=top, least=least), batch)

    assert [each.label for each in kept] == expected


def finished(result: Result) -> Finished:
    return Finished("id-1", "reply", result, 60_000, "completed")


@pytest.mark.parametrize(
    ("result", "remedy"),
    [
        (replace(RESULT, vector=bytes(MOST_RESULT_BYTES)), "name a shorter inner layer"),
        (
            replace(RESULT, predictions=(Prediction("a" * 4000, 0.1),) * 300),
            "ask for fewer labels, by top or min",
        ),
    ],
)
def test_a_result_that_is_too_long_for_redis_says_what_to_do(result: Result, remedy: str) -> None:
    done = bounded(finished(result))

    assert done.counter == "failed"
    assert done.dead == "", "the picture is not to blame"
    assert done.result.error is not None
    assert done.result.error.code == "model_failed"
    assert done.result.error.message.endswith(remedy)
    assert len(encode_result(done.result)) < 1000


@pytest.mark.parametrize(
    "result",
    [
        RESULT,
        replace(RESULT, vector=bytes(MOST_RESULT_BYTES // 2)),
        replace(RESULT, predictions=(Prediction("a", 0.1),) * (FEW_LABELS + 1)),
    ],
)
def test_any_other_result_is_left_as_it_is(result: Result) -> None:
    done = finished(result)

    assert bounded(done) is done
