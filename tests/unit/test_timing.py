"""When a worker fetches its next batch, and what it tells of the end of a batch that it claims."""

import threading

import pytest

from imageserve.queue.snapshot import UNKNOWN_PACE, Pace
from imageserve.worker.timing import (
    ALWAYS_USUAL_S,
    FORGET,
    KNOWN_S,
    LEAD_FETCHES,
    LEAD_SHARE,
    LEAST_LEAD_S,
    WEIGHT,
    Timing,
)

TABLE = {1: 50.0, 8: 160.0}


class Bench:
    def __init__(self) -> None:
        self.now = 100.0
        self.timing = Timing(lambda: self.now)

    def run(self, seconds: float) -> None:
        self.timing.began(1000 * seconds)
        self.now += seconds
        self.timing.ended()

    def wait(self) -> bool:
        """Wait until the next batch is due, with a clock that stands; tell whether it is."""
        waiting = threading.Thread(target=self.timing.wait_until_due, daemon=True)
        waiting.start()
        waiting.join(0.02)
        return not waiting.is_alive()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_worker_that_has_run_nothing_knows_no_pace(bench: Bench) -> None:
    assert bench.timing.pace(TABLE) is UNKNOWN_PACE


def test_it_knows_its_pace_for_some_seconds_after_a_batch(bench: Bench) -> None:
    bench.run(0.1)
    bench.now += KNOWN_S
    assert bench.timing.pace(TABLE) == Pace(0.0, TABLE)
    bench.now += 0.1
    assert bench.timing.pace(TABLE) is UNKNOWN_PACE


def test_while_a_batch_runs_the_next_begins_after_it(bench: Bench) -> None:
    bench.timing.began(160.0)
    bench.now += 0.1
    assert bench.timing.pace(TABLE).begin_ms == pytest.approx(60.0)
    bench.now += 0.1
    assert bench.timing.pace(TABLE).begin_ms == 0.0, "later than expected: at any moment"


def test_what_is_lost_on_the_way_is_a_running_mean(bench: Bench) -> None:
    bench.run(0.1)
    bench.now += 0.02
    bench.timing.told(bench.now - 0.12, 100.0)
    assert bench.timing.pace(TABLE).begin_ms == pytest.approx(20.0 * WEIGHT)
    bench.timing.told(bench.now - 0.12, 100.0)
    assert bench.timing.pace(TABLE).begin_ms == pytest.approx(20.0 * (2 * WEIGHT - WEIGHT**2))


def test_the_next_batch_is_fetched_shortly_before_the_model_is_free(bench: Bench) -> None:
    bench.timing.began(1000.0)
    bench.now += 1.0 - LEAST_LEAD_S - LEAD_SHARE - 0.5
    assert not bench.wait()
    bench.now += 0.5
    assert bench.wait()


def test_slow_fetches_begin_earlier_and_are_forgotten_by_and_by(bench: Bench) -> None:
    for _ in range(10):
        bench.now += 1.0
        bench.timing.fetched(bench.now - 1.0)
    bench.timing.fetched(bench.now)
    bench.timing.began(10_000.0)
    lead_s = LEAST_LEAD_S + LEAD_FETCHES * FORGET + LEAD_SHARE * 10
    bench.now += 10 - lead_s - 0.5
    assert not bench.wait()
    bench.now += 0.5
    assert bench.wait()


def test_an_outage_of_redis_says_little_of_batches(bench: Bench) -> None:
    bench.run(0.1)
    bench.now += 60
    bench.timing.fetched(bench.now - 60)
    bench.timing.told(bench.now - 60.1, 100.0)
    bench.run(0.1)
    assert bench.timing.pace(TABLE).begin_ms == pytest.approx(1000 * ALWAYS_USUAL_S * WEIGHT)
    bench.timing.began(1000.0)
    bench.now += 0.5
    assert not bench.wait()


def test_it_is_fetched_at_once_where_the_model_is_free_earlier(bench: Bench) -> None:
    bench.timing.began(60_000.0)
    assert not bench.wait()
    bench.timing.ended()
    assert bench.wait()


def test_short_batches_are_fetched_at_once(bench: Bench) -> None:
    bench.timing.began(1000 * LEAST_LEAD_S)
    assert bench.wait()
