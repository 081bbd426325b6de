"""The predictor: pictures in, answers out, whatever happens to the jobs on their way.

Requests run in threads. The test plays the worker, so it decides what each job meets and when.
"""

import gc
import itertools
import logging
import re
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from tests.memory_queue import MemoryQueue, producer_on, served_by
from tests.pictures import encoded, jpeg, photo
from tests.redis_server import PATIENCE_S, eventually

from imageserve.decoding import Cost, DecodingPolicy, decode, open_picture
from imageserve.errors import (
    Busy,
    CorruptImage,
    ImageTooLarge,
    ModelFailed,
    NoImage,
    NotAnImage,
    QueueFull,
    QueueUnavailable,
    RateLimited,
    RedisUnavailable,
    RequestError,
    TimedOut,
    TruncatedImage,
    UnknownModel,
    WouldTimeOut,
)
from imageserve.models.entries import ModelEntry
from imageserve.models.stand_in import stand_in_label
from imageserve.predictions import Prediction
from imageserve.preparation import Pixels, Preparation
from imageserve.queue.admission import Admission, EnqueueCode, Limits
from imageserve.queue.consumer import Lease
from imageserve.queue.listener import Breaker, Tickets
from imageserve.queue.producer import Producer, ProducerConfig
from imageserve.queue.quota import Quota
from imageserve.queue.snapshot import Snapshot, WorkerInfo
from imageserve.queue.wire import (
    LOST,
    UNREADABLE,
    Finished,
    Job,
    Result,
    ResultError,
    UnsupportedJob,
    decode_job,
    unread_result,
)
from imageserve.web import predict as module
from imageserve.web.decoder_process import Task
from imageserve.web.decoders import Decoders
from imageserve.web.greenlets import Wait
from imageserve.web.keys_file import ANYBODY, Caller
from imageserve.web.options import ClassifyOptions
from imageserve.web.outcomes import Answer
from imageserve.web.predict import ClientGone, Predictor
from imageserve.web.submission import FIRST_PAUSE_S, Picture

SIZE = (8, 8)
NOW = 1_760_000_000_000
LONG_S, SHORT_S = 30.0, 0.03
Answers = list[Answer | RequestError]

A, B, C = (jpeg(32, 24, seed) for seed in range(3))


CROP = Preparation(SIZE, resize="crop", resize_to=10, interpolation="bicubic")
GREY = Preparation((4, 6), resize="pad", colour="grey")


def label(picture: bytes, size: tuple[int, int] = SIZE) -> str:
    return prepared_label(picture, Preparation(size))


def prepared_label(picture: bytes, preparation: Preparation) -> str:
    return stand_in_label(decode(picture, preparation, DecodingPolicy()))


class UnreliableQueue(MemoryQueue):
    """The in-memory queue; single calls can be made to fail, and its answers to an enqueue bent."""

    def __init__(self) -> None:
        # It goes on with each picture: in this order their deadlines come.
        super().__init__("image_queue", lambda: NOW + 100 * len(self.limits))
        self.failing: set[str] = set()
        self.codes: list[EnqueueCode] = []
        self.limits: list[Limits] = []
        self.cancelled: list[str] = []

    def _check(self, call: str) -> None:
        if call in self.failing:
            raise QueueUnavailable("away")

    def enqueue(self, job: Job, pixels: bytes, timeout_ms: int, limits: Limits) -> Admission:
        self._check("enqueue")
        self.limits.append(limits)
        if self.codes and (code := self.codes.pop(0)) is not EnqueueCode.ACCEPTED:
            return Admission(code, 7)
        return super().enqueue(job, pixels, timeout_ms, limits)

    def snapshot(self) -> Snapshot:
        self._check("snapshot")
        return super().snapshot()

    def cancel(self, job_ids: Sequence[str]) -> None:
        self._check("cancel")
        self.cancelled += job_ids
        super().cancel(job_ids)

    def results(self, job_ids: Sequence[str]) -> list[Result | None]:
        self._check("results")
        return super().results(job_ids)


class Clock:
    """Stands in for the module ``time``: the test says when a deadline has passed."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


class Bench:
    """A predictor in threads, and the hand of a worker."""

    def __init__(self, pool: ThreadPoolExecutor, clock: Clock) -> None:
        self.clock = clock
        self.queue = UnreliableQueue()
        self.entry = ModelEntry("m", "image_queue", Preparation(SIZE))
        self.config = ProducerConfig(100, 2**20, 60.0)
        self.patience_s = 0.0
        self.predictor = self.make()
        self._pool = pool

    def make(self, *, deaf: bool = False) -> Predictor:
        """``deaf``: all notifications are lost."""
        tickets = Tickets("image_queue:reply:deaf") if deaf else self.queue.tickets
        producer = Producer(self.queue, tickets, Breaker(), self.config)
        served = served_by(self.entry, producer, patience_s=self.patience_s, places=2)
        return Predictor({"m": served}, DecodingPolicy())

    def predict(
        self, *pictures: Picture | RequestError, timeout_s: float = LONG_S, **more: Any
    ) -> Answers:
        wait = more.pop("wait", None) or Wait()
        options = ClassifyOptions(
            **{"model": None, "top": 5, "timeout_s": timeout_s, "request_id": "t-1", **more}
        )
        return self.predictor.predict(pictures, options, wait)

    def begin(self, *pictures: Picture | RequestError, **more: Any) -> "Future[Answers]":
        return self._pool.submit(self.predict, *pictures, **more)

    def deadline_passes(self, wait: Wait) -> None:
        self.clock.ahead_s += LONG_S
        wait.wake.set()

    def take(self, count: int) -> list[Job]:
        """Claim jobs, as many as are expected and no more."""
        eventually(lambda: self.queue.snapshot().queued >= count, f"{count} jobs")
        claim = self.queue.claim(count + 1, Lease(), redelivered=False)
        self.token = claim.token
        jobs = [decode_job(entry) for entry in claim.entries]
        assert len(jobs) == count
        return [job for job in jobs if not isinstance(job, UnsupportedJob)]

    def answer(self, job: Job, **more: Any) -> None:
        """Finish a job as a worker does; ``error`` and others replace the labels."""
        (pixels,) = self.queue.pixels([job.id])
        predictions = () if pixels is None else (Prediction(stand_in_label(bytes(pixels)), 0.9),)
        result = Result(job.id, job.model, 12.0, 3.0, 2, predictions)
        result = replace(result, **more)
        done = Finished(job.id, job.reply, result, job.result_ttl_ms, "completed")
        assert self.queue.finish(self.token, [done]) == [True]

    def answer_all(self, count: int, **more: Any) -> list[Job]:
        jobs = self.take(count)
        for job in jobs:
            self.answer(job, **more)
        return jobs


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    with ThreadPoolExecutor(4) as pool:
        bench = Bench(pool, clock)
        yield bench
    # Whatever way a request takes, at its end it waits for nothing any more.
    assert len(bench.queue.tickets._by_id) == 0


def done(request: "Future[Answers]") -> Answers:
    return request.result(PATIENCE_S)


def labels(answers: Answers) -> list[str]:
    return [a.code if isinstance(a, RequestError) else a.predictions[0].label for a in answers]


def refusal(answers: Answers) -> RequestError:
    (error,) = answers
    assert isinstance(error, RequestError)
    return error


# -- answers --------------------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_pictures_whatever_order_they_are_done_in(
    bench: Bench,
) -> None:
    request = bench.begin(A, B, C)

    for job in reversed(bench.take(3)):
        bench.answer(job)

    assert labels(done(request)) == [label(A), label(B), label(C)]


def test_an_answer_says_where_the_time_went(bench: Bench) -> None:
    request = bench.begin(A)
    bench.answer_all(1)

    (answer,) = done(request)

    assert isinstance(answer, Answer)
    assert (answer.queue_ms, answer.model_ms) == (12.0, 3.0)
    assert answer.decode_ms > 0


def test_a_job_says_what_is_asked_and_where_the_answer_goes(bench: Bench) -> None:
    request = bench.begin(A, top=3, request_id="request-7")

    (job,) = bench.answer_all(1)
    done(request)

    assert (job.model, job.shape, job.top, job.request_id) == ("m", (8, 8, 3), 3, "request-7")
    assert job.reply == bench.queue.tickets.channel
    assert 29_000 < job.deadline - job.ts <= 30_000
    assert job.result_ttl_ms == job.deadline - job.ts + 60_000
    assert job.priority == ""


def test_a_job_has_the_priority_of_its_request(bench: Bench) -> None:
    request = bench.begin(A, priority="background")

    (job,) = bench.answer_all(1)
    done(request)

    assert job.priority == "background"


def test_requests_at_the_same_time_get_their_own_answers(bench: Bench) -> None:
    requests = {picture: bench.begin(picture) for picture in (A, B, C)}

    bench.answer_all(3)

    assert {picture: labels(done(each)) for picture, each in requests.items()} == {
        picture: [label(picture)] for picture in (A, B, C)
    }


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        pytest.param(b"", NoImage, id="an empty one"),
        pytest.param(b"text", NotAnImage, id="no picture"),
        pytest.param(A[: len(A) // 2], TruncatedImage, id="one that is cut"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(100), CorruptImage, id="a senseless one"),
        pytest.param(ImageTooLarge("too large"), ImageTooLarge, id="one that was refused before"),
    ],
)
def test_a_bad_picture_takes_no_other_with_it(
    bench: Bench, bad: bytes | RequestError, kind: type[RequestError]
) -> None:
    request = bench.begin(A, bad, B)
    bench.answer_all(2)

    first, second, third = done(request)

    assert labels([first, third]) == [label(A), label(B)]
    assert isinstance(second, kind)


@pytest.mark.parametrize("bad", [b"no picture at all", A[:-900]], ids=["text", "cut"])
def test_an_error_does_not_hold_its_picture(bench: Bench, bad: bytes) -> None:
    bad = bytes([*bad])  # An object of its own.
    gc.disable()
    try:
        before = sys.getrefcount(bad)
        (error,) = bench.predict(bad)
        assert isinstance(error, RequestError)
        assert sys.getrefcount(bad) == before
    finally:
        gc.enable()


def test_without_a_good_picture_nothing_is_queued_and_nobody_waits(bench: Bench) -> None:
    assert labels(bench.predict(b"text", b"")) == ["not_an_image", "no_image"]
    assert bench.queue.snapshot().queued == 0


def test_an_unknown_model_is_refused_with_those_there_are(bench: Bench) -> None:
    with pytest.raises(UnknownModel, match="there is no model vgg; served are m"):
        bench.predict(A, model="vgg")


def test_large_pictures_are_decoded_elsewhere(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere: list[float] = []

    class Elsewhere(Decoders):
        def __init__(self) -> None:
            pass

        def decode(self, task: Task, cost: Cost, deadline: float, wait: Wait) -> bytes:
            assert 0 < deadline - time.monotonic() <= 30
            assert not wait.gone
            assert task.ids == {"request_id": "request-7"}
            elsewhere.append(cost.seconds)
            return decode(task.data, task.preparation, DecodingPolicy())

    monkeypatch.setattr(module, "LOOP_S", 0.006)
    bench.predictor.decoders = Elsewhere()
    small, wide = A, jpeg(1000, 500)
    heavy = encoded(photo(90, 90), "WEBP", lossless=True)
    request = bench.begin(small, wide, heavy, request_id="request-7")
    bench.answer_all(3)

    assert labels(done(request)) == [label(small), label(wide), label(heavy)]
    assert len(elsewhere) == 2


# -- errors of a job ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "retry_after_s"),
    [
        pytest.param(ResultError("model_failed", "it failed"), ModelFailed, None, id="failed"),
        pytest.param(ResultError("timed_out", "late"), TimedOut, None, id="expired in the queue"),
        pytest.param(ResultError("busy", "purged"), Busy, 1, id="purged"),
        pytest.param(ResultError("unsupported_job", "v2"), Busy, 1, id="not understood"),
        pytest.param(ResultError("new_code", "?"), Busy, 1, id="an unknown error"),
        pytest.param(ResultError("would_time_out", "?"), WouldTimeOut, 1, id="given back"),
    ],
)
def test_a_job_that_comes_back_without_labels_is_answered_with_its_error(
    bench: Bench, error: ResultError, kind: type[RequestError], retry_after_s: int | None
) -> None:
    request = bench.begin(A)
    bench.answer_all(1, error=error)

    answer = refusal(done(request))

    assert type(answer) is kind
    assert answer.retry_after_s == retry_after_s


def test_a_job_that_was_purged_is_answered_at_once(bench: Bench) -> None:
    request = bench.begin(A)
    eventually(lambda: bench.queue.snapshot().queued, "the job")

    bench.queue.purge()

    assert isinstance(refusal(done(request)), Busy)


# -- time-outs and hang-ups -----------------------------------------------------------------------


def test_without_a_result_in_time_the_job_is_cancelled(bench: Bench) -> None:
    answer = refusal(bench.predict(A, timeout_s=SHORT_S))

    assert isinstance(answer, TimedOut)
    (job,) = bench.take(1)
    assert bench.queue.pixels([job.id]) == [None]
    assert bench.queue.cancelled == [job.id]


def test_the_line_learns_from_answers_and_from_what_had_none(bench: Bench) -> None:
    request = bench.begin(A)
    bench.answer_all(1)
    done(request)
    bench.predict(A, timeout_s=SHORT_S)

    after = bench.predictor.line._gate._after
    assert after[None].mean_s > 0
    assert after[None].most_s > after[None].mean_s, "there were two"


def test_at_the_deadline_what_is_done_is_answered_and_the_rest_is_cancelled(bench: Bench) -> None:
    wait = Wait()
    request = bench.begin(A, B, wait=wait)
    first, second = bench.take(2)
    bench.answer(first)
    bench.deadline_passes(wait)

    assert labels(done(request)) == [label(A), "timed_out"]
    assert bench.queue.cancelled == [second.id]


def test_a_stored_result_of_which_nobody_heard_is_found_at_the_deadline(bench: Bench) -> None:
    bench.predictor = bench.make(deaf=True)
    wait = Wait()
    request = bench.begin(A, B, wait=wait)

    bench.answer_all(2)
    bench.deadline_passes(wait)

    assert labels(done(request)) == [label(A), label(B)]
    assert bench.queue.cancelled == []


def test_decoding_that_takes_all_the_time_queues_nothing(bench: Bench) -> None:
    answer = refusal(bench.predict(A, timeout_s=0.0001))

    assert isinstance(answer, TimedOut)
    assert "decoding" in answer.message
    assert bench.queue.limits == []


def test_a_client_that_hangs_up_has_its_jobs_cancelled(bench: Bench) -> None:
    wait = Wait()
    request = bench.begin(A, B, wait=wait)
    first, second = bench.take(2)
    bench.answer(first)

    wait.hang_up()

    with pytest.raises(ClientGone):
        done(request)
    assert bench.queue.cancelled == [second.id]


def test_the_picture_of_a_client_that_is_gone_is_neither_decoded_nor_queued(bench: Bench) -> None:
    wait = Wait()
    wait.hang_up()

    with pytest.raises(ClientGone):
        bench.predict(A, wait=wait)

    assert bench.queue.limits == []


# -- a model that changes, a Redis that forgets ---------------------------------------------------


def changed(size: tuple[int, int], model: str = "m") -> dict[str, Any]:
    error = ResultError("model_changed", f"this worker runs {model}")
    return {"error": error, "predictions": (), "model": model, "shape": (*size, 3)}


def test_a_picture_that_met_another_input_size_is_queued_once_more_at_that_size(
    bench: Bench,
) -> None:
    request = bench.begin(A, B)
    first, second = bench.take(2)
    bench.answer(first, **changed((4, 6)))
    bench.answer(second)

    (again,) = bench.answer_all(1)

    assert (again.model, again.shape) == ("m", (4, 6, 3))
    assert labels(done(request)) == [label(A, (4, 6)), label(B)]


def test_a_picture_that_meets_the_wrong_size_is_sent_with_growing_pauses_until_its_deadline(
    bench: Bench,
) -> None:
    wait = Wait()
    request = bench.begin(A, wait=wait)
    sizes, sent_at = [], []
    for size in [(4, 6), (8, 8), (8, 8), (4, 6), (4, 6), (4, 6)]:
        (job,) = bench.take(1)
        sizes.append(job.shape[:2])
        sent_at.append(time.monotonic())
        bench.answer(job, **changed(size))
    bench.deadline_passes(wait)
    answer = refusal(done(request))

    # What it meets is adopted every second time only: two workers may take turns.
    assert sizes == [(8, 8), (4, 6), (4, 6), (8, 8), (8, 8), (4, 6)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(sent_at)]
    # Those that adopt go at once: one worker has had its turn only.
    for number, pause_s in enumerate(pauses[1::2]):
        assert pause_s >= 0.5 * FIRST_PAUSE_S * 2**number
    assert sum(pauses[::2]) < PATIENCE_S / 4, "not paused"
    assert isinstance(answer, Busy)
    assert (answer.retry_after_s, "being changed" in answer.message) == (1, True)
    assert bench.queue.snapshot().queued == 0


@pytest.mark.parametrize(
    "result",
    [
        pytest.param(changed((4, 6), "n"), id="another model of another size"),
        pytest.param(changed(SIZE, "n"), id="another model of the same size"),
        pytest.param({"model": "n"}, id="labels of another model"),
        pytest.param({"model": ""}, id="labels of no model"),
    ],
)
def test_a_model_of_another_name_is_never_believed(bench: Bench, result: dict[str, Any]) -> None:
    request = bench.begin(A)
    bench.answer_all(1, **result)

    answer = refusal(done(request))

    assert isinstance(answer, Busy)
    assert f"{result['model'] or 'of no name'} works on the queue image_queue" in answer.message
    assert answer.retry_after_s == 2
    assert len(bench.queue.limits) == 1


def told(preparation: Preparation, model: str = "m") -> dict[str, Any]:
    return {**changed(preparation.size, model), "preparation": preparation}


def prepared(job: Job) -> tuple[tuple[int, int, int], str, str]:
    return job.shape, job.encoding, job.preparation


def test_a_picture_that_met_another_preparation_is_queued_once_more_with_it(bench: Bench) -> None:
    request = bench.begin(A)
    bench.answer_all(1, **told(GREY))

    (again,) = bench.answer_all(1)

    assert prepared(again) == ((4, 6, 1), "grey8", GREY.fingerprint)
    assert labels(done(request)) == [prepared_label(A, GREY)]


@pytest.mark.parametrize(
    ("size", "expected"), [(SIZE, None), ((9, 9), "the model takes pixels of [9, 9, 3]")]
)
def test_pixels_of_a_client_are_queued_again_only_where_they_fit(
    bench: Bench, size: tuple[int, int], expected: str | None
) -> None:
    pixels = Pixels((*SIZE, 3), bytes(range(SIZE[0] * SIZE[1] * 3)))
    needed = Preparation(size, resize="crop")
    request = bench.begin(pixels)
    bench.answer_all(1, **told(needed))
    if expected is None:
        (again,) = bench.answer_all(1)
        assert again.preparation == needed.fingerprint
        assert labels(done(request)) == [stand_in_label(pixels.data)]
    else:
        assert expected in refusal(done(request)).message


def test_two_preparations_side_by_side_are_tried_in_turns(bench: Bench) -> None:
    own = Preparation(SIZE)
    request = bench.begin(A)
    tried = []
    for other in (CROP, own, own, CROP):
        (job,) = bench.take(1)
        tried.append(job.preparation)
        bench.answer(job, **told(other))
    bench.answer_all(1)

    # Those that meet what they are not: adopt, keep, adopt, keep.
    assert tried == [each.fingerprint for each in (own, CROP, CROP, own)]
    assert labels(done(request)) == [label(A)]


REFUSED = {"error": ResultError("unsupported_job", "encoding 'rgb8-prepared'"), "predictions": ()}


def test_a_worker_of_0_1_0_that_comes_back_is_sent_squeezed_pictures(bench: Bench) -> None:
    worker(bench, {1: 1.0}, preparation=CROP)
    request = bench.begin(A)
    (job,) = bench.take(1)
    assert prepared(job) == ((8, 8, 3), "rgb8-prepared", CROP.fingerprint)
    worker(bench, {1: 1.0})
    bench.predictor.models["m"].producer.admission.expire()

    bench.answer(job, **REFUSED)

    (again,) = bench.answer_all(1)
    assert prepared(again) == ((8, 8, 3), "rgb8", Preparation(SIZE).fingerprint)
    assert labels(done(request)) == [label(A)]


def test_a_squeezed_picture_that_is_not_supported_is_not_sent_again(bench: Bench) -> None:
    request = bench.begin(A)
    bench.answer_all(1, **REFUSED)

    assert isinstance(refusal(done(request)), Busy)
    assert bench.queue.snapshot().queued == 0


# -- how pictures are prepared --------------------------------------------------------------------


def test_pictures_are_prepared_as_the_workers_say(bench: Bench) -> None:
    worker(bench, {1: 1.0}, preparation=CROP)
    request = bench.begin(A)

    (job,) = bench.answer_all(1)

    assert prepared(job) == ((8, 8, 3), "rgb8-prepared", CROP.fingerprint)
    assert labels(done(request)) == [prepared_label(A, CROP)]


def test_a_model_at_zero_gets_what_its_last_worker_needed_whatever_settings_say(
    bench: Bench,
) -> None:
    bench.entry = ModelEntry("m", "image_queue", None)
    bench.predictor = bench.make()
    worker(bench, {1: 1.0}, preparation=GREY)
    bench.queue.leave("w")
    request = bench.begin(A)

    (job,) = bench.answer_all(1)

    assert job.preparation == GREY.fingerprint
    assert labels(done(request)) == [prepared_label(A, GREY)]


@pytest.mark.parametrize(
    ("says", "said"),
    [
        pytest.param(None, "no worker of it has been seen yet", id="nobody"),
        pytest.param("'rotate' is not known here", "update this one", id="a later release"),
    ],
)
def test_what_nobody_knows_how_to_prepare_is_refused_and_counts_as_demand(
    bench: Bench, says: str | None, said: str
) -> None:
    bench.entry = ModelEntry("m", "image_queue", None)
    bench.predictor = bench.make()
    if says:
        worker(bench, {1: 1000.0}, preparation=says)

    answer = refusal(bench.predict(A))

    assert isinstance(answer, Busy)
    assert "pictures for the model m cannot be prepared now" in answer.message
    assert said in answer.message
    assert answer.retry_after_s == (1 if says else 5)
    assert bench.queue.snapshot().stats["rejected"] == 1
    assert bench.queue.snapshot().queued == 0
    # The first worker is noticed soon.
    worker(bench, {1: 1.0}, preparation=CROP)
    eventually(lambda: not bench.predictor.models["m"].producer.admission._is_fresh(), "a look")
    request = bench.begin(A)
    bench.answer_all(1)
    assert labels(done(request)) == [prepared_label(A, CROP)]


def test_what_needs_a_worker_waits_for_a_redis_that_is_away_like_all_else(bench: Bench) -> None:
    bench.entry = ModelEntry("m", "image_queue", None)
    worker(bench, {1: 1.0}, preparation=CROP)
    bench.queue.failing = {"snapshot", "enqueue"}
    bench.patience_s = LONG_S
    bench.predictor = bench.make()
    requests = [bench.begin(picture) for picture in (A, B)]
    eventually(lambda: waiting(bench) == 2, "requests that wait")

    bench.queue.failing = set()

    bench.answer_all(2)
    assert [labels(done(each)) for each in requests] == [
        [prepared_label(A, CROP)],
        [prepared_label(B, CROP)],
    ]


def test_what_a_foreign_model_is_called_is_quoted_in_one_line_and_shortened(bench: Bench) -> None:
    request = bench.begin(A)
    bench.answer_all(1, **changed(SIZE, "n\r\nX: y" + 500 * "z"))

    assert refusal(done(request)).message.startswith("the model n??X: yzzz")
    assert len(refusal(done(request)).message) < 200


def test_a_changed_model_whose_queue_is_full_is_answered_so(bench: Bench) -> None:
    bench.queue.codes = [EnqueueCode.ACCEPTED, EnqueueCode.FULL]
    request = bench.begin(A)
    bench.answer_all(1, **changed((4, 6)))

    assert isinstance(refusal(done(request)), QueueFull)


def _lose(bench: Bench, code: str = LOST) -> str:
    """Return the id of the job that is lost."""
    (job,) = bench.take(1)
    bench.queue.tickets.deliver(unread_result(job.id, code))
    return job.id


@pytest.mark.parametrize("code", [LOST, UNREADABLE])
def test_a_job_that_redis_has_lost_or_garbled_is_queued_once_more(
    bench: Bench, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "imageserve.web.predict")
    request = bench.begin(A, request_id="request-7")
    lost = _lose(bench, code)

    (again,) = bench.answer_all(1)

    assert (again.model, again.shape) == ("m", (8, 8, 3))
    assert labels(done(request)) == [label(A)]
    (line,) = [each for each in caplog.records if "queued again" in each.msg]
    assert vars(line)["fields"] == {"job": lost, "code": code, "request_id": "request-7"}


def test_between_jobs_that_are_lost_each_time_there_are_growing_pauses(bench: Bench) -> None:
    request = bench.begin(A)
    lost_at = []
    for _ in range(5):
        _lose(bench)
        lost_at.append(time.monotonic())
    bench.answer_all(1)

    assert labels(done(request)) == [label(A)]
    pauses = [later - earlier for earlier, later in itertools.pairwise(lost_at)]
    for number, pause_s in enumerate(pauses[1:]):
        assert pause_s >= 0.5 * FIRST_PAUSE_S * 2**number


def test_a_job_that_is_lost_every_time_is_answered_redis_unavailable(bench: Bench) -> None:
    wait = Wait()
    request = bench.begin(A, wait=wait)
    for _ in range(3):
        _lose(bench)
    bench.deadline_passes(wait)

    assert isinstance(refusal(done(request)), RedisUnavailable)


# -- jobs that are not let in ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        pytest.param(EnqueueCode.FULL, QueueFull, "7 pictures are waiting", id="too many jobs"),
        pytest.param(EnqueueCode.BYTES_FULL, QueueFull, "more than may wait", id="too many bytes"),
        pytest.param(EnqueueCode.NO_ROOM, QueueFull, "out of memory", id="Redis is full"),
        pytest.param(EnqueueCode.WOULD_TIME_OUT, WouldTimeOut, "come too late", id="a long wait"),
    ],
)
def test_a_job_that_is_not_let_in_is_refused_at_once_with_a_time_to_come_back(
    bench: Bench, code: EnqueueCode, kind: type[RequestError], said: str
) -> None:
    bench.queue.codes = [code]

    answer = refusal(bench.predict(A))

    assert isinstance(answer, kind)
    assert said in answer.message
    assert answer.retry_after_s == 5, "nothing is known of the workers"


TEAM_A = Caller(name="team-a", quota=Quota("team-a", 0.01, 2))


def test_pictures_beyond_the_quota_of_a_key_are_refused_each_by_itself(bench: Bench) -> None:
    request = bench.begin(A, B, C, A, caller=TEAM_A)
    bench.answer_all(2)

    answers = done(request)

    assert labels(answers) == [label(A), label(B), "rate_limited", "rate_limited"]
    error = answers[2]
    assert isinstance(error, RateLimited)
    assert error.message == "the key team-a may send 0.01 pictures a second, and 2 at once"
    assert error.retry_after_s == 100
    assert len(bench.queue.limits) == 2, "the others were neither decoded nor sent"


def test_what_is_known_to_be_over_its_quota_is_refused_by_its_head(bench: Bench) -> None:
    options = ClassifyOptions("m", 5, LONG_S, "t-1", caller=TEAM_A)
    bench.predictor.check(options)
    request = bench.begin(A, B, caller=TEAM_A)
    bench.answer_all(2)
    done(request)

    with pytest.raises(RateLimited, match="team-a"):
        bench.predictor.check(options)
    bench.predictor.check(replace(options, caller=ANYBODY))
    # It says nothing of the model, and the autoscaler hears nothing of it.
    assert bench.queue.snapshot().stats.get("rejected", 0) == 0
    with pytest.raises(UnknownModel):
        bench.predictor.check(replace(options, model="other"))


@pytest.mark.parametrize("lost", [LOST, "model_changed"])
def test_a_picture_that_is_sent_again_is_not_counted_again(bench: Bench, lost: str) -> None:
    request = bench.begin(A, caller=replace(TEAM_A, quota=Quota("team-a", 0.01, 1)))
    if lost == LOST:
        _lose(bench)
    else:
        bench.answer_all(1, **changed((4, 6)))
    bench.answer_all(1)

    assert labels(done(request)) == [label(A, SIZE if lost == LOST else (4, 6))]
    assert [limits.quota and limits.quota.name for limits in bench.queue.limits] == ["team-a", None]


def test_the_limits_of_the_settings_reach_the_queue(bench: Bench) -> None:
    bench.config = ProducerConfig(1, 500, 60.0)
    bench.predictor = bench.make()

    first = bench.begin(A)
    eventually(lambda: bench.queue.snapshot().queued == 1, "the first job")
    second = refusal(bench.predict(B))
    bench.answer_all(1)
    done(first)

    assert isinstance(second, QueueFull)
    assert bench.queue.limits[0] == Limits(1, 500)


def test_bytes_are_limited_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.config = ProducerConfig(100, 2 * 8 * 8 * 3, 60.0)
    bench.predictor = bench.make()
    admissions: list[Admission] = []
    enqueue = bench.queue.enqueue

    def noted(*args: Any) -> Admission:
        admissions.append(enqueue(*args))
        return admissions[-1]

    monkeypatch.setattr(bench.queue, "enqueue", noted)
    request = bench.begin(A, B, C)

    # An answer makes room again: none before the third is refused.
    eventually(lambda: len(admissions) == 3, "three pictures at the queue")
    bench.answer_all(2)

    assert labels(done(request)) == [label(A), label(B), "queue_full"]


def worker(
    bench: Bench, bucket_ms: dict[int, float], preparation: Preparation | str | None = None
) -> None:
    info = WorkerInfo("w", "m", (8, 8, 3), 10, bucket_ms, "ready", "host")
    bench.queue.heartbeat(replace(info, preparation=preparation))


def test_what_could_not_be_done_in_time_is_refused_with_a_computed_time(bench: Bench) -> None:
    worker(bench, {1: 10_000.0})
    waiting = bench.begin(A, B, C, timeout_s=40)
    eventually(lambda: bench.queue.snapshot().queued == 3, "three jobs of ten seconds each")

    answer = refusal(bench.predict(A, timeout_s=40))

    assert isinstance(answer, WouldTimeOut)
    assert re.search("the shortest X-Request-Timeout that is accepted now is 4[0-9]", str(answer))
    assert answer.retry_after_s in (5, 6), "45 seconds are needed"
    bench.answer_all(3)
    done(waiting)


def test_what_a_worker_gives_back_is_told_what_would_be_accepted_now(bench: Bench) -> None:
    worker(bench, {1: 1000.0})
    request = bench.begin(A, timeout_s=2.5)
    (job,) = bench.take(1)
    others = bench.begin(B, C, timeout_s=LONG_S)
    eventually(lambda: bench.queue.snapshot().backlog == 3, "two more jobs of a second each")
    bench.predictor.models["m"].producer.admission.expire()
    error = ResultError("would_time_out", "it would not end in time")
    bench.answer(job, error=error)

    answer = refusal(done(request))

    assert isinstance(answer, WouldTimeOut)
    assert "the shortest X-Request-Timeout that is accepted now is" in answer.message
    assert answer.retry_after_s is not None
    assert 1 <= answer.retry_after_s <= 5
    bench.answer_all(2)
    done(others)


def test_a_full_queue_asks_to_come_back_when_a_tenth_of_it_is_done(bench: Bench) -> None:
    worker(bench, {1: 1000.0})
    bench.config = ProducerConfig(25, 2**20, 60.0)
    bench.predictor = bench.make()
    waiting = bench.begin(*25 * [A])
    eventually(lambda: bench.queue.snapshot().queued == 25, "a full queue")

    assert refusal(bench.predict(A)).retry_after_s == 2
    bench.answer_all(25)
    done(waiting)


def test_pixels_that_redis_forgot_are_sent_again(bench: Bench) -> None:
    bench.queue.codes = [EnqueueCode.PIXELS_LOST] * 2
    request = bench.begin(A)
    bench.answer_all(1)

    assert labels(done(request)) == [label(A)]


def test_a_redis_that_always_forgets_is_not_called_full(bench: Bench) -> None:
    bench.queue.codes = [EnqueueCode.PIXELS_LOST] * 3

    answer = refusal(bench.predict(A))

    assert isinstance(answer, Busy)
    assert (answer.message, answer.retry_after_s) == ("Redis lost the picture; send it again", 1)


def test_an_id_that_is_taken_is_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = "1" * 32, "2" * 32
    of_another = Job(first, "m", (8, 8, 3), 1, "their reply", "t", 1000)
    bench.queue.enqueue(of_another, bytes(192), 1000, Limits())
    bench.take(1)
    ids, own = iter([first, second]), secrets.token_hex
    monkeypatch.setattr(secrets, "token_hex", lambda n: next(ids) if n == 16 else own(n))
    request = bench.begin(A)

    (job,) = bench.answer_all(1)

    assert job.id == second
    assert labels(done(request)) == [label(A)]


def test_ids_that_are_always_taken_are_given_up(bench: Bench) -> None:
    bench.queue.codes = [EnqueueCode.COLLISION] * 3

    answer = refusal(bench.predict(A))

    assert isinstance(answer, Busy)
    assert bench.queue.codes == []


def test_an_enqueue_that_was_sent_twice_is_accepted(bench: Bench) -> None:
    class Repeating(UnreliableQueue):
        def enqueue(self, job: Job, pixels: bytes, timeout_ms: int, limits: Limits) -> Admission:
            super().enqueue(job, pixels, timeout_ms, limits)
            return Admission(EnqueueCode.OWN_RETRY, 0)

    bench.queue = Repeating()
    bench.predictor = bench.make()
    request = bench.begin(A)
    bench.answer_all(1)

    assert labels(done(request)) == [label(A)]


# -- outages --------------------------------------------------------------------------------------


def test_without_redis_a_picture_is_refused_at_once(bench: Bench) -> None:
    bench.queue.failing = {"enqueue", "cancel", "results"}

    answer = refusal(bench.predict(A))

    assert isinstance(answer, RedisUnavailable)
    assert answer.retry_after_s == 2


def outage(bench: Bench, patience_s: float) -> None:
    """Redis goes away; two requests may wait for it."""
    bench.patience_s = patience_s
    bench.predictor = bench.make()
    bench.queue.failing = {"enqueue"}


def waiting(bench: Bench) -> int:
    return len(bench.predictor.models["m"].room)


def test_in_a_short_outage_requests_wait_undecoded_and_leave_in_order(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []

    def noted(data: bytes, policy: DecodingPolicy) -> Any:
        decoded.append(data)
        return open_picture(data, policy)

    monkeypatch.setattr(module, "open_picture", noted)
    outage(bench, LONG_S)
    requests = []
    for picture in (A, B):
        requests.append(bench.begin(picture))
        eventually(lambda: waiting(bench) == len(requests), "a request that waits")
    assert B not in decoded, "it waits behind the one that tries"

    bench.queue.failing = set()

    first, second = bench.answer_all(2)
    assert (first.request_id, second.request_id) == ("t-1", "t-1")
    assert [labels(done(each)) for each in requests] == [[label(A)], [label(B)]]
    assert decoded.index(B) > max(i for i, each in enumerate(decoded) if each == A)


class RepliesLost(UnreliableQueue):
    """From now on enqueues are carried out, and no reply comes; then Redis is away."""

    def enqueue(self, job: Job, pixels: bytes, timeout_ms: int, limits: Limits) -> Admission:
        admission = super().enqueue(job, pixels, timeout_ms, limits)
        if len(self.limits) == 1:
            self.failing = {"enqueue"}
            raise QueueUnavailable("no reply")
        return admission


@pytest.mark.parametrize("is_done", [False, True], ids=["waits", "done"])
def test_what_was_queued_when_an_outage_began_is_queued_and_counted_once(
    bench: Bench, is_done: bool
) -> None:
    bench.queue = RepliesLost()
    bench.patience_s = LONG_S
    bench.predictor = bench.make()
    request = bench.begin(A, caller=replace(TEAM_A, quota=Quota("team-a", 0.01, 1)))
    eventually(lambda: waiting(bench) == 1, "a request that waits")
    if is_done:
        bench.answer_all(1)

    bench.queue.failing = set()

    if not is_done:
        bench.answer_all(1)
    assert labels(done(request)) == [label(A)]
    assert bench.queue.snapshot().stats["accepted"] == 1
    assert bench.queue.whole_us.keys() == {"team-a"}


def test_beyond_the_places_a_request_is_refused_at_once(bench: Bench) -> None:
    outage(bench, LONG_S)
    requests = [bench.begin(A), bench.begin(B)]
    eventually(lambda: waiting(bench) == 2, "two requests that wait")

    assert isinstance(refusal(bench.predict(C)), RedisUnavailable)

    bench.queue.failing = set()
    bench.answer_all(2)
    assert [labels(done(each)) for each in requests] == [[label(A)], [label(B)]]


def test_an_outage_that_outlasts_the_patience_is_refused(bench: Bench) -> None:
    outage(bench, 0.2)

    answer = refusal(bench.predict(A))

    assert isinstance(answer, RedisUnavailable)
    began = time.monotonic()
    assert isinstance(refusal(bench.predict(A)), RedisUnavailable)
    assert time.monotonic() - began < 0.2 + PATIENCE_S / 10
    assert waiting(bench) == 0


def test_a_deadline_and_a_hang_up_end_the_wait(bench: Bench) -> None:
    outage(bench, LONG_S)
    wait = Wait()
    gone = bench.begin(A, wait=wait)
    eventually(lambda: waiting(bench) == 1, "a request that waits")

    assert isinstance(refusal(bench.predict(B, timeout_s=SHORT_S)), RedisUnavailable)
    wait.hang_up()

    with pytest.raises(ClientGone):
        done(gone)
    assert waiting(bench) == 0


def test_a_lost_job_waits_for_redis_before_it_is_queued_once_more(bench: Bench) -> None:
    bench.patience_s = LONG_S
    bench.predictor = bench.make()
    request = bench.begin(A)
    eventually(lambda: bench.queue.snapshot().queued, "the job")
    bench.queue.failing = {"enqueue"}
    _lose(bench)
    eventually(lambda: waiting(bench) == 1, "a request that waits again")

    bench.queue.failing = set()

    bench.answer_all(1)
    assert labels(done(request)) == [label(A)]


@pytest.mark.parametrize("call", ["results", "cancel"])
def test_at_the_deadline_an_outage_is_said_and_what_is_done_is_answered(
    bench: Bench, call: str
) -> None:
    wait = Wait()
    request = bench.begin(A, B, wait=wait)
    first, _ = bench.take(2)
    bench.queue.failing = {call}
    bench.answer(first)
    bench.deadline_passes(wait)

    assert labels(done(request)) == [label(A), "redis_unavailable"]


def test_a_hang_up_in_an_outage_is_a_hang_up(bench: Bench) -> None:
    wait = Wait()
    request = bench.begin(A, wait=wait)
    bench.take(1)
    bench.queue.failing = {"cancel"}

    wait.hang_up()

    with pytest.raises(ClientGone):
        done(request)


def test_a_bug_leaves_nobody_waiting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes, policy: DecodingPolicy) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(module, "open_picture", broken)

    with pytest.raises(TypeError):
        bench.predict(A)


# -- several models -------------------------------------------------------------------------------


def test_an_outage_of_one_queues_node_refuses_nothing_for_another(bench: Bench) -> None:
    lost = UnreliableQueue()
    lost.failing = {"enqueue"}
    models = {
        "lost": served_by(ModelEntry("lost", "lost_queue", Preparation(SIZE)), producer_on(lost)),
        "m": served_by(bench.entry, producer_on(bench.queue)),
    }
    bench.predictor = Predictor(models, DecodingPolicy())

    for _ in range(5):
        assert isinstance(refusal(bench.predict(A, model="lost")), RedisUnavailable)
        request = bench.begin(A, model="m")
        bench.answer_all(1)
        assert labels(done(request)) == [label(A)]
