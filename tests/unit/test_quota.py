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

    def told(
        self, wait_ms: int, quota: Quota = QUOTA, *, ago_s: float = 0, refused: int = 1
    ) -> None:
        self.waits.note(quota, self.now - ago_s, wait_ms, refused)

    def retry_after_s(self, quota: Quota = QUOTA, together: int = 1) -> int:
        """Return what a picture would be told; 0 where it would be sent."""
        try:
            self.waits.check(quota, together)
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
    bench.told(0, refused=0)

    assert bench.retry_after_s() == 3


def test_where_there_is_no_room_for_several_there_may_be_for_fewer(bench: Bench) -> None:
    slow = Quota("team-a", 0.5, 8)
    bench.told(4000, slow, refused=4)

    assert [bench.retry_after_s(slow, each) for each in (1, 2, 3, 4)] == [0, 0, 2, 4]
    bench.now += 2.1
    assert [bench.retry_after_s(slow, each) for each in (3, 4, 6)] == [0, 2, 6]


def test_what_is_known_of_the_next_one_says_when_several_may_come(bench: Bench) -> None:
    slow = Quota("team-a", 0.5, 8)
    bench.told(1500, slow, refused=0)

    assert [bench.retry_after_s(slow, each) for each in (1, 2, 8)] == [2, 4, 16]


def refused_for_ms(bench: Bench, quota: Quota = QUOTA, together: int = 1) -> float:
    """Return how long pictures are refused from now on, and let that time pass."""
    began = bench.now
    while bench.retry_after_s(quota, together):
        bench.now += 0.0005
    return 1000 * (bench.now - began)


def test_a_process_that_is_refused_again_and_again_lets_some_gather(bench: Bench) -> None:
    waited = []
    for _ in range(8):
        bench.told(20)
        waited.append(refused_for_ms(bench))

    # One picture in 20 ms: none more, 1, 3, 7 ...; to the end of the second that clients are told.
    assert waited == pytest.approx([20, 40, 80, 160, 320, 640, 1000, 1000], abs=2)
    bench.told(0, refused=0)
    bench.told(20)
    assert refused_for_ms(bench) == pytest.approx(20, abs=2)


def test_a_rate_of_more_than_one_in_a_millisecond_gathers_too(bench: Bench) -> None:
    quick, waited = Quota("team-a", 2000, 5000), []
    for _ in range(9):
        bench.told(0, quick)
        waited.append(refused_for_ms(bench, quick))

    assert waited == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 63.5, 127.5], abs=0.6)


@pytest.mark.parametrize(("burst", "most_ms"), [(1, 20), (2, 30), (9, 100)])
def test_no_more_than_half_of_the_burst_gathers(bench: Bench, burst: int, most_ms: int) -> None:
    quota = replace(QUOTA, burst=burst)
    for _ in range(9):
        bench.told(20, quota)
        waited_ms = refused_for_ms(bench, quota)

    assert waited_ms == pytest.approx(most_ms, abs=2)


def test_several_that_are_refused_again_and_again_wait_for_no_more_than_the_burst(
    bench: Bench,
) -> None:
    quota = replace(QUOTA, rate=20, burst=16)
    for _ in range(9):
        bench.told(400, quota, refused=8)
        waited_ms = refused_for_ms(bench, quota, 8)

    # 8 of them in 400 ms, and half of those 8 for which there is room besides.
    assert waited_ms == pytest.approx(600, abs=2)


def test_pictures_that_were_on_their_way_are_one_refusal(bench: Bench) -> None:
    bench.now += 1
    for ago_s in (0.004, 0.003, 0.002, 0.001):
        bench.told(20, ago_s=ago_s)

    assert refused_for_ms(bench) == pytest.approx(19, abs=2)


def test_the_refusal_names_key_rate_and_burst() -> None:
    refusal = QUOTA.refusal(0)

    assert (refusal.reason, refusal.retry_after_s) == ("rate_limited", 1)
    assert refusal.why == "the key team-a may send 50 pictures a second, and 100 at once"
