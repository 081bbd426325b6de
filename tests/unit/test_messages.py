"""The wire format: round trips, and errors for messages that cannot be read."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.memory_queue import encode_job

from imageserve.predictions import Prediction
from imageserve.queue.wire import (
    Job,
    Result,
    ResultError,
    UnsupportedJob,
    decode_job,
    decode_result,
    encode_open_job,
    encode_result,
)

JOB = Job("id-1", "resnet50", (224, 224, 3), 5, "reply", "trace", 60_000, ts=7, deadline=9)
RESULT = Result("id-1", "resnet50", 1.5, 2.5, 32, predictions=(Prediction("cat", 0.75),))

texts = st.text(max_size=40)
sizes = st.integers(1, 4096)
times = st.integers(0, 2**53 - 1)
counts = st.integers(1, 2**53 - 1)
tenths = st.integers(0, 10**9).map(lambda n: n / 10)
predictions = st.builds(Prediction, texts, st.floats(0, 1))

jobs = st.builds(
    Job,
    id=texts,
    model=texts,
    shape=st.tuples(sizes, sizes, st.just(3)),
    top=counts,
    reply=texts,
    trace=texts,
    result_ttl_ms=counts,
    ts=times,
    deadline=times,
)
results = st.builds(
    Result,
    id=texts,
    model=texts,
    queue_ms=tenths,
    model_ms=tenths,
    batch=sizes,
    predictions=st.lists(predictions, max_size=5).map(tuple),
    shape=st.none() | st.tuples(sizes, sizes, st.just(3)),
)


def changed(text: str, **changes: Any) -> str:
    return json.dumps({**json.loads(text), **changes})


def without(text: str, name: str) -> str:
    fields = json.loads(text)
    del fields[name]
    return json.dumps(fields)


@given(jobs)
def test_a_job_is_read_as_it_was_written(job: Job) -> None:
    assert decode_job(encode_job(job)) == job
    assert decode_job(encode_job(job).encode()) == job


@given(results)
def test_a_result_is_read_as_it_was_written(result: Result) -> None:
    assert decode_result(encode_result(result)) == result


@given(texts, texts)
def test_an_error_is_read_as_it_was_written(code: str, message: str) -> None:
    result = replace(RESULT, predictions=(), error=ResultError(code, message))
    assert decode_result(encode_result(result)) == result


@given(jobs)
def test_redis_completes_a_job_by_adding_its_times(job: Job) -> None:
    completed = f'{encode_open_job(job)},"ts":{job.ts},"deadline":{job.deadline}}}'
    assert completed == encode_job(job)
    # ENQUEUE finds the deadline with a pattern: no text may match it.
    assert completed.count('"deadline":') == 1


def test_the_written_job_is_the_one_of_the_protocol() -> None:
    assert json.loads(encode_job(JOB)) == {
        "v": 1,
        "id": "id-1",
        "model": "resnet50",
        "encoding": "rgb8",
        "shape": [224, 224, 3],
        "bytes": 150_528,
        "top": 5,
        "reply": "reply",
        "trace": "trace",
        "result_ttl_ms": 60_000,
        "ts": 7,
        "deadline": 9,
    }


def test_the_written_result_is_the_one_of_the_protocol() -> None:
    common = {"v": 1, "id": "id-1", "model": "resnet50", "model_ms": 2.5, "batch": 32}
    assert json.loads(encode_result(replace(RESULT, queue_ms=1.24))) == {
        **common,
        "queue_ms": 1.2,
        "predictions": [{"label": "cat", "probability": 0.75}],
    }
    failed = replace(RESULT, predictions=(), error=ResultError("model_failed", "a reason"))
    assert json.loads(encode_result(failed)) == {
        **common,
        "queue_ms": 1.5,
        "error": {"code": "model_failed", "message": "a reason"},
    }


def test_a_result_names_the_version_that_made_it_where_its_worker_knows_it() -> None:
    named = replace(RESULT, version="2026-02")

    assert json.loads(encode_result(named))["version"] == "2026-02"
    assert decode_result(encode_result(named)) == named
    assert decode_result(without(encode_result(named), "version")) == RESULT
    with pytest.raises(ValueError, match="not a result"):
        decode_result(changed(encode_result(RESULT), version=2))


def test_fields_of_a_later_release_are_ignored() -> None:
    assert decode_job(changed(encode_job(JOB), priority="high", nested={"a": [1]})) == JOB
    assert decode_result(changed(encode_result(RESULT), node="gpu-7")) == RESULT


def test_a_job_without_a_trace_is_still_a_job() -> None:
    assert decode_job(without(encode_job(JOB), "trace")) == replace(JOB, trace="")


def test_a_job_of_another_version_can_be_answered() -> None:
    answerable = decode_job(changed(encode_job(JOB), v=2))
    assert answerable == UnsupportedJob(
        id="id-1",
        reply="reply",
        model="resnet50",
        result_ttl_ms=60_000,
        reason="job version 2 is not supported, only 1",
        ts=7,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("v", None, id="version: none"),
        pytest.param("v", "1", id="version: text"),
        pytest.param("model", 7, id="model: number"),
        pytest.param("encoding", "jpeg", id="encoding: another"),
        pytest.param("encoding", ["rgb8"], id="encoding: list"),
        pytest.param("shape", "224x224x3", id="shape: text"),
        pytest.param("shape", [224, 224], id="shape: too short"),
        pytest.param("shape", [224, 224, 3, 1], id="shape: too long"),
        pytest.param("shape", [224, 224, 4], id="shape: four channels"),
        pytest.param("shape", [0, 224, 3], id="shape: empty"),
        pytest.param("shape", [224.0, 224.0, 3], id="shape: fractions"),
        pytest.param("shape", {"h": 224}, id="shape: object"),
        pytest.param("top", 0, id="top: none at all"),
        pytest.param("top", 1.5, id="top: fraction"),
        pytest.param("top", True, id="top: a truth"),
        pytest.param("reply", None, id="reply: none"),
        pytest.param("result_ttl_ms", 0, id="lifetime: none"),
        pytest.param("result_ttl_ms", True, id="lifetime: a truth"),
        pytest.param("result_ttl_ms", 10**30, id="lifetime: more than Redis takes"),
        pytest.param("ts", "now", id="time: text"),
        pytest.param("ts", -1, id="time: negative"),
        pytest.param("ts", float("nan"), id="time: not a number"),
        pytest.param("deadline", None, id="deadline: none"),
        pytest.param("deadline", float("inf"), id="deadline: endless"),
    ],
)
def test_a_job_with_a_wrong_field_can_be_answered_and_the_answer_names_the_field(
    name: str, value: Any
) -> None:
    job = decode_job(changed(encode_job(JOB), **{name: value}))
    assert isinstance(job, UnsupportedJob)
    assert job.id == "id-1"
    assert {"v": "version"}.get(name, name) in job.reason
    assert 0 < job.result_ttl_ms < 2**53


@pytest.mark.parametrize(
    "name", sorted(set(json.loads(encode_job(JOB))) - {"id", "trace", "bytes"})
)
def test_a_job_that_lacks_a_field_can_be_answered(name: str) -> None:
    job = decode_job(without(encode_job(JOB), name))
    assert isinstance(job, UnsupportedJob)
    assert job.id == "id-1"


@given(
    st.dictionaries(
        st.sampled_from([*json.loads(encode_job(JOB)), "other"]),
        st.none() | st.booleans() | st.integers() | st.floats() | texts | st.lists(st.integers()),
    )
)
def test_a_job_with_an_id_is_read_whatever_its_other_fields_hold(changes: dict[str, Any]) -> None:
    job = decode_job(changed(encode_job(JOB), **{**changes, "id": "id-1"}))
    assert job.id == "id-1"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param('{"id":"a","n":0x10}', id="a hexadecimal number"),
        pytest.param('{"id":"a","n":' + "[" * 5000 + "]" * 5000 + "}", id="very deep"),
        pytest.param(b'{"id":"\xff"}', id="no text"),
    ],
)
def test_a_job_that_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_job(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("null", id="null"),
        pytest.param("[1]", id="an array"),
        pytest.param('"a"', id="a string"),
        pytest.param("{}", id="no id"),
        pytest.param('{"id":7}', id="an id that is no string"),
        pytest.param('{"id":["a"]}', id="an id that is a list"),
        pytest.param('{"id":"a","error":"broken"}', id="error: text"),
        pytest.param('{"id":"a","error":{}}', id="error: empty"),
        pytest.param('{"id":"a","predictions":7}', id="predictions: a number"),
        pytest.param('{"id":"a","predictions":[{}]}', id="predictions: empty"),
        pytest.param('{"id":"a","shape":null}', id="shape: none"),
        pytest.param("[" * 5000 + "]" * 5000, id="very deep"),
        pytest.param(b"\xff", id="no text"),
    ],
)
def test_what_is_no_result_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="not a result"):
        decode_result(text)


@pytest.mark.parametrize("field", ["id", "reply", "model", "trace"])
def test_half_a_character_is_no_text(field: str) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        decode_job(json.dumps({"v": 1, "id": "a", field: "\ud800"}))
