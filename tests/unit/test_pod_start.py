"""The start of a pod, phase by phase."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserve.autoscaler.pod_start import (
    STARTS_REMEMBERED,
    StartStamps,
    StartWatch,
    pod_start,
    start_facts,
)
from imageserve.autoscaler.policy import Policy
from imageserve.queue.snapshot import WorkerInfo

WHOLE = StartStamps(100.0, 102.0, 130.0, 160.0)
CACHED = {"scheduled": 1.0, "image": 1.0, "model": 20.0, "warm": 8.0}
PULLED = {**CACHED, "image": 95.0}
ON_A_NEW_NODE = {**PULLED, "scheduled": 180.0}


def worker(host: str, load_s: float) -> WorkerInfo:
    return WorkerInfo("w", "m", (8, 8, 3), 4, {}, "ready", host, load_s=load_s)


@pytest.mark.parametrize(
    ("stamps", "load_s", "phases"),
    [
        pytest.param(
            WHOLE, 20.0, {"scheduled": 2, "image": 28, "model": 20, "warm": 10}, id="all is known"
        ),
        pytest.param(
            replace(WHOLE, init_s=15.0),
            20.0,
            {"scheduled": 2, "image": 13, "model": 35, "warm": 10},
            id="what an init container fetches belongs to the model",
        ),
        pytest.param(
            WHOLE, None, {"scheduled": 2, "image": 28, "model": 30}, id="the worker does not say"
        ),
        pytest.param(
            WHOLE,
            90.0,
            {"scheduled": 2, "image": 28, "model": 30, "warm": 0},
            id="clocks of two machines differ",
        ),
        pytest.param(
            replace(WHOLE, running_s=None),
            20.0,
            {"scheduled": 2, "model": 58},
            id="the container does not say",
        ),
        pytest.param(StartStamps(100.0, ready_s=160.0), None, {"model": 60}, id="nothing is known"),
    ],
)
def test_a_start_is_cut_into_phases(
    stamps: StartStamps, load_s: float | None, phases: dict[str, float]
) -> None:
    assert stamps.phases(load_s) == phases


second = st.floats(-10, 4000)


@given(second | st.none(), second | st.none(), second, st.floats(0, 500), second | st.none())
def test_phases_are_never_negative_and_add_up_to_the_start(
    scheduled_s: float | None,
    running_s: float | None,
    ready_s: float,
    init_s: float,
    load_s: float | None,
) -> None:
    stamps = StartStamps(0.0, scheduled_s, running_s, ready_s, init_s)
    phases = stamps.phases(load_s)

    assert all(seconds >= 0 for seconds in phases.values())
    if stamps.total_s is not None:
        assert math.isclose(sum(phases.values()), stamps.total_s, abs_tol=1e-6)


def test_a_cached_image_is_not_sized_like_a_new_node() -> None:
    seen = pod_start([ON_A_NEW_NODE, PULLED, *[CACHED] * 6])

    assert seen is not None
    assert seen.total_s == sum(CACHED.values())
    assert (seen.phases["image"].longest_s, seen.phases["scheduled"].longest_s) == (95.0, 180.0)


def test_a_pull_counts_where_more_than_a_quarter_of_the_starts_had_one() -> None:
    often = pod_start([PULLED, CACHED, CACHED, PULLED, CACHED])
    first = pod_start([PULLED])

    assert often is not None
    assert first is not None
    assert often.total_s == first.total_s == sum(PULLED.values())


def test_a_worker_that_does_not_say_when_it_loaded_counts_no_phase_twice() -> None:
    old = {"scheduled": 1.0, "image": 1.0, "model": 28.0}

    seen = pod_start([*[CACHED] * 6, old])
    assert seen is not None
    assert seen.total_s == sum(CACHED.values())


@given(st.lists(st.lists(st.floats(0, 1000), min_size=4, max_size=4), min_size=1, max_size=20))
def test_what_counts_lies_between_the_shortest_and_the_longest(starts: list[list[float]]) -> None:
    seen = pod_start([dict(zip(CACHED, each, strict=True)) for each in starts])

    assert seen is not None
    for name, phase in seen.phases.items():
        each = [start[list(CACHED).index(name)] for start in starts]
        assert min(each) <= phase.usual_s <= phase.longest_s == max(each)
        assert sum(seconds <= phase.usual_s for seconds in each) >= 0.75 * len(each)


def test_a_heartbeat_may_come_before_or_after_the_readiness() -> None:
    watch = StartWatch()
    before = watch.usual([worker("pod-1", 20.0)])
    watch.note_pods([("pod-1", "uid-1", WHOLE)])
    without = watch.usual([])
    told = watch.usual([worker("pod-1", 20.0)])
    # Its container was restarted, and finds the model in the page cache.
    again = watch.usual([worker("pod-1", 1.0)])
    gone = watch.usual([])

    assert before is None
    assert without is not None
    assert told is not None
    assert list(without.phases) == ["scheduled", "image", "model"]
    assert told.phases["warm"].usual_s == 10.0
    assert told == again == gone


def test_the_last_starts_count() -> None:
    watch = StartWatch()
    slow = [(f"old-{i}", f"old-{i}", StartStamps(0.0, ready_s=500.0)) for i in range(30)]
    fast = [
        (f"new-{i}", f"new-{i}", StartStamps(1000.0, ready_s=1010.0))
        for i in range(STARTS_REMEMBERED)
    ]
    # A list of pods has no order.
    watch.note_pods(fast + slow)
    seen = watch.usual()

    assert seen is not None
    assert (seen.starts, seen.total_s) == (STARTS_REMEMBERED, 10.0)


def test_the_name_of_a_host_is_that_of_its_pod_cut_short() -> None:
    watch = StartWatch()
    name = "m" * 70
    watch.note_pods([(name, "uid", WHOLE)])
    seen = watch.usual([worker(name[:63], 20.0)])

    assert seen is not None
    assert seen.phases["model"].usual_s == 20.0


def test_facts_say_why() -> None:
    unseen = start_facts(None, Policy(pod_start_s=45))
    seen = start_facts(pod_start([CACHED, CACHED, CACHED, PULLED]), Policy())

    assert (unseen["usual_s"], unseen["starts"]) == (45, 0)
    assert "podStartSeconds" in unseen["why"]
    assert (seen["usual_s"], seen["phases_s"], seen["starts"]) == (30.0, CACHED, 4)
    assert seen["longest_s"]["image"] == 95.0
    assert "75%" in seen["why"]
