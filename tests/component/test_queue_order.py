"""The order of a queue: earliest deadline first, a tenth for the background, nobody starves.

Each promise is held by the in-memory twin and by real servers, like those of ``test_queue.py``.
"""

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.component.test_queue import (
    HELD,
    PIXELS,
    Bench,
    a_job,
    an_entry,
    bench,
    claim,
    finish,
    ids,
    stats,
)

from imageserve.queue.admission import Admission, EnqueueCode, Limits
from imageserve.queue.consumer import Claim
from imageserve.queue.snapshot import Pace, Snapshot, Speed
from imageserve.queue.wire import BACKGROUND, WOULD_TIME_OUT, Job, decode_job

__all__ = ["bench"]

FAR_MS = 60_000
"""Steps between deadlines, so large that the time between two calls makes no difference."""
NONE_OLD = 9_999_999_999_999
TEN_A_SECOND = Speed(10.0)


def put(bench: Bench, job_id: str, timeout_ms: int, priority: str = "") -> EnqueueCode:
    return offer(bench, job_id, timeout_ms, priority).code


def offer(
    bench: Bench, job_id: str, timeout_ms: int, priority: str = "", speed: Speed | None = None
) -> Admission:
    job = replace(a_job(job_id), priority=priority, preparation="a fingerprint")
    return bench.queue.enqueue(job, PIXELS, timeout_ms, Limits(speed=speed or Speed()))


def put_all(bench: Bench, timeouts: Iterable[int], priority: str = "") -> list[str]:
    """Queue jobs that are named by their place; return their names, in the order of the list."""
    timeouts = list(timeouts)
    for place, timeout in enumerate(timeouts):
        name = f"{priority[:1]}{place}"
        assert put(bench, name, timeout * FAR_MS, priority) is EnqueueCode.ACCEPTED
    return [f"{priority[:1]}{n}" for n in sorted(range(len(timeouts)), key=timeouts.__getitem__)]


# Earliest deadline first.


def test_jobs_are_taken_by_deadline_and_equals_as_they_came(bench: Bench) -> None:
    expected = put_all(bench, [5, 3, 9, 1, 3, 7, 5, 2])
    assert ids(claim(bench, 3)) + ids(claim(bench)) == expected


def test_background_jobs_stand_behind_all_others_in_the_order_of_their_deadlines(
    bench: Bench,
) -> None:
    behind = put_all(bench, [3, 1, 2], BACKGROUND)
    ahead = put_all(bench, [9, 5, 7])
    assert ids(claim(bench, 3)) == ahead
    assert ids(claim(bench, 3)) == behind
    assert stats(bench)["shared"] == 3, "those that were taken while both waited"


def test_a_job_keeps_its_priority_on_the_way(bench: Bench) -> None:
    put(bench, "a", FAR_MS, BACKGROUND)
    (job,) = map(decode_job, claim(bench).entries)
    assert isinstance(job, Job)
    assert job.priority == BACKGROUND


def test_released_jobs_go_back_to_their_places(bench: Bench) -> None:
    put_all(bench, [1, 2, 5])
    put_all(bench, [4], BACKGROUND)
    taken = claim(bench, 4)
    put(bench, "between", 3 * FAR_MS)
    put(bench, "behind", 9 * FAR_MS, BACKGROUND)
    assert bench.queue.release(taken.token, ids(taken)) == 4
    assert in_order(bench) == ["0", "1", "between", "2", "b0", "behind"]


def test_a_released_job_is_the_first_of_its_deadline(bench: Bench) -> None:
    bench.push(an_entry("first", deadline=NONE_OLD), an_entry("second", deadline=NONE_OLD))
    taken = claim(bench, 1)
    bench.queue.release(taken.token, ["first"])
    assert in_order(bench) == ["first", "second"]


def in_order(bench: Bench) -> list[str]:
    """Take one job after the other."""
    found: list[str] = []
    while taken := ids(claim(bench, 1)):
        found += taken
    return found


# Any mix of calls, on any list.


ENTRIES = st.sampled_from(["", "no job", "[7]", '{"deadline":', '{"id":7,"deadline":1e999}'])
STEPS = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 50), st.sampled_from(["", BACKGROUND])),
    st.tuples(st.just("claim"), st.integers(1, 6), st.booleans()),
    st.tuples(st.just("release"), st.integers(0, 5)),
    st.tuples(st.just("finish"), st.integers(0, 5)),
    st.tuples(st.just("old push"), st.integers(1, 50)),
    st.tuples(st.just("junk"), ENTRIES),
)


NUMBERS = itertools.count()


class Run:
    """Calls on one queue, and what is known of its jobs."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.held: list[Claim] = []
        self.sent: list[str] = []
        self.done: Counter[str] = Counter()

    def step(self, kind: str, *args: object) -> None:
        getattr(self, kind.replace(" ", "_"))(*args)

    def _name(self) -> str:
        self.sent.append(f"job-{next(NUMBERS)}")
        return self.sent[-1]

    def put(self, timeout: int, priority: str) -> None:
        assert put(self.bench, self._name(), timeout * FAR_MS, priority) is EnqueueCode.ACCEPTED

    def old_push(self, deadline: int) -> None:
        """Push at the end as a web process of 0.1.0 does."""
        self.bench.push(an_entry(self._name(), deadline=NONE_OLD - deadline * FAR_MS))

    def junk(self, entry: str) -> None:
        self.bench.push(entry)

    def claim(self, n: int, redelivered: bool) -> None:
        self._hold(claim(self.bench, n, redelivered=redelivered))

    def _hold(self, taken: Claim) -> None:
        if taken.entries:
            self.held.append(taken)

    def release(self, index: int) -> None:
        if index < len(self.held):
            taken = self.held.pop(index)
            assert self.bench.queue.release(taken.token, ids(taken)) == len(taken.entries)

    def finish(self, index: int) -> None:
        if index < len(self.held):
            taken = self.held.pop(index)
            assert all(finish(self.bench, taken, *ids(taken)))
            self.done.update(ids(taken))

    def drain(self) -> None:
        while self.held or self.bench.queue.snapshot().queued:
            self._hold(claim(self.bench))
            self.finish(0)


many = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@many
@given(st.lists(STEPS, max_size=40))
def test_whatever_comes_no_job_is_lost_and_none_done_twice(
    bench: Bench, steps: list[tuple[str, ...]]
) -> None:
    run = Run(bench)
    for step in steps:
        run.step(*step)
        bench.queue.snapshot()  # Reads whatever lies there.
    run.drain()
    assert run.done == Counter(run.sent)


@many
@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=40), st.integers(1, 8))
def test_jobs_are_taken_by_class_and_deadline_but_for_the_tenth(
    bench: Bench, jobs: list[tuple[int, bool]], n: int
) -> None:
    run, keys = Run(bench), {}
    for timeout, is_background in jobs:
        run.put(timeout, BACKGROUND if is_background else "")
        keys[run.sent[-1]] = (is_background, timeout)
    background = [each for each in sorted(keys.values()) if each[0]]
    others = [each for each in sorted(keys.values()) if not each[0]]
    while taken := claim(bench, n).entries:
        found = [keys[decode_job(entry).id] for entry in taken]
        theirs = [each for each in found if each[0]]
        assert theirs == background[: len(theirs)], "the earliest of the background"
        del background[: len(theirs)]
        rest = [each for each in found if not each[0]]
        assert rest == others[: len(rest)], "the earliest of the others"
        del others[: len(rest)]
        assert len(theirs) <= max(1, n // 5) or not others, "no more than their tenth"
    assert background == others == []


@pytest.mark.parametrize("n", [1, 3, 8, 32])
def test_of_a_hundred_jobs_that_are_taken_while_both_wait_ten_are_of_the_background(
    bench: Bench, n: int
) -> None:
    put_all(bench, range(1, 150))
    put_all(bench, range(1, 60), BACKGROUND)
    taken = [each for _ in range(-(-100 // n)) for each in ids(claim(bench, n))]
    for start in range(len(taken) - 99):
        count = sum(each.startswith("b") for each in taken[start : start + 100])
        assert 10 - n // 10 - 1 <= count <= 10 + n // 10 + 1, start
    assert sum(each.startswith("b") for each in taken) == len(taken) // 10


def test_where_none_other_waits_the_background_gets_all(bench: Bench) -> None:
    names = put_all(bench, range(1, 30), BACKGROUND)
    assert ids(claim(bench)) == names


# What is taken in: the place counts, and those behind it.


def test_only_jobs_that_are_due_earlier_are_ahead(bench: Bench) -> None:
    for n in range(30):
        put(bench, f"patient {n}", 10 * FAR_MS)
    tight = [offer(bench, f"tight {n}", 1000, speed=TEN_A_SECOND) for n in range(11)]
    assert [each.code for each in tight] == 10 * [EnqueueCode.ACCEPTED] + [
        EnqueueCode.WOULD_TIME_OUT
    ]
    assert tight[-1].backlog == 10, "those that are ahead of it"


def test_a_job_before_which_nothing_is_is_never_refused(bench: Bench) -> None:
    slow = Speed(0.001)
    assert offer(bench, "first", 1, speed=slow).code is EnqueueCode.ACCEPTED


@pytest.mark.parametrize(("count", "tight"), [(1, 0), (5, 0), (5, 3), (16, 15), (16, 7)])
def test_a_job_that_makes_one_behind_it_late_is_refused(
    bench: Bench, count: int, tight: int
) -> None:
    one_in_ten_s = Speed(0.1)
    for n in range(count):
        # One has time for those ahead and itself, and half of another one; the others for more.
        more_s = 5 if n == tight else 15
        put(bench, f"job {n}", 1000 * (10 * (n + 1) + more_s))
    refused = offer(bench, "too much", 1000, speed=one_in_ten_s)
    assert refused == Admission(EnqueueCode.WOULD_TIME_OUT, 0)

    finish(bench, claim(bench, tight + 1), *(f"job {n}" for n in range(tight + 1)))
    assert offer(bench, "now", 1000, speed=one_in_ten_s).code is EnqueueCode.ACCEPTED


def test_jobs_of_the_background_are_not_protected(bench: Bench) -> None:
    put(bench, "b", 10 * FAR_MS, BACKGROUND)
    one_a_step = Speed(1000 / (9 * FAR_MS))
    refused = offer(bench, "late", 20 * FAR_MS, speed=one_a_step)
    assert refused.code is EnqueueCode.ACCEPTED


def test_a_background_job_has_ten_times_those_of_its_class_ahead_at_most(bench: Bench) -> None:
    put_all(bench, range(1, 41))
    put(bench, "b0", 900, BACKGROUND)
    at = offer(bench, "b1", 1000, BACKGROUND, TEN_A_SECOND)
    assert at == Admission(EnqueueCode.WOULD_TIME_OUT, 19)


# What cannot end in time.


PACE = Pace(20_000, {1: 10_000.0, 4: 40_000.0})
"""A batch that is claimed now begins in 20 s."""


@pytest.mark.parametrize(
    ("timeouts", "taken"),
    [
        pytest.param([29_000], [], id="one alone, too late"),
        pytest.param([35_000], ["0"], id="one alone, in time"),
        pytest.param([35_000, 90_000, 90_001, 90_002], ["1", "2", "3"], id="not in a full batch"),
        pytest.param([35_000, 90_000], ["1"], id="nor in the next larger bucket"),
    ],
)
def test_a_job_that_cannot_end_by_its_deadline_is_answered_at_once(
    bench: Bench, timeouts: list[int], taken: list[str]
) -> None:
    for n, timeout in enumerate(timeouts):
        put(bench, str(n), timeout)

    found = bench.queue.claim(4, HELD, redelivered=False, pace=PACE)

    assert ids(found) == taken
    late = [str(n) for n in range(len(timeouts)) if str(n) not in taken]
    told = {each.id: each.error and each.error.code for each in bench.published()}
    assert told == dict.fromkeys(late, WOULD_TIME_OUT)
    assert bench.queue.pixels(late) == [None] * len(late)
    assert len(found.expired) == len(late) == stats(bench).get("expired", 0)


def test_a_web_process_of_0_1_0_is_told_what_it_knows(bench: Bench) -> None:
    bench.queue.enqueue(a_job("old"), PIXELS, 15_000, Limits())
    bench.queue.claim(4, HELD, redelivered=False, pace=PACE)
    assert [each.error and each.error.code for each in bench.published()] == ["busy"]


def test_a_redelivered_job_that_cannot_end_in_time_is_answered_too(bench: Bench) -> None:
    put(bench, "a", 25_000)
    bench.queue.claim(1, replace(HELD, lease_ms=1), redelivered=False)
    bench.lapse(5)
    found = bench.queue.claim(4, HELD, redelivered=True, pace=PACE)
    assert (ids(found), len(found.expired)) == ([], 1)
    assert [each.error and each.error.code for each in bench.published()] == [WOULD_TIME_OUT]


def test_a_worker_that_does_not_know_its_pace_runs_what_it_gets(bench: Bench) -> None:
    put(bench, "a", 500)
    assert ids(claim(bench)) == ["a"]


# What is told of it.


def test_the_oldest_job_is_found_wherever_it_stands(bench: Bench) -> None:
    put(bench, "old", 9 * FAR_MS, BACKGROUND)
    bench.lapse(300)
    put(bench, "young", FAR_MS)
    assert bench.queue.snapshot().oldest_ms >= 300
    taken = claim(bench)
    assert bench.queue.snapshot().oldest_ms == 0
    bench.queue.release(taken.token, ids(taken))
    assert bench.queue.snapshot().oldest_ms >= 300
    put_all(bench, range(1, 40))
    bench.queue.purge()
    assert bench.queue.snapshot().oldest_ms == 0
    put(bench, "old again", 9 * FAR_MS)
    bench.lapse(100)
    put(bench, "young again", FAR_MS)
    assert 100 <= bench.queue.snapshot().oldest_ms < 300 + FAR_MS


@pytest.mark.parametrize(("others", "background"), [(0, 0), (1, 0), (3, 2), (16, 0), (40, 25)])
def test_a_snapshot_tells_some_jobs_of_the_order(
    bench: Bench, others: int, background: int
) -> None:
    put_all(bench, range(1, others + 1))
    put_all(bench, range(1, background + 1), BACKGROUND)
    seen = bench.queue.snapshot()
    length = others + background
    assert (seen.order.length, seen.background) == (length, background)
    assert len(seen.order.points) == min(16, length)
    assert [each.rank for each in seen.order.points][:1] == [0][:length]
    assert [each.rank for each in seen.order.points][-1:] == [length - 1][:length]
    for point in seen.order.points:
        assert (point.priority == BACKGROUND) == (point.rank >= others)
    known(seen, others, background)


def known(seen: Snapshot, others: int, background: int) -> None:
    """Compare what the sketch says of a new job's place with its place."""
    for timeout in range(0, 45, 4):
        deadline = seen.now + timeout * FAR_MS - FAR_MS // 2
        due_earlier = min(others, max(0, timeout - 1))
        least, most = seen.order.least_ahead("", deadline), seen.order.most_ahead("", deadline)
        assert least <= due_earlier <= most
        theirs = min(background, max(0, timeout - 1))
        ahead = min(others + theirs, 10 * theirs + 9)
        least = seen.order.least_ahead(BACKGROUND, deadline)
        assert least <= ahead <= seen.order.most_ahead(BACKGROUND, deadline)
