"""The wire format: round trips, and errors for messages that cannot be read."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.memory_queue import encode_job

from imageserve.config.choices import INTERPOLATIONS
from imageserve.predictions import Outputs, Prediction
from imageserve.preparation import COLOURS, Preparation
from imageserve.queue.snapshot import (
    Speed,
    WebInfo,
    WorkerInfo,
    decode_snapshot,
    encode_web_info,
    encode_worker_info,
)
from imageserve.queue.wire import (
    BACKGROUND,
    Job,
    NotAResult,
    Result,
    ResultError,
    UnsupportedJob,
    decode_job,
    decode_result,
    encode_open_job,
    encode_result,
    encoding_of,
)
from imageserve.trace_context import TraceContext

Read = TypeVar("Read")

JOB = Job("id-1", "resnet50", (224, 224, 3), 5, "reply", "trace", 60_000, ts=7, deadline=9)
RESULT = Result("id-1", "resnet50", 1.5, 2.5, 32, predictions=(Prediction("cat", 0.75),))

texts = st.text(max_size=40)
sizes = st.integers(1, 4096)
times = st.integers(0, 2**53 - 1)
counts = st.integers(1, 2**53 - 1)
tenths = st.integers(0, 10**9).map(lambda n: n / 10)
predictions = st.builds(Prediction, texts, st.floats(0, 1))

preparations = st.builds(
    Preparation,
    st.tuples(sizes, sizes),
    st.sampled_from(["squash", "crop", "pad"]),
    interpolation=st.sampled_from(INTERPOLATIONS),
    colour=st.sampled_from(list(COLOURS)),
)
contexts = st.builds(
    TraceContext,
    st.from_regex("[1-9a-f][0-9a-f]{31}", fullmatch=True),
    st.from_regex("[1-9a-f][0-9a-f]{15}", fullmatch=True),
    st.booleans(),
    st.sampled_from(("", "a=1", "a=1,b=2")),
    st.booleans(),
)
jobs = st.builds(
    Job,
    id=texts,
    model=texts,
    shape=st.tuples(sizes, sizes, st.just(3)),
    top=counts,
    reply=texts,
    request_id=texts,
    result_ttl_ms=counts,
    ts=times,
    deadline=times,
    preparation=st.just("") | preparations.map(lambda each: each.fingerprint),
    least=st.floats(0, 1),
    want=texts,
    priority=st.sampled_from(("", BACKGROUND)),
    context=st.none() | contexts,
)
results = st.builds(
    Result,
    id=texts,
    model=texts,
    queue_ms=tenths,
    model_ms=tenths,
    batch=sizes,
    predictions=st.lists(predictions, min_size=1, max_size=5).map(tuple),
    shape=st.none() | st.tuples(sizes, sizes, st.sampled_from([1, 3, 4])),
    preparation=st.none() | preparations,
    vector=st.binary(max_size=40).map(lambda data: data * 4),
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


@pytest.mark.parametrize(
    ("preparation", "encoding"),
    [
        pytest.param(Preparation((8, 8)), "rgb8", id="squeezed"),
        pytest.param(Preparation((8, 8), interpolation="lanczos"), "rgb8", id="resized otherwise"),
        pytest.param(Preparation((8, 8), resize="crop"), "rgb8-prepared", id="cropped"),
        pytest.param(Preparation((8, 8), resize="pad"), "rgb8-prepared", id="padded"),
        pytest.param(Preparation((8, 8), antialias=False), "rgb8-prepared", id="not antialiased"),
        pytest.param(Preparation((8, 8), colour="grey"), "grey8", id="grey"),
        pytest.param(Preparation((8, 8), "crop", colour="rgba"), "rgba8", id="with alpha"),
    ],
)
def test_pixels_that_a_worker_of_0_1_0_would_get_wrong_have_a_name_that_it_refuses(
    preparation: Preparation, encoding: str
) -> None:
    assert encoding_of(preparation) == encoding
    job = replace(
        JOB,
        shape=preparation.shape,
        encoding=encoding,
        preparation=preparation.fingerprint,
    )
    assert decode_job(encode_job(job)) == job
    assert json.loads(encode_job(job))["preparation"] == preparation.fingerprint


def test_a_shape_that_does_not_fit_the_encoding_is_refused() -> None:
    grey = replace(JOB, shape=(8, 8, 1), encoding="grey8")
    assert decode_job(encode_job(grey)) == grey
    for wrong in (replace(grey, encoding="rgb8"), replace(JOB, encoding="rgba8")):
        refused = decode_job(encode_job(wrong))
        assert isinstance(refused, UnsupportedJob)
        assert "does not fit" in refused.reason


def test_a_changed_model_says_its_preparation_and_a_later_one_is_none() -> None:
    crop = Preparation((8, 8), resize="crop", resize_to=10, colour="grey")
    told = replace(
        RESULT, predictions=(), error=ResultError("model_changed", "a"), preparation=crop
    )
    assert decode_result(encode_result(told)) == told
    later = changed(encode_result(told), preparation={"size": [8, 8], "rotate": 90})
    assert decode_result(later) == replace(told, preparation=None)


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
    assert decode_job(without(encode_job(JOB), "trace")) == replace(JOB, request_id="")


@pytest.mark.parametrize("told", [None, 7, "", "no traceparent", {"a": 1}, ["00"]])
def test_a_malformed_context_of_a_job_is_as_if_absent(told: Any) -> None:
    assert decode_job(changed(encode_job(JOB), traceparent=told, tracestate=told)) == JOB


def test_a_job_without_a_context_says_nothing_of_it() -> None:
    assert "trace" not in encode_open_job(JOB).replace('"trace":"trace"', "")


def test_a_job_of_another_version_can_be_answered() -> None:
    answerable = decode_job(changed(encode_job(JOB), v=2))
    assert answerable == UnsupportedJob(
        id="id-1",
        reply="reply",
        model="resnet50",
        result_ttl_ms=60_000,
        reason="job version 2 is not supported, only 1",
        ts=7,
        request_id="trace",
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
        pytest.param("shape", [224, 224, 4], id="shape: four colours"),
        pytest.param("shape", [224, 224, 2], id="shape: two colours"),
        pytest.param("preparation", 7, id="preparation: a number"),
        pytest.param("preparation", None, id="preparation: none"),
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
        pytest.param("ts", True, id="time: a truth"),
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
        pytest.param('{"v":1,"id":7}', id="an id that is no string"),
        pytest.param('{"v":1,"id":["a"]}', id="an id that is a list"),
        pytest.param("[" * 5000 + "]" * 5000, id="very deep"),
        pytest.param(b"\xff", id="no text"),
    ],
)
def test_what_is_no_result_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(NotAResult, match="not a result") as caught:
        decode_result(text)
    assert caught.value.job_id == ""


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"v": 2}, id="version: a later one"),
        pytest.param({"v": True}, id="version: a truth"),
        pytest.param({"model": 5}, id="model: a number"),
        pytest.param({"model": "\ud800"}, id="model: half a character"),
        pytest.param({"queue_ms": "abc"}, id="time: text"),
        pytest.param({"queue_ms": None}, id="time: none"),
        pytest.param({"model_ms": -1}, id="time: negative"),
        pytest.param({"model_ms": float("inf")}, id="time: endless"),
        pytest.param({"batch": [1]}, id="batch: a list"),
        pytest.param({"version": 2}, id="version of the model: a number"),
        pytest.param({"error": "broken"}, id="error: text"),
        pytest.param({"error": {}}, id="error: empty"),
        pytest.param({"error": {"code": "zzz", "message": ["a"]}}, id="error: a list"),
        pytest.param({"predictions": 7}, id="predictions: a number"),
        pytest.param({"predictions": None}, id="predictions: none"),
        pytest.param({"predictions": []}, id="predictions: no label at all"),
        pytest.param({"predictions": ["cat"]}, id="predictions: text"),
        pytest.param({"predictions": [{}]}, id="predictions: empty"),
        pytest.param({"predictions": [{"label": 5, "probability": 0.5}]}, id="label: a number"),
        pytest.param({"predictions": [{"label": "l", "probability": "x"}]}, id="number: text"),
        pytest.param({"predictions": [{"label": "l", "probability": True}]}, id="number: a truth"),
        pytest.param(
            {"predictions": [{"label": "l", "probability": float("nan")}]}, id="number: none"
        ),
        pytest.param({"shape": None}, id="shape: none"),
        pytest.param({"shape": []}, id="shape: empty"),
        pytest.param({"shape": [0, 0, 3]}, id="shape: no pixel"),
        pytest.param({"shape": ["a", "b", 3]}, id="shape: text"),
        pytest.param({"shape": [10**9, 10**9, 3]}, id="shape: more than any model takes"),
    ],
)
def test_a_result_with_a_wrong_field_is_none_and_names_its_job(changes: dict[str, Any]) -> None:
    with pytest.raises(NotAResult) as caught:
        decode_result(changed(encode_result(RESULT), **changes))
    assert caught.value.job_id == "id-1"


# -- whatever another program writes --------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.just("\ud800")
anything = st.recursive(
    leaves, lambda each: st.lists(each, max_size=3) | st.dictionaries(texts, each, max_size=3)
)


@st.composite
def mutated(draw: st.DrawFn, written: str) -> str:
    """One of our messages in which fields, or fields of fields, are replaced or missing."""
    message = json.loads(written)
    for _ in range(draw(st.integers(1, 3))):
        place = message
        while True:
            key = draw(
                st.sampled_from(sorted(place) if isinstance(place, dict) else [*range(len(place))])
            )
            if not (isinstance(place[key], dict | list) and place[key] and draw(st.booleans())):
                break
            place = place[key]
        if draw(st.booleans()) or isinstance(place, list):
            place[key] = draw(anything)
        else:
            del place[key]
            if not place:
                break
    return json.dumps(message)


def number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(float(str(value)))


def shaped(shape: object) -> bool:
    return isinstance(shape, tuple) and all(type(n) is int and n > 0 for n in shape)


def refused_or(decode: Callable[[str], Read], text: str) -> Read | None:
    """Return what is read; None where it is refused, in few words."""
    try:
        return decode(text)
    except ValueError as error:
        refused = str(error)
    assert len(refused) < 200
    return None


CROP = Preparation((8, 8), resize="crop", resize_to=10, antialias=False)
FAILED = replace(
    RESULT,
    predictions=(),
    error=ResultError("model_changed", "a"),
    shape=(8, 8, 3),
    preparation=CROP,
)


@given(mutated(encode_result(RESULT)) | mutated(encode_result(FAILED)))
def test_a_mutated_result_is_refused_or_right_in_every_field(text: str) -> None:
    result = refused_or(decode_result, text)
    if result is None:
        return
    assert all(type(each) is str for each in (result.id, result.model, result.version))
    assert all(number(each) for each in (result.queue_ms, result.model_ms, result.batch))
    assert result.shape is None or shaped(result.shape)
    assert result.preparation is None or shaped(result.preparation.shape)
    assert bool(result.predictions) != bool(result.error)
    assert all(type(p.label) is str and number(p.probability) for p in result.predictions)
    assert result.error is None or type(result.error.code) is type(result.error.message) is str
    assert decode_result(encode_result(result)).id == result.id


@given(mutated(encode_job(JOB)))
def test_a_mutated_job_is_refused_or_right_in_every_field(text: str) -> None:
    job = refused_or(decode_job, text)
    if job is None:
        return
    assert all(type(each) is str for each in (job.id, job.model, job.reply))
    assert all(type(each) is int for each in (job.result_ttl_ms, job.ts))
    if isinstance(job, UnsupportedJob):
        assert len(job.reason) < 200
    else:
        assert shaped(job.shape)
        assert type(job.preparation) is type(job.want) is str
        assert number(job.least)
        assert type(job.top) is type(job.deadline) is int


WORKER = WorkerInfo(
    "w",
    "m",
    (8, 8, 3),
    4,
    {1: 5.0, 4: 10.0},
    "ready",
    "host",
    version="v1",
    preparation=CROP,
    outputs=Outputs(("scores",), True),
    classes=3,
)


@given(
    mutated(encode_worker_info(WORKER)) | mutated(encode_web_info(WebInfo("w", 45.0))),
    st.sampled_from([b"7", b"7.5", b"nan", b"inf", b"-inf", b"", b"x"]),
)
def test_a_mutated_heartbeat_is_left_out_or_counts_as_a_number(text: str, score: bytes) -> None:
    infos = [b"w", text.encode(), b"sound", encode_worker_info(WORKER).encode()]
    scores = [b"w", score, b"sound", b"7"]
    shot = decode_snapshot([7, 0, 0, 0, 0, 0, 0, [], scores, infos, scores, infos, b"", 0, []])

    assert shot.workers[-1].id == "sound"
    for worker in shot.workers:
        told = (worker.model, worker.state, worker.host, worker.version, worker.loading)
        assert all(type(each) is str for each in (*told, worker.problem, worker.answered))
        assert shaped(worker.shape)
        assert worker.preparation is None or isinstance(worker.preparation, Preparation | str)
        assert type(worker.classes) is int
        assert all(type(each) is str for each in (worker.outputs or Outputs()).vectors)
    assert number(shot.capacity_per_s)
    assert number(shot.web_capacity_per_s or 0)
    assert Speed.of(shot.tables).largest_backlog(3_600_000) > 0


@pytest.mark.parametrize("field", ["id", "reply", "model", "trace"])
def test_half_a_character_is_no_text(field: str) -> None:
    text = changed(encode_job(JOB), **{field: "\ud800"})
    job = refused_or(decode_job, text)
    if job is None:
        assert field == "id"
    else:
        assert "\ud800" not in (job.id, job.reply, job.model, getattr(job, "trace", ""))


def test_a_label_may_have_the_number_of_its_class() -> None:
    numbered = replace(RESULT, predictions=(Prediction("cat", 0.75, 0), Prediction("dog", 0.1, 7)))
    written = encode_result(numbered)

    assert [each.index for each in decode_result(written).predictions] == [0, 7]
    assert [each.index for each in decode_result(encode_result(RESULT)).predictions] == [None]
    for wrong in ("-1", "0.5", "true", '"7"'):
        with pytest.raises(NotAResult):
            decode_result(written.replace('"class":7', f'"class":{wrong}'))
