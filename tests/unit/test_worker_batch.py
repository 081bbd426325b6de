"""How the pixels of a batch reach the model: read into one place, and run as they lie there."""

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserve.preparation import Preparation
from imageserve.queue.consumer import Batch, ClaimedJob, Consumer
from imageserve.queue.wire import Job, UnsupportedJob
from imageserve.worker.batch import Outcome, Rooms, counts_of, sort_batch

PREPARATION = Preparation((2, 2))


def job(number: int, model: str = "m") -> Job:
    return Job(f"job-{number}", model, (2, 2, 3), 5, "reply", "trace", 1000)


def batch_of(*jobs: ClaimedJob) -> Batch:
    return Batch(cast(Consumer, None), "token", 0, jobs, False)


def pixels(room: Any, place: int) -> memoryview:
    return memoryview(room.data.cast("B")[12 * place : 12 * (place + 1)])


def test_pictures_that_lie_one_behind_the_other_are_run_as_they_lie() -> None:
    room = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)
    work = sort_batch(
        batch_of(
            ClaimedJob(job(0), pixels(room, 0)),
            ClaimedJob(job(1), None),
            ClaimedJob(UnsupportedJob("old", "reply", "m", 1000, "unknown"), None),
            ClaimedJob(job(2), pixels(room, 1)),
        ),
        "m",
        PREPARATION,
        room,
    )
    assert work.block is room
    assert [task.job.id for task in work.tasks] == ["job-0", "job-2"]
    for place, task in enumerate(work.tasks):
        assert np.shares_memory(task.image, room[place])
        assert (task.image == room[place]).all()
    assert len(work.answered) == 2


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(lambda room: ClaimedJob(job(0), pixels(room, 0)[:6]), id="too few pixels"),
        pytest.param(lambda room: ClaimedJob(job(0, "x"), pixels(room, 0)), id="another model"),
        pytest.param(lambda _: ClaimedJob(job(0), bytes(12)), id="pixels that lie elsewhere"),
    ],
)
def test_pictures_between_which_others_lie_are_copied(other: Any) -> None:
    room = np.zeros((4, 2, 2, 3), np.uint8)
    work = sort_batch(
        batch_of(other(room), ClaimedJob(job(1), pixels(room, 1))), "m", PREPARATION, room
    )
    assert work.block is None
    assert "job-1" in [task.job.id for task in work.tasks]


def test_room_for_pictures_of_the_model_before_is_not_run() -> None:
    room = np.zeros((4, 1, 4, 3), np.uint8)
    work = sort_batch(batch_of(ClaimedJob(job(0), pixels(room, 0))), "m", PREPARATION, room)
    assert [task.image.shape for task in work.tasks] == [PREPARATION.shape]
    assert work.block is None


def test_the_next_batch_never_comes_where_the_one_before_it_runs() -> None:
    rooms = Rooms()
    first = rooms.spare(4, (2, 2, 3))
    assert rooms.spare(4, (2, 2, 3)) is first, "nothing was claimed"
    rooms.take()
    second = rooms.spare(4, (2, 2, 3))
    assert not np.shares_memory(first, second)
    rooms.take()
    assert rooms.spare(3, (2, 2, 3)) is first
    assert rooms.spare(8, (2, 2, 3)).shape == (8, 2, 2, 3)
    rooms.take()
    assert rooms.spare(8, (4, 4, 3)).shape == (8, 4, 4, 3)


def test_calls_of_the_model_are_counted_by_their_size_rounded_up() -> None:
    outcomes = [Outcome((), None, 10.0, 5)] * 5 + [Outcome((), None, 4.0, 6)] * 6
    outcomes += [Outcome((), "failed", 1.0, 1)] * 2 + [Outcome((), None, 3.0, 20)] * 20

    assert counts_of(outcomes) == {
        "batches": 1,
        "busy_ms": 19,
        "calls:1": 2,
        "calls_us:1": 2000,
        "calls:8": 2,
        "calls_us:8": 14_000,
        "calls:24": 1,
        "calls_us:24": 3000,
    }
    assert counts_of([]) == {"batches": 0, "busy_ms": 0}


@given(st.integers(1, 5000))
def test_a_queue_has_few_counters_of_sizes(size: int) -> None:
    (name,) = {
        each for each in counts_of([Outcome((), None, 1.0, size)] * size) if "calls:" in each
    }

    assert size <= int(name.removeprefix("calls:")) <= 2 * size
