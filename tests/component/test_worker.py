"""The worker's loop on the in-memory queue: what it claims, runs, finishes and gives up.

The model waits at a gate where a test wants to look at the worker in the midst of a batch.
"""

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.labels_only import LabelsOnly
from tests.memory_queue import MemoryQueue, encode_job
from tests.redis_server import PATIENCE_S, eventually

from imageserve import metrics
from imageserve.errors import QueueError, QueueForbidden, QueueKeyTaken, QueueUnavailable
from imageserve.models.stand_in import StandIn, stand_in_label
from imageserve.predictions import Prediction
from imageserve.preparation import Preparation
from imageserve.queue.admission import Limits
from imageserve.queue.consumer import Claim, Consumer, Lease
from imageserve.queue.redis import connection
from imageserve.queue.snapshot import WorkerInfo
from imageserve.queue.wire import WOULD_TIME_OUT, Job, Result, decode_job
from imageserve.trace_context import TraceContext
from imageserve.worker import loop
from imageserve.worker.loop import Worker, WorkerConfig
from imageserve.worker.runner import Runner

SHAPE = (2, 2, 3)
BATCH_SIZE = 4
HOUR_MS = 3_600_000
CROP = Preparation(SHAPE[:2], resize="crop", interpolation="bicubic")
CONTEXT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=False)
"""Its caller's trace, of which no spans are recorded."""


class GatedModel(LabelsOnly):
    """A stand-in that counts its calls, and waits in them while its gate is shut."""

    name = "gated"
    version = "1"
    runtime = "test"
    classes = 1000

    def __init__(self) -> None:
        self.preparation = Preparation(SHAPE[:2])
        self.calls = 0
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self._stand_in = StandIn(self.preparation, poison=True, sleep=lambda _: None)

    def predict(self, images: NDArray[np.uint8], top: int) -> list[tuple[Prediction, ...]]:
        self.calls += 1
        self.entered.release()
        assert self.gate.wait(PATIENCE_S)
        return self._stand_in.predict(images, top)


CALLS = ("claim", "pixels", "finish", "extend", "release", "store", "heartbeat", "leave")


class UnreliableQueue(MemoryQueue):
    """The in-memory queue, of which calls can be made to fail; it waits shortly, as tests do."""

    failing: frozenset[str] = frozenset()
    error: QueueError = QueueUnavailable("away")
    claims: list[tuple[bool, int]]

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        super().__init__("image_queue", clock_ms)
        self.claims = []
        self.batches: list[list[str]] = []
        self.refused: set[str] = set()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return self._unreliable(name, found) if name in CALLS else found

    def _unreliable(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            if name in self.failing:
                self.refused.add(name)
                raise self.error
            return call(*args, **kwargs)

        return called

    def claim(
        self, n: int, lease: Lease, *, redelivered: bool, min_depth: int = 0, **sent: Any
    ) -> Any:
        claim = super().claim(n, lease, redelivered=redelivered, min_depth=min_depth, **sent)
        self.claims.append((redelivered, min_depth))
        if claim.entries:
            self.batches.append([decode_job(entry).id for entry in claim.entries])
        return claim

    def wait(self, block_s: float) -> None:
        super().wait(min(block_s, 0.01))

    def go_away(self, *calls: str, error: QueueError | None = None) -> None:
        self.refused.clear()
        self.error = error or QueueUnavailable("away")
        self.failing = frozenset(calls or CALLS)

    def come_back(self) -> None:
        self.failing = frozenset()


class Bench:
    """A queue, a model and a worker in a thread; and what a web process would do."""

    def __init__(self) -> None:
        self.now = 1_760_000_000_000
        self.queue = UnreliableQueue(lambda: self.now)
        self.model = GatedModel()
        self.sent: dict[str, bytes] = {}
        self._threads: list[tuple[Worker, threading.Thread]] = []

    def worker(self, **config: Any) -> Worker:
        lease = config.pop("lease", Lease(HOUR_MS))
        config = {"worker_id": "w-1", "host": "here", **config}
        self.consumer = Consumer(self.queue, "gated", lease)
        runner = Runner(self.model, BATCH_SIZE)
        return Worker(self.consumer, runner, "gated", WorkerConfig(**config))

    def start(self, worker: Worker | None = None, **config: Any) -> Worker:
        worker = worker or self.worker(**config)
        thread = threading.Thread(target=worker.run, name="worker")
        self._threads.append((worker, thread))
        thread.start()
        return worker

    def stop(self, worker: Worker) -> None:
        worker.stop()
        for each, thread in self._threads:
            if each is worker:
                thread.join(PATIENCE_S)
                assert not thread.is_alive()

    def stop_all(self) -> None:
        self.queue.come_back()
        self.model.gate.set()
        for worker, _ in self._threads:
            self.stop(worker)

    def job(self, name: str, **more: Any) -> Job:
        facts = {
            "model": "gated",
            "shape": SHAPE,
            "top": 1,
            "request_id": f"request-{name}",
            **more,
        }
        return Job(id=name, reply="reply", result_ttl_ms=HOUR_MS, **facts)

    def send(self, *names: str, pixels: bytes | None = None, **more: Any) -> None:
        for name in names:
            drawn = pixels or np.random.default_rng(list(name.encode())).bytes(12)
            self.sent[name] = drawn
            self.queue.enqueue(self.job(name, **more), drawn, HOUR_MS, Limits())

    def result(self, name: str) -> Result:
        eventually(lambda: self.queue.results([name]) != [None], f"the result of {name}")
        (result,) = self.queue.results([name])
        assert result is not None
        return result

    def error(self, name: str) -> str:
        error = self.result(name).error
        assert error is not None
        return error.code

    def assert_answered(self, *names: str) -> None:
        for name in names:
            label = stand_in_label(self.sent[name])
            assert self.result(name).predictions[0].label == label, name

    def stats(self) -> dict[str, int]:
        return dict(self.queue.snapshot().stats)

    def in_a_batch(self) -> None:
        """Wait until the model is running."""
        assert self.model.entered.acquire(timeout=PATIENCE_S)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(connection, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(connection, "LONGEST_PAUSE_S", 0.01)
    bench = Bench()
    yield bench
    bench.stop_all()


def counted(name: str, *labels: str) -> float:
    value: float = getattr(metrics, name).labels("gated", *labels)._value.get()
    return value


def lines(caplog: pytest.LogCaptureFixture, message: str) -> list[dict[str, Any]]:
    found = [record for record in caplog.records if record.getMessage() == message]
    return [vars(record).get("fields", {}) for record in found]


# -- batches --------------------------------------------------------------------------------------


def test_jobs_that_wait_are_run_in_batches_and_each_gets_its_own_labels(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    names = [f"job-{n}" for n in range(11)]
    bench.send(*names)

    bench.start()

    bench.assert_answered(*names)
    eventually(lambda: bench.stats().get("completed") == 11, "all to be counted")
    assert bench.stats()["batches"] == 3
    assert bench.stats()["items"] == 11
    assert bench.queue.snapshot().in_flight == 0
    eventually(lambda: len(lines(caplog, "batch")) == 3, "a line per batch")
    assert [name for line in lines(caplog, "batch") for name in line["ids"]] == names


def test_a_job_that_comes_while_it_waits_is_answered(bench: Bench) -> None:
    bench.start()
    eventually(lambda: bench.queue.claims, "a claim")

    bench.send("late")

    bench.assert_answered("late")


def test_a_result_says_how_long_it_waited_and_ran_and_in_what_company(bench: Bench) -> None:
    bench.send("a", "b", "c")
    bench.now += 250

    bench.start()

    result = bench.result("b")
    assert (result.model, result.batch) == ("gated", 3)
    assert result.queue_ms >= 250
    assert result.model_ms > 0


def test_a_job_gets_as_many_labels_as_it_asks_for(bench: Bench) -> None:
    bench.send("one")
    bench.send("three", top=3)

    bench.start()

    assert len(bench.result("one").predictions) == 1
    assert len(bench.result("three").predictions) == 3


@pytest.mark.parametrize(
    ("waiting", "taken"),
    [
        pytest.param(BATCH_SIZE - 1, 0, id="one less than a batch is left for a free worker"),
        pytest.param(BATCH_SIZE, BATCH_SIZE, id="a full batch is taken"),
        pytest.param(2 * BATCH_SIZE, BATCH_SIZE, id="of two full batches one is taken"),
    ],
)
def test_while_a_batch_runs_the_next_is_fetched_if_it_is_full(
    bench: Bench, waiting: int, taken: int
) -> None:
    bench.model.gate.clear()
    names = [f"job-{n}" for n in range(BATCH_SIZE + waiting)]
    bench.send(*names)

    bench.start()
    bench.in_a_batch()

    eventually(lambda: len(bench.queue.claims) == 2, "the look ahead")
    assert bench.queue.claims[1][1] == BATCH_SIZE
    seen = bench.queue.snapshot()
    assert (seen.in_flight, seen.queued) == (BATCH_SIZE + taken, waiting - taken)
    bench.model.gate.set()
    bench.assert_answered(*names)


def test_suspects_are_asked_for_in_every_second_claim(bench: Bench) -> None:
    bench.start()

    eventually(lambda: len(bench.queue.claims) >= 6, "claims")

    asked = [suspects for suspects, _ in bench.queue.claims[:6]]
    assert asked in ([True, False] * 3, [False, True] * 3)


def test_with_a_batch_delay_it_waits_for_more_unless_a_batch_is_full(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.send("a", "b", "c", "d")
    worker = bench.worker(batch_delay_s=3600)
    delayed = threading.Event()
    waited = worker._consumer.stopping.wait

    def wait(timeout: float | None = None) -> bool:
        if timeout != 3600:
            return waited(timeout)
        bench.send("f")
        delayed.set()
        return False

    worker._consumer.stopping.wait = wait  # type: ignore[method-assign]

    bench.start(worker)
    bench.assert_answered("a", "b", "c", "d")
    assert not delayed.is_set()

    bench.send("e")
    bench.assert_answered("e", "f")
    assert delayed.is_set()
    eventually(lambda: len(lines(caplog, "batch")) == 2, "both batches")
    assert [line["ids"] for line in lines(caplog, "batch")] == [list("abcd"), ["e", "f"]]


# -- jobs that the model does not get -------------------------------------------------------------


def test_a_cancelled_job_is_finished_as_expired_without_the_model(bench: Bench) -> None:
    before = counted("jobs_total", "expired")
    bench.send("cancelled")
    bench.queue.cancel(["cancelled"])

    bench.start()

    assert bench.error("cancelled") == "timed_out"
    eventually(lambda: bench.stats().get("expired") == 1, "its counter")
    eventually(lambda: counted("jobs_total", "expired") == before + 1, "its metric")
    assert bench.model.calls == 0
    assert "batches" not in bench.stats() or bench.stats()["batches"] == 0


def test_a_job_past_its_deadline_is_dropped_and_counted(bench: Bench) -> None:
    before = counted("jobs_total", "expired")
    bench.send("late")
    bench.now += HOUR_MS

    bench.start()

    eventually(lambda: counted("jobs_total", "expired") == before + 1, "its metric")
    assert bench.model.calls == 0


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"model": "another"}, id="of another model"),
        pytest.param({"shape": (1, 4, 3)}, id="of another shape"),
        pytest.param({"preparation": CROP.fingerprint}, id="of another preparation"),
        pytest.param(
            {"shape": (2, 6, 1), "encoding": "grey8", "preparation": CROP.fingerprint},
            id="of other colours",
        ),
    ],
)
def test_a_job_for_another_model_is_answered_with_what_runs_here(
    bench: Bench, facts: dict[str, Any]
) -> None:
    bench.send("other", **facts)
    bench.send("ours", preparation=Preparation(SHAPE[:2]).fingerprint)
    bench.send("old")

    bench.start()

    result = bench.result("other")
    assert result.error is not None
    assert (result.error.code, result.model, result.shape) == ("model_changed", "gated", SHAPE)
    assert result.preparation == Preparation(SHAPE[:2])
    bench.assert_answered("ours", "old")


@pytest.mark.parametrize(
    ("preparation", "is_run"),
    [
        pytest.param(Preparation(SHAPE[:2], interpolation="box"), True, id="squeezed"),
        pytest.param(CROP, False, id="cropped"),
        pytest.param(Preparation(SHAPE[:2], antialias=False), False, id="not antialiased"),
    ],
)
def test_a_job_of_a_web_process_of_0_1_0_is_run_where_its_model_wants_squeezed_pictures(
    bench: Bench, preparation: Preparation, is_run: bool
) -> None:
    bench.model.preparation = preparation
    bench.send("old")

    bench.start()

    result = bench.result("old")
    assert bool(result.predictions) == is_run
    assert result.preparation == (None if is_run else preparation)


def test_a_batch_that_was_claimed_for_the_model_before_is_not_run_by_the_next(
    bench: Bench,
) -> None:
    """The one in hand is run by the old model, the prefetched one is sent back."""
    names = [f"job-{n}" for n in range(2 * BATCH_SIZE)]
    bench.model.gate.clear()
    bench.send(*names)
    worker = bench.start()
    bench.in_a_batch()
    eventually(lambda: len(bench.queue.claims) == 2, "the look ahead")
    cropping = GatedModel()
    cropping.preparation = CROP
    with ThreadPoolExecutor(1) as thread:
        change = thread.submit(worker.change_to, Runner(cropping, BATCH_SIZE))
        eventually(lambda: worker._next_runner is not None, "the change")
        bench.model.gate.set()
        assert change.result(PATIENCE_S)

    bench.assert_answered(*names[:BATCH_SIZE])
    for name in names[BATCH_SIZE:]:
        result = bench.result(name)
        assert result.error is not None
        assert (result.error.code, result.preparation) == ("model_changed", CROP)
    assert cropping.calls == 0
    bench.send("new", preparation=CROP.fingerprint, encoding="rgb8-prepared")
    bench.assert_answered("new")


# -- jobs that are due earlier, and those that cannot end in time ----------------------------------


def test_the_next_batch_is_not_fetched_before_the_model_is_nearly_free(bench: Bench) -> None:
    worker = bench.worker()
    worker.runner.times.ms = dict.fromkeys(worker.runner.times.sizes, 60_000.0)
    bench.model.gate.clear()
    bench.send(*(f"first-{n}" for n in range(BATCH_SIZE)))
    bench.send(*(f"patient-{n}" for n in range(BATCH_SIZE)))
    bench.start(worker)
    bench.in_a_batch()
    time.sleep(0.05)  # A worker that fetches at once has fetched by then.
    bench.now -= 60_000
    bench.send("due earlier")
    bench.now += 60_000

    bench.model.gate.set()

    bench.in_a_batch()
    bench.assert_answered("due earlier", *(f"patient-{n}" for n in range(BATCH_SIZE)))
    assert bench.queue.batches[1][0] == "due earlier"


def test_a_job_that_would_end_too_late_is_answered_and_the_next_claim_drops_none(
    bench: Bench,
) -> None:
    worker = bench.worker()
    worker.runner.times.ms = dict.fromkeys(worker.runner.times.sizes, 2.0 * HOUR_MS)
    worker._timing.ended()
    bench.send("too late", preparation=worker.preparation.fingerprint)

    bench.start(worker)

    assert bench.error("too late") == WOULD_TIME_OUT
    assert bench.model.calls == 0
    bench.send("run all the same")
    bench.assert_answered("run all the same")


# -- beside workers of release 0.1.0 --------------------------------------------------------------


OLD = WorkerInfo("old", "gated", SHAPE, 4, {4: 8.0}, "ready", "old-host")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STAND_BY_S", 0.01)


def own_info(bench: Bench) -> WorkerInfo:
    return next(each for each in bench.queue.snapshot().workers if each.id == "w-1")


@pytest.mark.usefixtures("impatient")
def test_a_worker_that_needs_more_than_0_1_0_knows_stands_by_until_the_last_old_one_has_ended(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.model.preparation = CROP
    bench.queue.heartbeat(OLD)
    bench.send("waits", preparation=CROP.fingerprint, encoding="rgb8-prepared")

    worker = bench.start()

    eventually(lambda: worker.problem and own_info(bench).problem, "what it says")
    assert "stands by, because workers of release 0.1.0 serve gated on old-host" in worker.problem
    assert own_info(bench).problem == worker.problem
    assert bench.queue.snapshot().capacity_per_s == 500, "it takes no jobs, so it adds nothing"
    assert bench.queue.snapshot().queued == 1
    bench.queue.leave("old")
    bench.assert_answered("waits")
    assert worker.problem == ""
    assert len([r for r in caplog.records if r.getMessage().startswith("stands by")]) == 1

    bench.queue.heartbeat(OLD)
    worker.publish()
    eventually(lambda: worker.problem, "an old one that comes back to be noticed")
    bench.queue.heartbeat(replace(OLD, state="stopping"))
    eventually(lambda: not worker.problem, "its end to be noticed")


@pytest.mark.parametrize(
    ("preparation", "other"),
    [
        pytest.param(Preparation(SHAPE[:2], interpolation="box"), {}, id="squeezed pictures"),
        pytest.param(CROP, {"model": "another"}, id="an old one of another model"),
        pytest.param(CROP, {"preparation": Preparation((9, 9))}, id="a new one"),
        pytest.param(CROP, {"preparation": "of a later release"}, id="a later one"),
        pytest.param(CROP, {"state": "stopping"}, id="an old one that ends"),
    ],
)
def test_nothing_else_makes_a_worker_stand_by(
    bench: Bench, preparation: Preparation, other: dict[str, Any]
) -> None:
    bench.model.preparation = preparation
    bench.queue.heartbeat(replace(OLD, **other))
    bench.send("ours", preparation=preparation.fingerprint)

    worker = bench.start()

    bench.assert_answered("ours")
    assert worker.problem == ""


def test_a_job_of_an_unknown_version_is_answered_unsupported(bench: Bench) -> None:
    entry = json.loads(encode_job(bench.job("new")))
    bench.queue.push(json.dumps({**entry, "v": 2, "deadline": bench.now + HOUR_MS}))
    bench.send("ours")

    bench.start()

    assert bench.error("new") == "unsupported_job"
    bench.assert_answered("ours")


def test_a_job_with_too_few_pixels_is_answered_unsupported(bench: Bench) -> None:
    bench.send("short", pixels=b"rgb")
    bench.send("ours")

    bench.start()

    assert bench.error("short") == "unsupported_job"
    bench.assert_answered("ours")


def test_an_entry_that_python_cannot_read_is_left_to_its_lease(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.send("ours")
    foreign = '{"id":"foreign","v":0x1}'  # Redis reads hexadecimal numbers.
    claim = bench.queue.claim

    def with_foreign(*args: Any, **kwargs: Any) -> Claim:
        claimed: Claim = claim(*args, **kwargs)
        return replace(claimed, entries=(foreign, *claimed.entries))

    bench.queue.claim = with_foreign  # type: ignore[method-assign]
    claiming = Consumer(bench.queue, "gated", Lease(HOUR_MS))

    batch, nothing = claiming.claim(1), claiming.claim(1)

    assert batch is not None
    assert batch.ids == ["ours"]
    assert nothing is None
    assert foreign in caplog.text


# -- jobs that harm -------------------------------------------------------------------------------


def test_a_picture_that_breaks_the_model_is_answered_and_buried_and_its_neighbours_are_not(
    bench: Bench,
) -> None:
    bench.send("a", "b")
    bench.send("poison", pixels=bytes([255, 0, 255]) + bytes(9))
    bench.send("c")

    bench.start()

    bench.assert_answered("a", "b", "c")
    assert bench.error("poison") == "model_failed"
    eventually(lambda: bench.queue.dead(2), "the dead list")
    (dead,) = bench.queue.dead(2)
    assert json.loads(dead["entry"])["id"] == "poison"
    assert dead["reason"] == "the model failed: RuntimeError"
    assert bench.stats()["failed"] == 1


def _lose_its_worker(bench: Bench) -> None:
    MemoryQueue.claim(bench.queue, BATCH_SIZE, Lease(1), redelivered=True)
    bench.now += 1


def test_a_job_that_lost_its_worker_runs_alone(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.send("suspect")
    _lose_its_worker(bench)
    bench.send("a", "b")

    bench.start()

    bench.assert_answered("suspect", "a", "b")
    eventually(lambda: len(lines(caplog, "batch")) == 2, "both batches")
    assert sorted((line["solo"], line["ids"]) for line in lines(caplog, "batch")) == [
        (False, ["a", "b"]),
        (True, ["suspect"]),
    ]


def test_a_job_that_lost_its_worker_again_is_given_up_with_a_result(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    before = counted("jobs_total", "dead")
    bench.send("killer")
    _lose_its_worker(bench)
    _lose_its_worker(bench)
    bench.queue.push("not a job")

    bench.start()

    assert bench.error("killer") == "model_failed"
    eventually(lambda: counted("jobs_total", "dead") == before + 2, "the metric")
    assert [dead["reason"] for dead in bench.queue.dead(3)] == [
        "not a job",
        "its worker died each time it ran",
    ]
    assert "1 jobs were given up" in caplog.text or "2 jobs were given up" in caplog.text
    assert bench.model.calls == 0


# -- what its log says of jobs --------------------------------------------------------------------


def about(*names: str) -> dict[str, Any]:
    """What a line says of these jobs."""
    requests = [f"request-{name}" for name in names]
    named = {
        "ids": list(names),
        "request_ids": requests,
        "trace_ids": [CONTEXT.trace_id] * len(names),
    }
    return {"model": "gated", "version": "1", **named}


def test_the_line_of_a_batch_names_requests_and_traces(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.send("a", "b", context=CONTEXT)

    bench.start()

    eventually(lambda: lines(caplog, "batch"), "its line")
    (line,) = lines(caplog, "batch")
    assert about("a", "b").items() <= line.items()
    assert line["attempt"] == 1


def test_without_a_trace_no_line_speaks_of_one(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.send("a")

    bench.start()

    eventually(lambda: lines(caplog, "batch"), "its line")
    assert lines(caplog, "batch")[0]["request_ids"] == ["request-a"]
    assert "trace_ids" not in lines(caplog, "batch")[0]


def test_jobs_that_are_given_up_or_dropped_are_named(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.send("killer", context=CONTEXT)
    _lose_its_worker(bench)
    _lose_its_worker(bench)
    bench.queue.push(encode_job(bench.job("late", context=CONTEXT, deadline=bench.now - 1)))

    bench.start()

    given_up = "1 jobs were given up: each lost its worker again"
    dropped = "1 jobs were dropped: their answers would have come too late"
    eventually(lambda: lines(caplog, given_up) and lines(caplog, dropped), "both lines")
    assert lines(caplog, given_up) == [about("killer")]
    assert lines(caplog, dropped) == [about("late")]


def test_jobs_that_are_given_back_or_whose_lease_is_lost_are_named(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.model.gate.clear()
    first = [f"first-{n}" for n in range(BATCH_SIZE)]
    second = [f"second-{n}" for n in range(BATCH_SIZE)]
    bench.send(*first, *second, context=CONTEXT)
    worker = bench.worker(lease=Lease(HOUR_MS, max_attempts=9))
    worker._consumer.leases._lease_ms = 30
    bench.start(worker)
    eventually(lambda: bench.queue.snapshot().in_flight == 2 * BATCH_SIZE, "the look ahead")

    for name in first:
        bench.queue._leases.pop(name)
    lost = f"lost the lease of a batch of {BATCH_SIZE}"
    eventually(lambda: lines(caplog, lost), "the warning")
    worker.stop()
    bench.model.gate.set()
    bench.stop(worker)

    assert lines(caplog, lost) == [about(*first)]
    assert lines(caplog, f"gave {BATCH_SIZE} jobs back") == [about(*second)]
    (batch,) = lines(caplog, "batch")
    assert (batch["late"], batch["late_ids"]) == (BATCH_SIZE, first)


# -- leases ---------------------------------------------------------------------------------------


def test_a_result_that_comes_after_the_lease_was_lost_changes_nothing_and_counts_as_late(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = counted("leases_lost_total")
    bench.model.gate.clear()
    bench.send("slow")
    bench.start(lease=Lease(HOUR_MS, max_attempts=9))
    bench.in_a_batch()

    bench.now += HOUR_MS
    bench.queue.push(encode_job(bench.job("other")))
    stolen = MemoryQueue.claim(bench.queue, 9, Lease(HOUR_MS), redelivered=True)
    bench.model.gate.set()

    eventually(lambda: lines(caplog, "batch"), "its line")
    assert lines(caplog, "batch")[0]["late"] == 1
    assert counted("leases_lost_total") == before + 1
    assert bench.queue.results(["slow"]) == [None]
    bench.queue.release(stolen.token, ["slow"])


def test_the_leases_of_the_batch_in_hand_and_of_the_next_are_kept(bench: Bench) -> None:
    bench.model.gate.clear()
    bench.send(*[f"job-{n}" for n in range(2 * BATCH_SIZE)])
    worker = bench.worker()
    renewed: set[str] = set()
    extend = bench.queue.extend

    def note(token: str, job_ids: Sequence[str], lease_ms: int) -> int:
        renewed.update(job_ids)
        return extend(token, job_ids, lease_ms)

    bench.queue.extend = note  # type: ignore[method-assign]
    worker._consumer.leases._lease_ms = 30

    bench.start(worker)

    eventually(lambda: len(renewed) == 2 * BATCH_SIZE, "renewals of both batches")
    bench.model.gate.set()
    bench.assert_answered(*bench.sent)
    eventually(lambda: not worker._consumer.leases._held, "leases to be dropped")


def test_it_is_unhealthy_while_a_call_of_the_model_hangs(bench: Bench) -> None:
    bench.model.gate.clear()
    bench.send("slow")
    worker = bench.start()
    bench.in_a_batch()
    before = worker.healthy

    worker._consumer.leases.patience_s = -1.0
    after = worker.healthy

    assert (before, after) == (True, False)
    bench.model.gate.set()
    bench.result("slow")


# -- stopping -------------------------------------------------------------------------------------


def test_it_stops_by_finishing_the_batch_in_hand_and_giving_the_next_one_back(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench.model.gate.clear()
    first = [f"first-{n}" for n in range(BATCH_SIZE)]
    second = [f"second-{n}" for n in range(BATCH_SIZE)]
    bench.send(*first, *second, "third")
    worker = bench.start()
    bench.in_a_batch()
    eventually(lambda: bench.queue.snapshot().in_flight == 2 * BATCH_SIZE, "the look ahead")

    worker.stop()
    bench.model.gate.set()
    bench.stop(worker)

    bench.assert_answered(*first)
    left = bench.queue.claim(9, Lease(HOUR_MS), redelivered=True)
    assert [json.loads(entry)["id"] for entry in left.entries] == [*second, "third"]
    assert bench.model.calls == 1
    assert "gave 4 jobs back" in caplog.text


def test_it_looks_for_no_next_work_once_it_is_to_stop(bench: Bench) -> None:
    worker = bench.worker()
    batch = [f"job-{n}" for n in range(BATCH_SIZE)]
    bench.send(*batch)
    taken = worker._next_work()
    worker.stop()

    assert taken is not None
    assert worker._prefetch() is None
    assert worker._next_work() is None
    worker._give_back(taken)
    assert bench.queue.snapshot().queued == BATCH_SIZE


def test_a_stop_in_the_midst_of_a_wait_takes_nothing(bench: Bench) -> None:
    worker = bench.worker()
    wait = bench.queue.wait

    def stop_meanwhile(block_s: float) -> None:
        bench.send("late")
        worker.stop()
        wait(block_s)

    bench.queue.wait = stop_meanwhile  # type: ignore[method-assign]

    worker.run()

    assert bench.queue.snapshot().queued == 1


def test_a_stop_while_redis_is_away_ends_in_time(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.model.gate.clear()
    bench.send("lost")
    worker = bench.start(shutdown_s=0.05)
    bench.in_a_batch()

    bench.queue.go_away()
    worker.stop()
    bench.model.gate.set()
    bench.stop(worker)

    assert "1 results could not be stored" in caplog.text


def test_a_batch_that_ends_after_the_time_to_stop_is_answered_all_the_same(bench: Bench) -> None:
    bench.model.gate.clear()
    jobs = [f"job-{n}" for n in range(2 * BATCH_SIZE)]
    bench.send(*jobs)
    worker = bench.start(shutdown_s=0)
    bench.in_a_batch()
    eventually(lambda: bench.queue.snapshot().in_flight == len(jobs), "the look ahead")
    worker.stop()

    bench.model.gate.set()
    bench.stop(worker)

    bench.assert_answered(*jobs[:BATCH_SIZE])
    left = bench.queue.snapshot()
    assert (left.queued, left.in_flight) == (BATCH_SIZE, 0), "the rest is given back"


# -- heartbeats -----------------------------------------------------------------------------------


def test_it_says_what_it_is_and_how_fast(bench: Bench) -> None:
    worker = bench.worker(worker_id="w-7", host="node-3")
    worker.runner.warm_up()

    bench.start(worker)
    eventually(lambda: bench.queue.snapshot().workers, "a heartbeat")

    (info,) = bench.queue.snapshot().workers
    assert (info.id, info.host, info.state, info.model) == ("w-7", "node-3", "ready", "gated")
    assert (info.shape, info.batch_size) == (SHAPE, BATCH_SIZE)
    assert sorted(info.bucket_ms) == [1, 2, 4]
    assert info.last_seen == bench.now


def test_it_says_that_it_is_busy_while_the_model_runs(bench: Bench) -> None:
    worker = bench.worker()
    worker.runner.warm_up()
    assert worker._info("ready").state == "ready"

    worker.runner._call_began = 0.0
    assert worker._info("ready").state == "busy"
    assert worker._info("stopping").state == "stopping"


def test_its_last_words_are_that_it_stops_and_then_it_is_gone(bench: Bench) -> None:
    said: list[str] = []
    heartbeat = bench.queue.heartbeat

    def note(info: WorkerInfo) -> str:
        said.append(info.state)
        return heartbeat(info)

    bench.queue.heartbeat = note  # type: ignore[method-assign]
    worker = bench.start()
    eventually(lambda: said, "a heartbeat")

    bench.stop(worker)

    assert said == ["ready", "stopping"]
    assert bench.queue.snapshot().workers == ()


def test_neither_a_lost_heartbeat_nor_a_lost_goodbye_harms(bench: Bench) -> None:
    bench.queue.go_away("heartbeat", "release", "leave")
    bench.send("a")

    worker = bench.start()
    bench.assert_answered("a")
    bench.stop(worker)

    assert bench.queue.refused == {"heartbeat", "release"}


class Watch:
    """Stands in for the watch over Redis's memory policy."""

    looks = 0

    def look(self) -> None:
        self.looks += 1


def test_with_each_heartbeat_it_may_look_at_redis(bench: Bench) -> None:
    bench.worker()
    watch: Any = Watch()
    config = WorkerConfig("w-1", "here")
    bench.start(
        Worker(bench.consumer, Runner(bench.model, BATCH_SIZE), "gated", config, watch=watch)
    )
    eventually(lambda: watch.looks, "a look")


def test_a_heartbeat_that_redis_refuses_is_told_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    worker = bench.worker()
    bench.queue.go_away("heartbeat", error=QueueKeyTaken("a key is taken"))
    for _ in range(3):
        worker.publish()
    bench.queue.come_back()
    worker.publish()
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR]
    assert told == ["no heartbeat, so this worker counts as gone: a key is taken"]


# -- outages --------------------------------------------------------------------------------------


def test_an_outage_between_two_batches_loses_nothing_and_is_two_lines(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    worker = bench.start()
    bench.send("before")
    bench.assert_answered("before")
    eventually(lambda: worker.met_redis, "the first contact")

    bench.queue.go_away()
    tries = counting_sleeps(worker)
    eventually(lambda: len(tries) > 5, "several tries")
    assert metrics.redis_up._value.get() == 0
    bench.send("after")
    bench.queue.come_back()

    bench.assert_answered("after")
    assert changes_of_state(caplog) == ["Redis answers", "Redis does not answer", "Redis answers"]
    assert metrics.redis_up._value.get() == 1


def counting_sleeps(worker: Worker) -> list[float]:
    """Return the pauses between tries from now on."""
    pauses: list[float] = []
    wait = worker._consumer.connection._stopping.wait

    def note(timeout: float | None = None) -> bool:
        pauses.append(timeout or 0)
        return wait(timeout)

    worker._consumer.connection._stopping.wait = note  # type: ignore[method-assign]
    return pauses


def changes_of_state(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [
        r.getMessage() for r in caplog.records if r.name == "imageserve.queue.redis.connection"
    ]
    return [message.partition(",")[0] for message in found]


@pytest.mark.parametrize("call", ["pixels", "finish"])
def test_what_must_be_done_is_done_after_an_outage(
    bench: Bench, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    caplog.set_level(logging.INFO)
    bench.send("a", "b")
    bench.send("poison", pixels=bytes([255, 0, 255]) + bytes(9))
    bench.queue.go_away(call)

    bench.start()
    eventually(lambda: bench.queue.refused == {call}, "the outage to be met")
    bench.queue.come_back()

    bench.assert_answered("a", "b")
    assert bench.error("poison") == "model_failed"
    eventually(lambda: len(bench.queue.dead(9)) == 1, "the dead list")
    eventually(lambda: changes_of_state(caplog)[-1] == "Redis answers", "the end of it")
    assert sum(each.startswith("Redis does not") for each in changes_of_state(caplog)) == 1


def test_an_outage_while_looking_ahead_leaves_the_batch_in_hand_alone(bench: Bench) -> None:
    bench.model.gate.clear()
    bench.send(*[f"job-{n}" for n in range(BATCH_SIZE)])
    worker = bench.worker()
    batch = worker._next_work()
    assert batch is not None

    bench.queue.go_away("claim")

    assert worker._prefetch() is None
    assert bench.queue.refused == {"claim"}
    bench.queue.come_back()
    worker._give_back(batch)


def test_what_redis_refuses_for_good_is_not_tried_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.send("a")
    bench.queue.go_away("finish", error=QueueError("WRONGTYPE"))

    bench.start()

    eventually(lambda: "1 results could not be stored" in caplog.text, "the error")
    assert "Redis refuses a command: WRONGTYPE" in caplog.text
    bench.queue.come_back()
    bench.send("b")
    bench.assert_answered("b")


def test_a_claim_whose_pixels_redis_refuses_is_left_to_its_lease(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.send("a")
    bench.queue.go_away("pixels", error=QueueError("WRONGTYPE"))

    bench.start()

    eventually(lambda: "Redis refuses a command" in caplog.text, "the error")
    assert bench.model.calls == 0
    assert bench.queue.snapshot().in_flight == 1


def test_a_bug_in_finishing_is_logged_and_the_worker_goes_on(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    finish = bench.queue.finish
    broken = [True]

    def buggy(*args: Any, **kwargs: Any) -> list[bool]:
        if broken and broken.pop():
            raise TypeError("a bug")
        return finish(*args, **kwargs)

    bench.queue.finish = buggy  # type: ignore[method-assign]
    bench.send("a")
    bench.start()
    eventually(lambda: "bug while finishing a batch" in caplog.text, "its line")

    bench.send("b")

    bench.assert_answered("b")
    (line,) = [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert line.exc_info


# -- back-off -------------------------------------------------------------------------------------


def test_pauses_between_tries_grow_up_to_a_limit_and_start_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(random.Random, "uniform", lambda self, low, high: high)
    stopping = threading.Event()
    pauses: list[float] = []

    def wait(timeout: float | None = None) -> bool:
        pauses.append(timeout or 0)
        return False

    stopping.wait = wait  # type: ignore[method-assign]
    state = connection.RedisBackoff(stopping)

    for _ in range(8):
        state.failed(QueueUnavailable("away"))
    state.succeeded()
    state.failed(QueueUnavailable("away"))

    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 0.05]


def test_at_a_start_it_is_no_error_that_redis_does_not_answer_yet(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(connection, "FIRST_PAUSE_S", 0.0001)
    away = QueueUnavailable("away")

    def told(state: connection.RedisBackoff, *errors: Exception) -> list[tuple[str, str]]:
        caplog.clear()
        for error in errors:
            state.failed(error)
        return [(r.levelname, r.getMessage()) for r in caplog.records]

    starts = connection.RedisBackoff(threading.Event())
    yet, until = "Redis does not answer yet", ", trying until it does: away"
    assert told(starts, away, away) == [("INFO", yet + until)]
    monkeypatch.setattr(connection, "START_S", 0.0)
    assert told(starts, away, away) == [("ERROR", "Redis does not answer" + until)]
    refusal = QueueForbidden("away")
    assert told(starts, refusal) == [("ERROR", "Redis does not do what it should" + until)]


def test_pauses_differ_between_workers_and_outlast_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    stopping = threading.Event()
    stopping.set()
    state = connection.RedisBackoff(stopping)

    for _ in range(4):
        state.failed(QueueUnavailable("away"))

    assert len(slept) == 4
    assert all(
        limit / 2 <= pause <= limit
        for pause, limit in zip(slept, (0.05, 0.1, 0.2, 0.4), strict=True)
    )
