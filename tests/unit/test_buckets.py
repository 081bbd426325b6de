"""Buckets: which batch sizes are run, and how long they take."""

from collections.abc import Callable, Iterator

import pytest

from imageserve.worker.runner import BucketTimes, bucket_sizes


@pytest.mark.parametrize(
    ("batch_size", "expected"),
    [
        pytest.param(1, (1,), id="one"),
        pytest.param(2, (1, 2), id="two"),
        pytest.param(3, (1, 2, 3), id="an odd size is a bucket itself"),
        pytest.param(8, (1, 2, 4, 8), id="no halves below eight"),
        pytest.param(12, (1, 2, 4, 8, 12), id="a half-way size as the largest"),
        pytest.param(13, (1, 2, 4, 8, 12, 13), id="just above a half-way size"),
        pytest.param(32, (1, 2, 4, 8, 12, 16, 24, 32), id="the default"),
        pytest.param(33, (1, 2, 4, 8, 12, 16, 24, 32, 33), id="one more"),
        pytest.param(100, (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 100), id="a hundred"),
    ],
)
def test_buckets_are_powers_of_two_and_the_sizes_half_way(
    batch_size: int, expected: tuple[int, ...]
) -> None:
    assert bucket_sizes(batch_size) == expected


def test_from_nine_on_no_more_than_a_third_of_a_batch_is_padding() -> None:
    times = BucketTimes(bucket_sizes(1024))

    buckets = {n: times.bucket(n) for n in range(9, 1025)}

    assert all(3 * (bucket - n) <= bucket for n, bucket in buckets.items())


@pytest.mark.parametrize(
    ("n", "expected"),
    [(1, 1), (2, 2), (3, 4), (8, 8), (9, 12), (13, 16), (17, 24), (25, 32), (32, 32)],
)
def test_the_smallest_bucket_that_holds_them_is_taken(n: int, expected: int) -> None:
    assert BucketTimes(bucket_sizes(32)).bucket(n) == expected


def clock_of(*seconds: float) -> Callable[[], float]:
    times: Iterator[float] = iter(seconds)
    return lambda: next(times)


def test_every_bucket_is_traced_once_and_its_fastest_round_counts() -> None:
    calls: list[int] = []
    times = BucketTimes((4, 1))
    clock = clock_of(0, 3.0, 10, 11.5, 20, 22, 30, 35, 40, 48, 50, 56)

    times.time_all(calls.append, clock)

    assert calls == [1, 1, 1, 1, 4, 4, 4, 4]
    assert times.ms == {1: 1500.0, 4: 5000.0}
    assert times.slowest_ms == 5000.0


def test_times_measured_before_a_failure_are_kept() -> None:
    times = BucketTimes((1, 2))

    def call(size: int) -> None:
        if size == 2:
            raise MemoryError

    with pytest.raises(MemoryError):
        times.time_all(call, clock_of(0, 1), rounds=1)

    assert times.ms == {1: 1000.0}


def test_real_batches_are_blended_in_slowly() -> None:
    times = BucketTimes((1, 2))
    times.ms = {1: 100.0}

    times.update(1, 200.0)
    times.update(2, 50.0)

    assert times.ms[1] == pytest.approx(110.0)
    assert times.ms[2] == 50.0, "the first measurement counts in full"


def test_a_batch_that_was_frozen_with_its_worker_counts_for_little() -> None:
    times = BucketTimes((1,))
    times.ms = {1: 100.0}

    times.update(1, 60_000.0)

    assert times.ms[1] == pytest.approx(120.0)


def test_a_time_that_is_far_too_long_is_forgotten_after_one_batch() -> None:
    times = BucketTimes((1,))
    times.ms = {1: 20_000.0}  # The worker was halted while it warmed up, or shares its device less.

    times.update(1, 20.0)

    assert times.ms[1] == pytest.approx(56.0)


def test_a_time_measured_beside_another_model_is_replaced_by_the_first_faster_batch() -> None:
    times = BucketTimes((1, 2))
    times.time_all(lambda _: None, clock_of(0, 1, 2, 3), rounds=1, rough=True)

    times.update(1, 400.0)
    times.update(2, 5000.0)
    assert times.ms == pytest.approx({1: 400.0, 2: 1000.0 + 0.1 * 2000.0})

    times.update(1, 300.0)
    assert times.ms[1] == pytest.approx(390.0), "from then on it is blended in slowly"


def test_after_shrinking_no_larger_bucket_is_used_or_published() -> None:
    times = BucketTimes((1, 2, 4, 8))
    times.ms = {1: 10.0, 2: 11.0, 4: 13.0, 8: 17.0}

    times.shrink(4)

    assert (times.sizes, times.ms) == ((1, 2, 4), {1: 10.0, 2: 11.0, 4: 13.0})
    assert times.slowest_ms == 13.0


def test_without_measurements_the_slowest_time_is_zero() -> None:
    assert BucketTimes((1,)).slowest_ms == 0.0


def test_a_time_measured_alone_is_only_blended_with_a_faster_one() -> None:
    times = BucketTimes([4])
    clock = iter([0.0, 0.1] * 3)
    times.time_all(lambda size: None, lambda: next(clock))

    times.update(4, 50.0)

    assert times.ms[4] == pytest.approx(95.0)
