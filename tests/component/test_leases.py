"""The lease keeper: renews what is held, for as long as a batch may take."""

import logging
from collections.abc import Callable, Iterator, Sequence

import pytest
from tests.memory_queue import MemoryQueue
from tests.redis_server import eventually

from imageserve.errors import QueueUnavailable
from imageserve.queue.admission import Limits
from imageserve.queue.consumer import Lease
from imageserve.queue.leases import LEAST_PATIENCE_S, LeaseKeeper
from imageserve.queue.wire import Job

LEASE_MS = 30
"""Renewed every 10 ms. The queue's clock is the test's, so no lease is lost by chance."""


class CountingQueue(MemoryQueue):
    """Notes renewals, and can be away."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        super().__init__("q", clock_ms)
        self.renewed: list[str] = []
        self.away = False

    @property
    def renewals(self) -> int:
        return len(self.renewed)

    def extend(self, token: str, job_ids: Sequence[str], lease_ms: int) -> int:
        self.renewed.append(token)
        if self.away:
            raise QueueUnavailable("away")
        return super().extend(token, job_ids, lease_ms)


class Bench:
    def __init__(self) -> None:
        self.now = 1_000_000
        self.queue = CountingQueue(lambda: self.now)
        self.keeper = LeaseKeeper(self.queue, LEASE_MS)
        self.taken = 0

    def claimed(self) -> str:
        """Claim one job under a token of its own."""
        self.taken += 1
        job = Job(f"job-{self.taken}", "m", (1, 1, 3), 1, "reply", "trace", 1000)
        self.queue.enqueue(job, b"rgb", 3_600_000, Limits())
        claim = self.queue.claim(1, Lease(LEASE_MS), redelivered=False)
        self.keeper.hold(claim.token, [job.id], lambda: {"ids": [job.id]})
        return claim.token

    def wait_for_renewals(self, more: int = 3) -> None:
        enough = self.queue.renewals + more
        eventually(lambda: self.queue.renewals >= enough, "renewals")

    def in_flight(self) -> int:
        """The number of good leases; a claim removes the others."""
        self.queue.claim(0, Lease(), redelivered=False)
        return self.queue.snapshot().in_flight


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    bench.keeper.start()
    yield bench
    bench.keeper.stop()


def test_a_lease_that_is_held_outlives_its_time(bench: Bench) -> None:
    bench.claimed()

    for _ in range(3):
        bench.now += LEASE_MS - 1
        bench.wait_for_renewals()

    assert bench.in_flight() == 1


def test_several_claims_are_held_at_once_and_one_is_let_go(bench: Bench) -> None:
    bench.claimed()
    dropped = bench.claimed()
    bench.wait_for_renewals()
    bench.keeper.drop(dropped)
    bench.keeper.drop("never held")
    # A renewal may be under way; the one after the next one no longer knows it.
    bench.wait_for_renewals()

    bench.now += LEASE_MS - 1
    bench.wait_for_renewals()
    bench.now += 1

    assert bench.in_flight() == 1


def test_a_lost_lease_is_reported_once_and_not_renewed_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    lost = bench.claimed()
    bench.queue.release(lost, ["job-1"])
    bench.queue.purge()

    eventually(lambda: "lost the lease of a batch of 1" in caplog.text, "the warning")
    held = bench.claimed()
    before = bench.queue.renewals
    bench.wait_for_renewals()

    assert set(bench.queue.renewed[before:]) == {held}
    assert caplog.text.count("lost the lease") == 1


def test_a_batch_that_is_being_finished_is_neither_lost_nor_hanging(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    waits, done = bench.claimed(), bench.claimed()
    for token in (waits, done):
        bench.keeper.ending(token)
    bench.keeper.patience_s = 0.0
    bench.queue.release(done, ["job-2"])  # Carried out, but its reply does not come.
    bench.wait_for_renewals(6)

    assert bench.in_flight() == 1
    assert not caplog.records
    bench.keeper.drop(waits)
    assert not bench.keeper._ending


def test_a_batch_that_hangs_loses_its_jobs(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.claimed()
    bench.wait_for_renewals()

    bench.keeper.patience_s = 0.0

    eventually(lambda: "a batch of 1 hangs" in caplog.text, "the error")
    bench.now += LEASE_MS
    assert bench.in_flight() == 0


def test_leases_outlive_an_outage_that_is_shorter(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "imageserve.queue.leases")
    bench.claimed()
    bench.queue.away = True
    bench.wait_for_renewals()
    bench.queue.away = False
    bench.wait_for_renewals()

    assert bench.in_flight() == 1
    assert {str(vars(record)["fields"]) for record in caplog.records} == {"{'ids': ['job-1']}"}
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG], (
        "the loop of the worker reports outages"
    )


@pytest.mark.parametrize(
    ("slowest_ms", "expected"),
    [
        pytest.param(0.0, LEAST_PATIENCE_S, id="nothing known"),
        pytest.param(100.0, LEAST_PATIENCE_S, id="a fast model"),
        pytest.param(6_001.0, 30.005, id="a model that takes six seconds"),
        pytest.param(60_000.0, 300.0, id="a model that takes a minute"),
    ],
)
def test_patience_is_five_times_the_slowest_batch_and_at_least_half_a_minute(
    slowest_ms: float, expected: float
) -> None:
    keeper = LeaseKeeper(MemoryQueue("q", lambda: 0), LEASE_MS)

    keeper.set_slowest_ms(slowest_ms)

    assert keeper.patience_s == pytest.approx(expected)
