"""What a web process refuses by itself, from what ENQUEUE told of a quota."""

from dataclasses import replace

import pytest

from imageserve.errors import QueueRefused
from imageserve.queue.quota import LEAST_RATE, TRUST_S, Quota, QuotaWaits

QUOTA = Quota("team-a", 50, 100)


class Bench:
    def __init__(self) -> None:
        self.now = 1000.0
        self.waits = QuotaWaits(lambda: self.now)

    def told(self, wait_ms: int, quota: Quota = QUOTA, *, ago_s: float = 0) -> None:
        self.waits.note(quota, self.now - ago_s, wait_ms)

    def retry_after_s(self, quota: Quota = QUOTA) -> int:
        """Return what a picture would be told; 0 where it would be sent."""
        try:
            self.waits.check(quota)
        except QueueRefused as refusal:
            return refusal.retry_after_s
        return 0


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("rate", "interval_us"),
    [(50, 20_000), (3, 333_333), (0.001, 10**9), (LEAST_RATE, 10**12), (1e9, 1)],
)
def test_a_rate_is_an_interval_of_whole_microseconds(rate: float, interval_us: int) -> None:
    assert Quota("a", rate, 1).interval_us == interval_us


def test_what_is_known_to_be_used_up_is_refused_until_then(bench: Bench) -> None:
    assert bench.retry_after_s() == 0
    bench.told(2500)

    assert bench.retry_after_s() == 3
    bench.now += 1.6
    assert bench.retry_after_s() == 1
    bench.now += 0.9
    assert bench.retry_after_s() == 0


def test_the_time_counts_from_before_the_call(bench: Bench) -> None:
    bench.told(300, ago_s=0.2)
    bench.now += 0.11

    assert bench.retry_after_s() == 0


def test_a_quota_of_another_name_or_another_rate_is_not_concerned(bench: Bench) -> None:
    bench.told(2500)

    assert bench.retry_after_s(replace(QUOTA, name="team-b")) == 0
    assert bench.retry_after_s(replace(QUOTA, rate=100)) == 0
    assert bench.retry_after_s(replace(QUOTA, burst=200)) == 0


def test_a_long_wait_is_told_whole_and_believed_for_a_while(bench: Bench) -> None:
    bench.told(1_000_000)
    assert bench.retry_after_s() == 1000

    bench.now += TRUST_S
    assert bench.retry_after_s() == 0


def test_a_reply_that_allows_the_next_one_takes_nothing_back(bench: Bench) -> None:
    bench.told(2500)
    bench.told(0)

    assert bench.retry_after_s() == 3


def test_the_refusal_names_key_rate_and_burst() -> None:
    refusal = QUOTA.refusal(0)

    assert (refusal.reason, refusal.retry_after_s) == ("rate_limited", 1)
    assert refusal.why == "the key team-a may send 50 pictures a second, and 100 at once"
