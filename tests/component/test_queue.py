"""The promises of every queue: one suite for the in-memory twin and for real servers.

A lease that must be lost lasts 1 ms, and the test waits longer; one that must be held lasts a
minute. So no test depends on the speed of the machine.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import pytest
import redis
from tests.memory_queue import MemoryQueue, encode_job
from tests.queues import RedisQueue
from tests.redis_server import QueueMaker, RedisServers, eventually, executables

from imageserve.predictions import Prediction
from imageserve.queue.admission import Admission, EnqueueCode, Limits, verdict_of
from imageserve.queue.consumer import Claim, Lease
from imageserve.queue.listener import Tickets
from imageserve.queue.snapshot import LIVE_MS, SILENT_MS, Speed, WorkerInfo
from imageserve.queue.wire import (
    Finished,
    Job,
    Result,
    ResultError,
    UnsupportedJob,
    decode_job,
    decode_result,
)


def room_for(jobs: int) -> Speed:
    """Return the speed of workers that do so many jobs, and half of another, in a minute."""
    return Speed((jobs + 0.5) / 60)


HELD = Lease(lease_ms=60_000)
LOST = Lease(lease_ms=1)
SOON_MS = 500
"""Until a deadline that a test waits for: long enough for what comes before it."""
MINUTE_MS = 60_000
PIXELS = bytes(range(12))
CHANNEL = "{image_queue}:reply:test"


class Bench(Protocol):
    """A queue under test, with what a test does to it from outside."""

    queue: RedisQueue

    def push(self, *entries: str) -> None:
        """Queue entries as a foreign writer would."""

    def lapse(self, ms: int) -> None:
        """Let time pass."""

    def silence(self, worker_id: str, ms: int) -> None:
        """Make the last heartbeat of a worker this much older."""

    def published(self) -> list[Result]:
        """Return every result published so far."""

    def someone_waits(self) -> bool:
        """Whether a call of ``wait`` is blocked at this moment."""

    def close(self) -> None: ...


class _RecordingTickets(Tickets):
    def __init__(self) -> None:
        super().__init__(CHANNEL)
        self.delivered: list[Result] = []

    def deliver(self, result: Result) -> None:
        self.delivered.append(result)


class MemoryBench:
    """The twin, with a clock of the test's."""

    def __init__(self) -> None:
        self._now = 1_760_000_000_000
        self._tickets = _RecordingTickets()
        self._memory = MemoryQueue("image_queue", lambda: self._now)
        self._memory.tickets = self._tickets
        self.queue: RedisQueue = self._memory

    def push(self, *entries: str) -> None:
        for entry in entries:
            self._memory.push(entry)

    def lapse(self, ms: int) -> None:
        self._now += ms

    def silence(self, worker_id: str, ms: int) -> None:
        self._now += ms

    def published(self) -> list[Result]:
        return self._tickets.delivered

    def someone_waits(self) -> bool:
        return bool(vars(self._memory._changed)["_waiters"])

    def close(self) -> None:
        """Nothing to close."""


class RedisBench:
    """A queue on a real server, whose clock is the only one."""

    def __init__(self, queue: RedisQueue, client: "redis.Redis") -> None:
        self.queue: RedisQueue = queue
        self._keys = queue.keys
        self._client = client
        self._published: list[Result] = []
        self._pubsub = client.pubsub()
        self._pubsub.subscribe(CHANNEL)
        eventually(lambda: self._pubsub.get_message(timeout=1), "the subscription")

    def push(self, *entries: str) -> None:
        self._client.rpush(self._keys.queue, *entries)

    def lapse(self, ms: int) -> None:
        end = self._now() + ms
        eventually(lambda: self._now() > end, f"{ms} ms of Redis time")

    def _now(self) -> int:
        seconds, microseconds = self._client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    def silence(self, worker_id: str, ms: int) -> None:
        self._client.zincrby(self._keys.workers, -ms, worker_id)

    def published(self) -> list[Result]:
        # Messages come in order: what was published before the marker has arrived with it.
        self._client.publish(CHANNEL, "marker")
        while True:
            message = self._pubsub.get_message(timeout=5)
            assert message is not None
            if message["data"] == b"marker":
                return list(self._published)
            self._published.append(decode_result(message["data"]))

    def someone_waits(self) -> bool:
        return int(self._client.info("clients")["blocked_clients"]) > 0

    def close(self) -> None:
        self._pubsub.close()


@pytest.fixture(params=[None, *executables()], ids=lambda each: str(each or "memory"))
def bench(
    request: pytest.FixtureRequest, redis_servers: RedisServers, make_queue: QueueMaker
) -> Iterator[Bench]:
    made: Bench
    if request.param is None:
        made = MemoryBench()
    else:
        server = redis_servers.get(request.param)
        made = RedisBench(make_queue(server.url), server.client())
    yield made
    made.close()


def a_job(job_id: str) -> Job:
    return Job(job_id, "resnet50", (2, 2, 3), 5, CHANNEL, "trace-1", 60_000)


def put(bench: Bench, *job_ids: str, limits: Limits | None = None) -> list[Admission]:
    """Enqueue one job per id, with a minute of time."""
    limits = limits or Limits()
    return [bench.queue.enqueue(a_job(each), PIXELS, MINUTE_MS, limits) for each in job_ids]


def an_entry(job_id: str, **changes: Any) -> str:
    """Write a job as a foreign writer may have."""
    fields = json.loads(encode_job(replace(a_job(job_id), ts=1, deadline=9_999_999_999_999)))
    return json.dumps({**fields, **changes})


def claim(bench: Bench, n: int = 32, *, redelivered: bool = False, lease: Lease = HELD) -> Claim:
    return bench.queue.claim(n, lease, redelivered=redelivered)


def lose(bench: Bench, n: int = 32, *, redelivered: bool = False) -> Claim:
    """Claim, and let the lease lapse as a dead worker would."""
    lost = claim(bench, n, redelivered=redelivered, lease=LOST)
    assert lost.entries
    bench.lapse(5)
    return lost


def ids(claim: Claim) -> list[str]:
    return [decode_job(entry).id for entry in claim.entries]


def answer(job_id: str, *, label: str = "cat", ttl_ms: int = 60_000) -> Finished:
    result = Result(job_id, "resnet50", 1.5, 2.5, 1, predictions=(Prediction(label, 0.5),))
    return Finished(job_id, CHANNEL, result, ttl_ms, "completed")


def finish(bench: Bench, claim: Claim, *job_ids: str) -> list[bool]:
    return bench.queue.finish(claim.token, [answer(each) for each in job_ids])


TIMES = ("queue_us", "model_us", "failed_us", "last_ms")


def stats(bench: Bench) -> dict[str, int]:
    counters = bench.queue.snapshot().stats
    return {name: count for name, count in counters.items() if count and name not in TIMES}


# Through the queue, once.


def test_a_job_goes_in_is_claimed_and_its_result_comes_out(bench: Bench) -> None:
    assert put(bench, "a") == [Admission(EnqueueCode.ACCEPTED, 1)]

    taken = claim(bench)
    assert bench.queue.pixels(["a"]) == [PIXELS]
    assert bench.queue.finish(taken.token, [answer("a")]) == [True]

    assert bench.queue.results(["a", "unknown"]) == [answer("a").result, None]
    assert bench.published() == [answer("a").result]
    assert bench.queue.pixels(["a"]) == [None]
    assert bench.queue.snapshot().backlog == 0


def test_a_claimed_job_is_what_was_sent_stamped_with_the_queues_clock(bench: Bench) -> None:
    bench.queue.enqueue(a_job("a"), PIXELS, 7000, Limits())
    taken = claim(bench)
    job = decode_job(taken.entries[0])
    assert isinstance(job, Job)
    assert job == replace(a_job("a"), ts=job.ts, deadline=job.ts + 7000)
    assert 0 <= taken.now - job.ts < 5000


def test_jobs_come_out_in_the_order_they_went_in(bench: Bench) -> None:
    put(bench, "a", "b", "c", "d", "e")
    assert [ids(claim(bench, 2)) for _ in range(4)] == [["a", "b"], ["c", "d"], ["e"], []]


def test_a_job_is_claimed_only_once(bench: Bench) -> None:
    put(bench, "a")
    assert ids(claim(bench)) == ["a"]
    assert ids(claim(bench, redelivered=True)) == []


@pytest.mark.parametrize("waiting", [0, 1, 2, 3])
@pytest.mark.parametrize("leased", [0, 2])
@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(Limits(), id="no limit"),
        pytest.param(Limits(max_jobs=2), id="jobs"),
        pytest.param(Limits(max_bytes=4 * len(PIXELS)), id="bytes"),
        pytest.param(Limits(speed=room_for(3)), id="backlog"),
        pytest.param(Limits(max_jobs=1, max_bytes=3 * len(PIXELS), speed=room_for(1)), id="all"),
    ],
)
def test_a_snapshot_tells_what_an_enqueue_would_be_told(
    bench: Bench, waiting: int, leased: int, limits: Limits
) -> None:
    put(bench, *(f"leased {i}" for i in range(leased)))
    claim(bench)
    put(bench, *(f"waiting {i}" for i in range(waiting)))

    foreseen = verdict_of(bench.queue.snapshot(), 0, len(PIXELS), MINUTE_MS, "", limits)

    (told,) = put(bench, "asked", limits=limits)
    accepted = Admission(EnqueueCode.ACCEPTED, waiting + leased + 1)
    assert (foreseen or accepted) == told


def test_a_snapshot_with_an_expired_head_leaves_it_to_the_enqueue(bench: Bench) -> None:
    bench.queue.enqueue(a_job("late"), PIXELS, SOON_MS, Limits())
    full = Limits(max_jobs=1)
    assert verdict_of(bench.queue.snapshot(), 0, len(PIXELS), MINUTE_MS, "", full) is not None
    bench.lapse(SOON_MS)
    assert verdict_of(bench.queue.snapshot(), 0, len(PIXELS), MINUTE_MS, "", full) is None
    assert [each.code for each in put(bench, "asked", limits=full)] == [EnqueueCode.ACCEPTED]


def test_every_claim_has_a_token_of_its_own(bench: Bench) -> None:
    assert claim(bench).token != claim(bench).token


def test_calls_with_no_jobs_do_nothing(bench: Bench) -> None:
    bench.queue.cancel([])
    assert bench.queue.results([]) == []
    assert bench.queue.pixels([]) == []
    assert bench.queue.finish("token", []) == []
    assert bench.queue.extend("token", [], 1000) == 0
    assert bench.queue.release("token", []) == 0


def test_the_times_of_jobs_are_counted_once_for_those_whose_lease_was_held(bench: Bench) -> None:
    put(bench, "good", "bad")
    taken = claim(bench, 2)
    bad = replace(answer("bad"), counter="failed")
    for _ in range(2):  # As if the first reply were lost.
        counts = {"calls:2": 1, "calls_us:2": 2500}
        assert bench.queue.finish(taken.token, [answer("good"), bad], counts) == [True, True]
    found = bench.queue.snapshot()
    assert {name: found.stats[name] for name in (*TIMES[:3], "calls:2", "calls_us:2")} == {
        "queue_us": 1500,
        "model_us": 2500,
        "failed_us": 4000,
        "calls:2": 1,
        "calls_us:2": 2500,
    }
    assert 0 <= found.now - found.stats["last_ms"] < 60_000


def test_a_batch_of_hundreds_is_finished_in_one_call(bench: Bench) -> None:
    names = [f"job-{i}" for i in range(300)]
    put(bench, *names)
    taken = claim(bench, 300)
    assert ids(taken) == names
    done = [answer(each) for each in names]
    assert bench.queue.finish(taken.token, done, {"batches": 1, "busy_ms": 9}) == [True] * 300
    assert [each.id for each in bench.published()] == names
    expected = {"accepted": 300, "completed": 300, "items": 300, "batches": 1, "busy_ms": 9}
    assert stats(bench) == expected


def test_a_result_is_kept_for_as_long_as_its_job_says(bench: Bench) -> None:
    put(bench, "a", "b")
    taken = claim(bench)
    bench.queue.finish(taken.token, [answer("a", ttl_ms=1), answer("b")])
    bench.lapse(5)
    assert bench.queue.results(["a", "b"]) == [None, answer("b").result]


# Admission.


LIMITS = [
    pytest.param(Limits(max_jobs=2), EnqueueCode.FULL, id="jobs"),
    pytest.param(Limits(max_bytes=2 * len(PIXELS)), EnqueueCode.BYTES_FULL, id="bytes"),
    pytest.param(Limits(speed=room_for(2)), EnqueueCode.WOULD_TIME_OUT, id="time"),
]


@pytest.mark.parametrize(("limits", "code"), LIMITS)
def test_a_job_over_a_limit_is_refused_and_leaves_nothing(
    bench: Bench, limits: Limits, code: EnqueueCode
) -> None:
    admissions = put(bench, "a", "b", "c", limits=limits)
    accepted = [Admission(EnqueueCode.ACCEPTED, 1), Admission(EnqueueCode.ACCEPTED, 2)]
    assert admissions == [*accepted, Admission(code, 2)]
    assert bench.queue.pixels(["a", "b", "c"]) == [PIXELS, PIXELS, None]
    assert stats(bench) == {"accepted": 2, "rejected": 1}
    assert ids(claim(bench)) == ["a", "b"]


@pytest.mark.parametrize(("limits", "code"), LIMITS)
def test_a_refused_job_may_come_again_when_there_is_room(
    bench: Bench, limits: Limits, code: EnqueueCode
) -> None:
    put(bench, "a", "b", "c", limits=limits)
    finish(bench, claim(bench), "a", "b")
    assert put(bench, "c", limits=limits) == [Admission(EnqueueCode.ACCEPTED, 1)]


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        pytest.param(Limits(max_jobs=2), EnqueueCode.ACCEPTED, id="jobs: only waiting ones count"),
        pytest.param(Limits(max_bytes=2 * len(PIXELS)), EnqueueCode.BYTES_FULL, id="bytes"),
        pytest.param(Limits(speed=room_for(2)), EnqueueCode.WOULD_TIME_OUT, id="time"),
    ],
)
def test_redelivered_and_in_flight_jobs_count_against_bytes_and_time(
    bench: Bench, limits: Limits, code: EnqueueCode
) -> None:
    put(bench, "redelivered", "in flight", limits=limits)
    lose(bench, 1)
    claim(bench, 1)
    assert put(bench, "c", limits=limits)[0].code is code


@pytest.mark.parametrize(("limits", "code"), LIMITS)
def test_a_full_queue_throws_its_expired_heads_away_first(
    bench: Bench, limits: Limits, code: EnqueueCode
) -> None:
    bench.push(an_entry("old", deadline=1), an_entry("older", deadline=2))
    assert put(bench, "a", limits=limits) == [Admission(EnqueueCode.ACCEPTED, 1)]
    assert stats(bench) == {"accepted": 1, "expired": 2}


def test_an_expired_job_behind_a_live_head_keeps_its_place(bench: Bench) -> None:
    bench.push(an_entry("live"), an_entry("old", deadline=1))
    assert put(bench, "a", limits=Limits(max_jobs=2)) == [Admission(EnqueueCode.FULL, 2)]


def test_a_second_job_with_the_same_id_does_not_touch_the_first(bench: Bench) -> None:
    put(bench, "a")
    of_another = replace(a_job("a"), reply="another process")
    second = bench.queue.enqueue(of_another, b"other pixels", 60_000, Limits())
    assert second.code is EnqueueCode.COLLISION
    assert bench.queue.pixels(["a"]) == [PIXELS]
    assert ids(claim(bench)) == ["a"]
    assert stats(bench) == {"accepted": 1}


def test_an_id_stays_taken_after_its_job_is_done(bench: Bench) -> None:
    put(bench, "a")
    assert put(bench, "a")[0].code is EnqueueCode.OWN_RETRY
    finish(bench, claim(bench), "a")
    assert put(bench, "a")[0].code is EnqueueCode.OWN_RETRY
    assert ids(claim(bench)) == []
    assert stats(bench)["accepted"] == 1


# Deadlines and cancelling.


def test_an_expired_job_is_dropped_by_the_claim(bench: Bench) -> None:
    bench.push(an_entry("old", deadline=1), an_entry("live"), an_entry("older", deadline=2))
    taken = claim(bench, 1)
    assert (ids(taken), len(taken.expired)) == (["live"], 1)
    taken = claim(bench)
    assert (ids(taken), len(taken.expired)) == ([], 1)
    assert stats(bench) == {"expired": 2}


def test_a_job_and_its_pixels_die_at_its_deadline(bench: Bench) -> None:
    bench.queue.enqueue(a_job("a"), PIXELS, SOON_MS, Limits())
    bench.lapse(SOON_MS)
    assert bench.queue.pixels(["a"]) == [None]
    taken = claim(bench)
    assert (ids(taken), len(taken.expired), taken.dead) == ([], 1, ())


def test_a_redelivered_job_past_its_deadline_is_dropped_and_the_next_one_taken(
    bench: Bench,
) -> None:
    bench.queue.enqueue(a_job("a-late"), PIXELS, SOON_MS, Limits())
    put(bench, "b")
    assert len(lose(bench).entries) == 2
    bench.lapse(SOON_MS)
    taken = claim(bench, redelivered=True)
    assert (ids(taken), len(taken.expired), taken.lost) == (["b"], 1, 1)


def test_a_cancelled_job_has_no_pixels_and_can_be_finished_without_the_model(bench: Bench) -> None:
    put(bench, "a", "b")
    bench.queue.cancel(["a", "unknown"])
    taken = claim(bench)
    assert bench.queue.pixels(["a", "b"]) == [None, PIXELS]
    expired = replace(answer("a"), counter="expired")
    assert bench.queue.finish(taken.token, [expired]) == [True]
    assert stats(bench) == {"accepted": 2, "expired": 1}


# Claiming.


@pytest.mark.parametrize(
    ("min_depth", "taken"),
    [
        pytest.param(0, ["a", "b", "c"], id="no depth asked for"),
        pytest.param(3, ["a", "b", "c"], id="exactly as many wait"),
        pytest.param(4, [], id="one is missing"),
    ],
)
def test_a_claim_takes_nothing_unless_enough_jobs_wait(
    bench: Bench, min_depth: int, taken: list[str]
) -> None:
    put(bench, "a", "b", "c")
    claimed = bench.queue.claim(32, HELD, redelivered=False, min_depth=min_depth)
    assert ids(claimed) == taken


def test_the_same_entry_twice_is_one_job(bench: Bench) -> None:
    bench.push(an_entry("a"), an_entry("a"), an_entry("b"))
    assert ids(claim(bench)) == ["a", "b"]


def test_an_entry_that_is_already_in_flight_is_dropped(bench: Bench) -> None:
    put(bench, "a")
    claim(bench)
    bench.push(an_entry("a"))
    assert ids(claim(bench)) == []
    assert bench.queue.snapshot().backlog == 1


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param("", id="nothing"),
        pytest.param("not JSON", id="not JSON"),
        pytest.param('{"id":"a"', id="cut off"),
        pytest.param("7", id="a number"),
        pytest.param('"a"', id="a string"),
        pytest.param("null", id="null"),
        pytest.param('["a"]', id="an array"),
        pytest.param("{}", id="no id"),
        pytest.param('{"id":7}', id="an id that is no string"),
        pytest.param('{"id":null}', id="an id that is null"),
        pytest.param("[" * 5000 + "]" * 5000, id="very deep"),
    ],
)
def test_an_entry_that_is_no_job_goes_to_the_dead_list_and_blocks_no_other(
    bench: Bench, entry: str
) -> None:
    bench.push(entry)
    put(bench, "a")
    bench.queue.snapshot()
    taken = claim(bench)
    assert (ids(taken), taken.dead) == (["a"], (entry,))
    (dead,) = bench.queue.dead(10)
    assert (dead["entry"], dead["reason"]) == (entry, "not a job")
    assert stats(bench) == {"accepted": 1, "dead": 1}


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param('{"id":"a"}', id="only an id"),
        pytest.param(an_entry("a", v=2), id="a later version"),
        pytest.param(an_entry("a", top="five"), id="a wrong type"),
        pytest.param(an_entry("a", deadline="soon"), id="a deadline that is no number"),
        pytest.param(an_entry("a", ts=None), id="no time"),
        pytest.param('{"id":"a","ts":1e999}', id="an endless time"),
    ],
)
def test_a_job_that_cannot_be_read_is_claimed_so_that_it_can_be_answered(
    bench: Bench, entry: str
) -> None:
    bench.push(entry)
    assert bench.queue.snapshot().queued == 1
    taken = claim(bench)
    job = decode_job(taken.entries[0])
    assert isinstance(job, UnsupportedJob)
    assert finish(bench, taken, job.id) == [True]


def test_waiting_ends_when_a_job_is_pushed(bench: Bench) -> None:
    waited: list[float] = []

    def wait() -> None:
        started = time.monotonic()
        while bench.queue.snapshot().queued == 0:
            bench.queue.wait(2.0)
        waited.append(time.monotonic() - started)

    waiting = threading.Thread(target=wait)
    waiting.start()
    eventually(bench.someone_waits, "a blocked wait")
    started = time.monotonic()
    put(bench, "a", "b")
    waiting.join()
    assert time.monotonic() - started < 1.5
    assert ids(claim(bench)) == ["a", "b"]


@pytest.mark.parametrize("block_s", [0.05, 0.0001, 0.0])
def test_waiting_ends_in_time_where_nothing_comes(bench: Bench, block_s: float) -> None:
    started = time.monotonic()
    bench.queue.wait(block_s)
    assert block_s * 0.9 <= time.monotonic() - started < 1.5


def test_waiting_does_not_block_where_a_job_lies_there_already(bench: Bench) -> None:
    put(bench, "a")
    started = time.monotonic()
    bench.queue.wait(2.0)
    assert time.monotonic() - started < 1.5
    assert ids(claim(bench)) == ["a"]


# Leases.


def test_a_job_whose_worker_died_is_done_by_another(bench: Bench) -> None:
    put(bench, "a")
    lose(bench)
    second = claim(bench, redelivered=True)
    assert (ids(second), second.lost) == (["a"], 1)
    assert finish(bench, second, "a") == [True]
    assert bench.published() == [answer("a").result]
    assert bench.queue.snapshot().backlog == 0


def test_redelivered_jobs_run_alone_and_only_in_claims_that_ask_for_them(bench: Bench) -> None:
    put(bench, "s1", "s2", "s3")
    lose(bench)
    put(bench, "a", "b", "c", "d")
    taken = [claim(bench, 2, redelivered=turn % 2 == 1) for turn in range(6)]
    assert [ids(each) for each in taken] == [
        ["a", "b"],
        ["s1"],
        ["c", "d"],
        ["s2"],
        [],
        ["s3"],
    ]
    assert [each.lost for each in taken] == [0, 1] * 3


def test_a_claim_says_how_often_its_job_has_lost_its_worker(bench: Bench) -> None:
    often = replace(LOST, max_attempts=4)
    put(bench, "a")
    taken = []
    for redelivered in (False, True, True):
        taken.append(claim(bench, redelivered=redelivered, lease=often))
        bench.lapse(5)
    last = claim(bench, redelivered=True, lease=replace(HELD, max_attempts=4))
    again = bench.queue.claim(9, HELD, redelivered=False, token=last.token, again=True)

    assert [each.lost for each in (*taken, last, again)] == [0, 1, 2, 3, 3]


def test_a_claim_that_asks_for_redelivered_jobs_takes_a_batch_if_there_are_none(
    bench: Bench,
) -> None:
    put(bench, "a", "b")
    taken = claim(bench, redelivered=True)
    assert (ids(taken), taken.lost) == (["a", "b"], 0)


def test_a_job_that_loses_its_worker_twice_is_given_up_and_its_waiter_told(bench: Bench) -> None:
    put(bench, "a")
    entry = lose(bench).entries[0]
    assert lose(bench, redelivered=True).lost == 1
    taken = claim(bench)
    assert (ids(taken), taken.dead) == ([], (entry,))
    (told,) = bench.published()
    assert (told.id, told.model) == ("a", "resnet50")
    assert told.error == ResultError("model_failed", "its worker died each time it ran")
    (dead,) = bench.queue.dead(10)
    assert (dead["entry"], dead["reason"]) == (entry, "its worker died each time it ran")
    assert bench.queue.snapshot().backlog == 0
    assert stats(bench) == {"accepted": 1, "dead": 1}


def test_a_job_that_is_given_up_is_answered_in_the_same_step(bench: Bench) -> None:
    # The worker that gives it up may die right after: nothing is left for it to do.
    put(bench, "a")
    lose(bench)
    lose(bench, redelivered=True)
    claim(bench)
    (told,) = bench.published()
    assert bench.queue.results(["a"]) == [told]
    assert bench.queue.pixels(["a"]) == [None]


def test_a_job_that_is_given_up_keeps_the_result_that_it_has(bench: Bench) -> None:
    put(bench, "a")
    assert finish(bench, claim(bench), "a") == [True]
    bench.push(an_entry("a"))
    lose(bench)
    lose(bench, redelivered=True)
    assert len(claim(bench).dead) == 1
    assert bench.queue.results(["a"]) == [answer("a").result]
    assert bench.published() == [answer("a").result]


def test_a_job_may_lose_as_many_workers_as_the_lease_says(bench: Bench) -> None:
    put(bench, "a")
    patient = Lease(lease_ms=1, max_attempts=4)
    for turn in range(4):
        assert ids(claim(bench, redelivered=True, lease=patient)) == ["a"], turn
        bench.lapse(5)
    taken = claim(bench, redelivered=True, lease=patient)
    assert (ids(taken), len(taken.dead)) == ([], 1)


def test_a_finished_job_has_no_lost_attempts_when_it_comes_again(bench: Bench) -> None:
    bench.push(an_entry("a"))
    lose(bench)
    finish(bench, claim(bench, redelivered=True), "a")
    bench.push(an_entry("a"))
    lose(bench)
    assert ids(claim(bench, redelivered=True)) == ["a"]


def test_one_job_that_kills_workers_does_not_harm_31_others(bench: Bench) -> None:
    names = [f"job-{i}" for i in range(32)]
    put(bench, *names)
    lose(bench)
    ran, given_up = [], 0
    for _ in range(33):
        alone = claim(bench, redelivered=True, lease=LOST)
        ran += ids(alone)
        given_up += len(alone.dead)
        if ids(alone) == ["job-13"]:
            bench.lapse(5)
        else:
            assert all(finish(bench, alone, *ids(alone)))
    assert (sorted(ran), given_up) == (sorted(names), 1)
    published = {each.id: each.error for each in bench.published()}
    assert len(bench.published()) == len(published) == 32
    assert [name for name in names if published[name] is not None] == ["job-13"]
    assert stats(bench) == {"accepted": 32, "completed": 31, "items": 31, "dead": 1}


def test_a_worker_that_outlived_its_lease_changes_nothing(bench: Bench) -> None:
    put(bench, "a")
    zombie = lose(bench)
    owner = claim(bench, redelivered=True)

    late = [answer("a", label="late")]
    assert bench.queue.finish(zombie.token, late, {"batches": 1, "busy_ms": 5}) == [False]
    assert bench.queue.extend(zombie.token, ["a"], 60_000) == 0
    assert bench.queue.release(zombie.token, ["a"]) == 0
    assert bench.queue.results(["a"]) == [None]
    assert bench.queue.pixels(["a"]) == [PIXELS]
    assert (bench.published(), stats(bench)) == ([], {"accepted": 1})

    assert finish(bench, owner, "a") == [True]
    assert finish(bench, zombie, "a") == [False], "the same answer, but not by this claim"
    assert bench.published() == [answer("a").result]


def test_a_finish_that_is_sent_again_says_the_same_and_changes_nothing(bench: Bench) -> None:
    put(bench, "a", "b", "lost")
    taken = claim(bench, 2)
    lost = claim(bench)
    done = [answer("a"), replace(answer("b"), counter="failed", dead="it failed"), answer("lost")]

    said = [bench.queue.finish(taken.token, done, {"batches": 1, "busy_ms": 5}) for _ in range(3)]

    assert said == [[True, True, False]] * 3
    assert [each.id for each in bench.published()] == ["a", "b"]
    (dead,) = bench.queue.dead(9)
    assert (dead["entry"], dead["reason"]) == (taken.entries[1], "it failed")
    counts = {"completed": 1, "failed": 1, "dead": 1, "items": 2, "batches": 1, "busy_ms": 5}
    assert stats(bench) == {"accepted": 3, **counts}
    assert finish(bench, lost, "lost") == [True]


def test_a_claim_that_is_sent_again_returns_what_it_took(bench: Bench) -> None:
    put(bench, "a", "b", "c", "d")
    others = claim(bench, 1)
    taken = claim(bench, 2)

    def again(claim: Claim) -> Claim:
        return bench.queue.claim(9, HELD, redelivered=False, token=claim.token, again=True)

    repeated = again(taken)
    assert (repeated.token, sorted(ids(repeated))) == (taken.token, ["b", "c"])
    assert not repeated.lost
    assert bench.queue.finish(taken.token, [answer("b"), answer("c")]) == [True, True]
    assert ids(again(taken)) == ["d"], "nothing is left of it, so it takes what waits"
    assert finish(bench, others, "a") == [True]


def test_a_claim_that_is_sent_again_has_lost_nothing_though_its_lease_is_over(
    bench: Bench,
) -> None:
    put(bench, "a")
    lose(bench)
    lost = lose(bench, redelivered=True)

    repeated = bench.queue.claim(9, HELD, redelivered=False, token=lost.token, again=True)

    assert (ids(repeated), repeated.lost, repeated.dead) == (["a"], 1, ())
    assert ids(claim(bench, redelivered=True)) == []
    assert finish(bench, repeated, "a") == [True]


def test_a_job_that_is_queued_again_after_it_was_done_keeps_its_first_result(bench: Bench) -> None:
    put(bench, "a")
    finish(bench, claim(bench), "a")
    bench.push(an_entry("a"))
    again = claim(bench)
    assert bench.queue.finish(again.token, [answer("a", label="second")]) == [True]
    assert bench.queue.results(["a"]) == [answer("a").result]
    assert bench.published() == [answer("a").result]


def test_an_extended_lease_is_not_lost(bench: Bench) -> None:
    put(bench, "a", "b")
    taken = claim(bench, lease=LOST)
    assert bench.queue.extend(taken.token, ["a"], 60_000) == 1
    bench.lapse(5)
    assert ids(claim(bench, redelivered=True)) == ["b"]
    assert finish(bench, taken, "a", "b") == [True, False]


def test_extend_counts_the_leases_that_are_still_held(bench: Bench) -> None:
    put(bench, "a", "b", "c")
    taken = claim(bench)
    finish(bench, taken, "b")
    assert bench.queue.extend(taken.token, ["a", "b", "c", "unknown"], 60_000) == 2
    assert bench.queue.extend("another token", ["a"], 60_000) == 0


def test_released_jobs_go_back_to_the_head_in_their_order(bench: Bench) -> None:
    put(bench, "a", "b", "c", "d", "e")
    taken = claim(bench, 4)
    assert bench.queue.release(taken.token, ["b", "c", "d", "unknown"]) == 3
    assert ids(claim(bench)) == ["b", "c", "d", "e"]
    assert finish(bench, taken, "a", "b") == [True, False]


def test_releasing_is_no_loss(bench: Bench) -> None:
    put(bench, "a")
    for _ in range(5):
        taken = claim(bench)
        assert (ids(taken), taken.lost) == (["a"], 0)
        bench.queue.release(taken.token, ["a"])


def test_a_released_redelivered_job_still_runs_alone(bench: Bench) -> None:
    put(bench, "a", "b")
    lose(bench)
    taken = claim(bench, redelivered=True)
    assert bench.queue.release(taken.token, ["a"]) == 1
    assert ids(claim(bench)) == []
    taken = claim(bench, redelivered=True)
    assert (ids(taken), taken.lost) == (["a"], 1)


def test_release_wakes_a_worker_that_waits(bench: Bench) -> None:
    put(bench, "a")
    taken = claim(bench)
    waiting = threading.Thread(target=bench.queue.wait, args=(2.0,))
    waiting.start()
    eventually(bench.someone_waits, "a blocked wait")
    started = time.monotonic()
    bench.queue.release(taken.token, ["a"])
    waiting.join()
    assert time.monotonic() - started < 1.5
    assert ids(claim(bench)) == ["a"]


# Counters, snapshots, heartbeats, the dead list.


def test_every_fate_of_a_job_is_counted(bench: Bench) -> None:
    put(bench, "a", "b", "c", limits=Limits(max_jobs=3))
    put(bench, "refused", limits=Limits(max_jobs=3))
    bench.push("not a job", an_entry("old", deadline=1))
    taken = claim(bench)
    done = [
        answer("a"),
        replace(answer("b"), counter="failed", dead="it failed alone"),
        replace(answer("c"), counter="expired"),
    ]
    bench.queue.finish(taken.token, done, {"batches": 1, "busy_ms": 7})
    assert stats(bench) == {
        "accepted": 3,
        "rejected": 1,
        "completed": 1,
        "failed": 1,
        "expired": 2,
        "dead": 2,
        "batches": 1,
        "items": 2,
        "busy_ms": 7,
    }


def test_a_snapshot_says_where_every_job_is(bench: Bench) -> None:
    empty = bench.queue.snapshot()
    assert (empty.backlog, empty.oldest_ms, empty.workers) == (0, 0, ())
    put(bench, "a", "b", "c", "d", "e")
    lose(bench, 1)
    claim(bench, 1)
    bench.queue.bury("{}", "a reason")
    bench.lapse(20)
    shot = bench.queue.snapshot()
    assert (shot.queued, shot.retry, shot.in_flight, shot.dead) == (3, 1, 1, 1)
    assert shot.backlog == 5
    assert 20 <= shot.oldest_ms < 30_000
    assert shot.now > empty.now


def a_worker(worker_id: str, state: str = "running") -> WorkerInfo:
    return WorkerInfo(worker_id, "resnet50", (224, 224, 3), 32, {1: 9.5, 32: 80.25}, state, "node")


def test_a_heartbeat_shows_the_worker_in_the_snapshot(bench: Bench) -> None:
    bench.queue.heartbeat(a_worker("w1", "warming"))
    bench.queue.heartbeat(a_worker("w1"))
    shot = bench.queue.snapshot()
    assert [replace(each, last_seen=0) for each in shot.workers] == [a_worker("w1")]
    assert 0 <= shot.now - shot.workers[0].last_seen < 5000


def test_every_heartbeat_returns_the_desired_version_until_it_is_cleared(
    bench: Bench,
) -> None:
    assert bench.queue.heartbeat(a_worker("w1")) == bench.queue.desired() == ""

    bench.queue.set_desired("resnet50@v2 1760000000000")
    assert bench.queue.heartbeat(a_worker("w1")) == "resnet50@v2 1760000000000"
    assert bench.queue.heartbeat(a_worker("w2")) == bench.queue.desired() != ""
    bench.queue.leave("w1")
    bench.queue.set_desired("resnet50@v3 1760000000001")
    assert bench.queue.desired() == "resnet50@v3 1760000000001"

    bench.queue.set_desired("")
    assert bench.queue.heartbeat(a_worker("w2")) == bench.queue.desired() == ""


def test_a_heartbeat_shows_which_version_is_served_loaded_and_refused(bench: Bench) -> None:
    said = replace(
        a_worker("w1"), version="v1", loading="v3", problem="v2 is corrupt", answered="v2 1"
    )
    bench.queue.heartbeat(said)
    assert [replace(each, last_seen=0) for each in bench.queue.snapshot().workers] == [said]


def test_a_silent_worker_is_forgotten_with_the_heartbeat_of_another(bench: Bench) -> None:
    bench.queue.heartbeat(a_worker("silent"))
    bench.silence("silent", SILENT_MS + 1)
    bench.queue.heartbeat(a_worker("alive"))
    assert [each.id for each in bench.queue.snapshot().workers] == ["alive"]


def test_only_live_workers_count_as_capacity(bench: Bench) -> None:
    bench.queue.heartbeat(a_worker("silent"))
    bench.silence("silent", LIVE_MS + 1000)
    bench.queue.heartbeat(a_worker("stopping", "stopping"))
    bench.queue.heartbeat(a_worker("alive"))
    shot = bench.queue.snapshot()
    assert len(shot.workers) == 3
    assert shot.tables == [{1: 9.5, 32: 80.25}]


def test_a_worker_that_leaves_is_gone_at_once(bench: Bench) -> None:
    bench.queue.heartbeat(a_worker("w1"))
    bench.queue.heartbeat(a_worker("w2"))
    bench.queue.leave("w1")
    bench.queue.leave("never seen")
    assert [each.id for each in bench.queue.snapshot().workers] == ["w2"]


def test_the_dead_list_keeps_the_newest_thousand(bench: Bench) -> None:
    bench.push(*(f"entry {i}" for i in range(1003)))
    buried = 0
    while bench.queue.snapshot().queued:
        buried += len(claim(bench, 300).dead)
    assert buried == 1003
    dead = bench.queue.dead(2000)
    assert [each["entry"] for each in dead] == [f"entry {i}" for i in range(1002, 2, -1)]
    assert [each["entry"] for each in bench.queue.dead(2)] == ["entry 1002", "entry 1001"]
    assert bench.queue.dead(0) == []
    assert bench.queue.snapshot().dead == 1000
    assert stats(bench) == {"dead": 1003}


def test_a_purge_answers_waiting_jobs_and_leaves_those_in_flight(bench: Bench) -> None:
    put(bench, "a", "b", "c")
    taken = claim(bench, 1)
    bench.push("not a job", "[7]", '{"id":7}')
    assert bench.queue.purge() == 5
    told = {each.id: each.error.code for each in bench.published() if each.error}
    assert told == {"b": "busy", "c": "busy"}
    assert [each is not None for each in bench.queue.results(["a", "b", "c"])] == [
        False,
        True,
        True,
    ]
    assert bench.queue.pixels(["a", "b", "c"]) == [PIXELS, None, None]
    assert finish(bench, taken, "a") == [True]
    assert bench.queue.snapshot().backlog == 0
