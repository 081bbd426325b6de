"""The runner: whatever a model does to a batch, each picture gets its own outcome."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.labels_only import LabelsOnly

from imageserve import metrics
from imageserve.errors import ModelOutOfMemory
from imageserve.models.model import Model, best, best_of_each
from imageserve.models.stand_in import StandIn, stand_in_class, stand_in_label
from imageserve.predictions import Prediction
from imageserve.preparation import Preparation
from imageserve.queue.wire import Job
from imageserve.trace_context import TraceContext
from imageserve.worker.batch import Images, Outcome, Task
from imageserve.worker.runner import Runner

Answers = list[tuple[Prediction, ...]]
RAISES = (255, 0, 255)
NEEDS_ALL_MEMORY = (255, 255, 0)


class Recording(LabelsOnly):
    """A stand-in that notes the sizes of its calls, and breaks where it is told to."""

    name = "recording"
    version = "1"
    runtime = "test"
    preparation = Preparation((2, 2))
    classes = 1000

    def __init__(self, breaks: Callable[[NDArray[np.uint8]], object] = lambda _: None) -> None:
        self.calls: list[int] = []
        self.tops: list[int] = []
        self.breaks = breaks
        self._stand_in = StandIn(Preparation((2, 2)), poison=True, sleep=lambda _: None)

    def predict(self, images: NDArray[np.uint8], top: int) -> Answers:
        self.calls.append(len(images))
        self.tops.append(top)
        self.breaks(images)
        return self._stand_in.predict(images, top)


def task(number: int, first_pixel: Sequence[int] = (), top: int = 1) -> Task:
    image = np.full((2, 2, 3), number, np.uint8)
    if first_pixel:
        image[0, 0] = first_pixel
    job = Job(f"job-{number}", "recording", (2, 2, 3), top, "reply", f"trace-{number}", 1000)
    return Task(job, image)


def tasks(count: int, spoilt: Sequence[int] = (), pixel: Sequence[int] = RAISES) -> list[Task]:
    return [task(n, pixel if n in spoilt else ()) for n in range(count)]


def shown(outcomes: Sequence[Outcome]) -> list[str | None]:
    return [outcome.error or outcome.predictions[0].label for outcome in outcomes]


def expected(batch: Sequence[Task], errors: dict[int, str] | None = None) -> list[str | None]:
    errors = errors or {}
    return [errors.get(n) or stand_in_label(t.image.tobytes()) for n, t in enumerate(batch)]


FAILED = "the model failed: RuntimeError"


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 9])
def test_each_picture_gets_its_own_answer_in_order_whatever_the_padding(count: int) -> None:
    model, batch = Recording(), tasks(count)

    outcomes = Runner(model, 12).run(batch)

    assert shown(outcomes) == expected(batch)
    assert model.calls == [{1: 1, 2: 2, 3: 4, 5: 8, 8: 8, 9: 12}[count]]
    assert {outcome.batch for outcome in outcomes} == {count}


def test_a_batch_larger_than_the_largest_bucket_is_split() -> None:
    model, batch = Recording(), tasks(7)

    assert shown(Runner(model, 2).run(batch)) == expected(batch)
    assert model.calls == [2, 2, 2, 1]


def test_the_model_is_asked_for_the_most_labels_that_any_job_wants() -> None:
    model = Recording()

    outcomes = Runner(model, 4).run([task(0, top=1), task(1, top=3), task(2, top=2)])

    assert model.tops == [3]
    assert [len(outcome.predictions) for outcome in outcomes] == [3, 3, 3]


@pytest.mark.parametrize(
    ("count", "spoilt"),
    [
        pytest.param(1, (0,), id="alone"),
        pytest.param(8, (0,), id="the first of eight"),
        pytest.param(8, (7,), id="the last of eight"),
        pytest.param(7, (3,), id="in the middle of an odd batch"),
        pytest.param(8, (1, 6), id="two of eight"),
        pytest.param(3, (0, 1, 2), id="all"),
    ],
)
def test_a_picture_that_breaks_the_model_fails_and_its_neighbours_do_not(
    count: int, spoilt: tuple[int, ...]
) -> None:
    batch = tasks(count, spoilt)

    outcomes = Runner(Recording(), 8).run(batch)

    assert shown(outcomes) == expected(batch, dict.fromkeys(spoilt, FAILED))
    assert all(outcome.batch == 1 for outcome in outcomes if outcome.error)


def test_a_failing_batch_is_halved_not_run_one_by_one() -> None:
    model = Recording()

    Runner(model, 8).run(tasks(8, (5,)))

    assert model.calls == [8, 4, 4, 2, 1, 1, 2]


CONTEXT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=False)


def test_a_failing_picture_is_logged_with_its_job_request_and_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good, bad = tasks(2, (1,))
    traced = replace(bad, job=replace(bad.job, context=CONTEXT))

    Runner(Recording(), 2).run([good, traced])

    halved, failed = [vars(record)["fields"] for record in caplog.records]
    model = {"model": "recording", "version": "1"}
    request = {"job": "job-1", "request_id": "trace-1", "trace_id": CONTEXT.trace_id}
    assert failed == {**model, **request}
    assert halved == {
        **model,
        "ids": ["job-0", "job-1"],
        "request_ids": ["trace-0", "trace-1"],
        "trace_ids": ["", CONTEXT.trace_id],
    }
    assert "halving" in caplog.text


def test_a_batch_that_does_not_fit_into_memory_fails_once_and_runs_one_by_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Recording(lambda images: _no_memory_above(2, images))
    runner, batch = Runner(model, 8), tasks(8)

    assert shown(runner.run(batch)) == expected(batch)

    assert model.calls == [8] + [1] * 8
    assert runner.batch_size == 4
    assert metrics.batch_limit.labels("recording")._value.get() == 4
    assert "batches are limited to 4 from now on" in caplog.text


def test_later_batches_find_the_largest_batch_that_fits_and_remember_it() -> None:
    model = Recording(lambda images: _no_memory_above(2, images))
    runner, batch = Runner(model, 8), tasks(8)
    runner.run(batch)
    model.calls.clear()

    assert shown(runner.run(batch)) == expected(batch)
    assert model.calls == [4] + [1] * 8, "four do not fit: the other half is not tried at all"

    model.calls.clear()
    assert shown(runner.run(batch)) == expected(batch)
    assert model.calls == [2, 2, 2, 2]
    assert runner.batch_size == 2


def _no_memory_above(most: int, images: NDArray[np.uint8]) -> None:
    if len(images) > most:
        raise ModelOutOfMemory("no memory")


def test_the_limit_after_a_padded_batch_is_half_of_its_bucket() -> None:
    model = Recording(lambda images: _no_memory_above(4, images))
    runner, batch = Runner(model, 8), tasks(5)

    assert shown(runner.run(batch)) == expected(batch)
    assert runner.batch_size == 4


def test_a_picture_for_which_memory_never_suffices_fails_alone() -> None:
    runner = Runner(Recording(lambda images: _no_memory_above(0, images)), 4)

    outcomes = runner.run(tasks(4))

    assert shown(outcomes) == ["out of memory"] * 4
    assert runner.batch_size == 2


def test_a_picture_that_needs_all_memory_passes_alone() -> None:
    batch = tasks(4, (2,), NEEDS_ALL_MEMORY)

    assert shown(Runner(Recording(), 4).run(batch)) == expected(batch)


class _Wrong(LabelsOnly):
    name = "wrong"
    version = "1"
    runtime = "test"
    preparation = Preparation((2, 2))
    classes = 3

    def predict(self, images: NDArray[np.uint8], top: int) -> Answers:
        return [()] * (len(images) + 1)


class _NotFinite(LabelsOnly):
    """A network that makes NaN of one picture, as an overflow does."""

    name = "not finite"
    version = "1"
    runtime = "test"
    preparation = Preparation((2, 2))
    classes = 2

    def predict(self, images: NDArray[np.uint8], top: int) -> Answers:
        scores = np.stack([images[:, 0, 0, 0], images[:, 0, 0, 1]], axis=1).astype(np.float32)
        scores[images[:, 0, 0, 0] == 255] = np.nan
        return best(scores, ["a", "b"], top)


def test_a_wrong_number_of_answers_is_never_handed_out() -> None:
    outcomes = Runner(_Wrong(), 4).run(tasks(3))

    assert shown(outcomes) == ["the model failed: ValueError"] * 3


def test_scores_that_are_no_numbers_fail_only_their_picture() -> None:
    batch = [task(0), task(1, RAISES), task(2)]

    assert shown(Runner(_NotFinite(), 4).run(batch)) == ["a", "the model failed: ValueError", "a"]


def test_warming_up_runs_and_times_every_bucket() -> None:
    model = Recording()
    runner = Runner(model, 8, itertools.count().__next__)

    runner.warm_up()

    assert model.calls == [1] * 4 + [2] * 4 + [4] * 4 + [8] * 4
    assert sorted(runner.times.ms) == [1, 2, 4, 8]
    assert runner.times.slowest_ms > 0


def test_a_bucket_that_does_not_fit_at_warm_up_is_never_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner = Runner(Recording(lambda images: _no_memory_above(4, images)), 32)

    runner.warm_up()

    assert (runner.batch_size, sorted(runner.times.ms)) == (4, [1, 2, 4])
    assert "batches are limited to 4" in caplog.text


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(Recording(lambda images: _no_memory_above(0, images)), id="no memory at all"),
        pytest.param(_Wrong(), id="wrong answers"),
    ],
)
def test_a_model_that_cannot_run_at_all_stops_at_warm_up(model: Model) -> None:
    with pytest.raises((ModelOutOfMemory, ValueError)):
        Runner(model, 4).warm_up()


def test_every_outcome_says_which_version_made_it() -> None:
    batch = tasks(3, (1,))

    own = Runner(Recording(), 4).run(batch)
    named = Runner(Recording(), 4, name="shapes", version="v7").run(batch)

    assert [outcome.version for outcome in own] == ["1"] * 3
    assert [outcome.version for outcome in named] == ["v7"] * 3


def test_real_batches_refresh_the_times() -> None:
    seconds = iter([0.0, 0.0, 0.0, 10.0, 10.0])
    runner = Runner(Recording(), 4, lambda: next(seconds))
    runner.times.ms = {2: 5000.0}

    runner.run(tasks(2))

    assert runner.times.ms == {2: 5500.0}


def test_it_knows_how_long_a_call_has_been_running() -> None:
    now = [100.0]
    during: list[float] = []

    def breaks(images: NDArray[np.uint8]) -> None:
        now[0] += 7
        during.append(runner.running_s)
        if images[0, 0, 0, 0] == 255:
            raise RuntimeError("broken")

    runner = Runner(Recording(breaks), 1, lambda: now[0])

    outcomes = runner.run([task(0)]) + runner.run([task(0, RAISES)])

    assert during == [7.0, 7.0]
    assert [outcome.model_ms for outcome in outcomes] == [7000.0, 7000.0]
    assert runner.running_s == 0.0


# -- vectors --------------------------------------------------------------------------------------


def test_each_picture_gets_the_vector_that_it_wants_and_others_none() -> None:
    model = StandIn(Preparation((2, 2)), embedding=6, classes=9, sleep=lambda _: None)
    wants = ["scores", "", "embedding", "something later"]
    batch = [
        Task(replace(each.job, want=want), each.image)
        for each, want in zip(tasks(4), wants, strict=True)
    ]

    outcomes = Runner(model, 4).run(batch)

    assert shown(outcomes) == expected(batch)
    scores, nothing, embedding, unknown = (
        np.frombuffer(outcome.vector, "<f4") for outcome in outcomes
    )
    assert int(scores.argmax()) == stand_in_class(outcomes[0].predictions[0].label, 9)
    assert (
        bytes(embedding.astype(np.uint8).tolist()).decode()
        == (outcomes[2].predictions[0].label[:6])
    )
    assert nothing.size == unknown.size == 0


def test_a_picture_that_is_asked_for_all_labels_costs_its_neighbours_nothing() -> None:
    labels = [str(i) for i in range(1000)]

    class Scoring(Recording):
        def predict(self, images: NDArray[np.uint8], top: int) -> Answers:
            raise AssertionError("all labels are made for all pictures")

        def predict_more(self, images: Any, asked: Any) -> Any:
            return best_of_each(np.ones((len(asked), 1000), np.float32), labels, asked), {}

    first, greedy, other = tasks(3)
    batch = [first, Task(replace(greedy.job, top=100_000), greedy.image), other]

    outcomes = Runner(Scoring(), 4).run(batch)

    assert [len(outcome.predictions) for outcome in outcomes] == [
        first.job.top,
        1000,
        other.job.top,
    ]


def test_vectors_of_a_batch_are_made_only_where_one_is_wanted() -> None:
    class Counting(StandIn):
        calls = 0

        def predict_more(self, *args: Any) -> Any:
            self.calls += 1
            return super().predict_more(*args)

    model = Counting(Preparation((2, 2)), sleep=lambda _: None)
    runner = Runner(model, 4)

    runner.warm_up()
    runner.run(tasks(4))

    assert model.calls == 0


# Batches that lie in memory as the model takes them.


def in_room(count: int, room: int, spoilt: Sequence[int] = ()) -> tuple[list[Task], Images]:
    """Return tasks whose images lie in one block, with other pictures behind them."""
    block = np.full((room, 2, 2, 3), 99, np.uint8)
    for place, each in enumerate(tasks(count, spoilt)):
        block[place] = each.image
    return [replace(each, image=block[n]) for n, each in enumerate(tasks(count))], block


@pytest.mark.parametrize(("count", "room", "copied"), [(3, 4, False), (4, 4, False), (3, 3, True)])
def test_a_block_is_run_as_it_lies_where_it_has_room_for_the_padding(
    count: int, room: int, copied: bool
) -> None:
    batch, block = in_room(count, room)
    given: list[NDArray[np.uint8]] = []

    outcomes = Runner(Recording(given.append), 4).run(batch, block)

    assert shown(outcomes) == expected(batch)
    assert [len(images) for images in given] == [4]
    assert np.shares_memory(given[0], block) is not copied


@pytest.mark.parametrize("spoilt", range(7))
def test_a_block_whose_model_fails_is_halved_to_the_picture(spoilt: int) -> None:
    batch, block = in_room(7, 8, [spoilt])

    outcomes = Runner(Recording(), 4).run(batch, block)

    assert shown(outcomes) == expected(batch, {spoilt: FAILED})
