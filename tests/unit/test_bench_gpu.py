"""The GPU benchmark's arithmetic, and what it says where there is no GPU."""

import math
import statistics
from itertools import islice, pairwise

import pytest
from bench import gpu
from bench.gpu_report import (
    Served,
    Setup,
    batch_within,
    best_precisions,
    fastest_batch,
    raw_section,
    served_section,
)
from bench.poisson import Latencies, arrivals, highest_rate, quantile
from bench.report import summary
from bench.runtimes import NETWORKS, RUNTIMES

RESNET = NETWORKS["resnet50"]


def setup(precision: str = "float32", runtime: int = 0) -> Setup:
    return Setup(RUNTIMES[runtime], RESNET, precision)


def test_without_a_gpu_it_says_so_and_exits_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "DEVICES", ("/dev/no-such-gpu[0-9]*",))

    assert gpu.main([]) == 0

    assert "there is no GPU here" in capsys.readouterr().out


def test_with_a_gpu_that_no_runtime_sees_it_says_so_and_exits_with_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "DEVICES", ("/dev/null",))
    monkeypatch.setattr(gpu, "_sees_gpu", lambda _: False)

    assert gpu.main(["--runtime", "tensorflow"]) == 0

    assert "sees the GPU: nothing to measure" in capsys.readouterr().out


@pytest.mark.parametrize("sizes", ["0", "1,2000", "", "many"])
def test_batch_sizes_that_cannot_be_run_are_refused(
    sizes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--batch-sizes", sizes])
    assert "--batch-sizes" in capsys.readouterr().err


def test_jobs_come_at_the_rate_and_at_random() -> None:
    times = list(arrivals(100.0, 50.0, seed=1))
    gaps = [later - earlier for earlier, later in pairwise(times)]

    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 50
    assert len(times) == pytest.approx(5000, rel=0.05)
    # The gaps of a Poisson process: their spread is as large as their mean.
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.1)
    assert times == list(arrivals(100.0, 50.0, seed=1))
    assert list(islice(arrivals(100.0, 50.0, seed=2), 5)) != times[:5]


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        pytest.param([5.0], 0.99, 5.0, id="one"),
        pytest.param([3.0, 1.0, 2.0], 0.5, 2.0, id="the middle of three"),
        pytest.param(list(range(1, 101)), 0.99, 99, id="99 of a hundred"),
        pytest.param(list(range(1, 102)), 0.99, 100, id="99 of a hundred and one"),
    ],
)
def test_a_quantile_is_a_value_that_was_measured(
    values: list[float], share: float, expected: float
) -> None:
    assert quantile(values, share) == expected


def test_the_quantile_of_nothing_is_no_number() -> None:
    assert math.isnan(quantile([], 0.5))


def test_a_job_that_was_never_answered_was_not_answered_in_time() -> None:
    assert Latencies([1.0, 2.0], missing=0).p99_ms == 2.0
    assert Latencies([1.0, 2.0], missing=1).p99_ms == math.inf
    assert Latencies([1.0, 2.0], missing=1).p50_ms == 1.0


@pytest.mark.parametrize("limit", [0.0, 1.0, 333.3, 999.0, 1000.0, 5000.0])
def test_the_highest_rate_that_passes_is_found(limit: float) -> None:
    tried: list[float] = []

    def passes(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    found = highest_rate(passes, 1000.0, steps=8)

    assert found <= limit or found == 0
    assert found == pytest.approx(min(limit, 1000.0), abs=1000 / 2**8)
    assert len(tried) <= 9
    assert found in (0.0, *tried)


def test_the_smallest_batch_that_is_as_fast_as_any_is_taken() -> None:
    assert fastest_batch({1: 100.0, 32: 900.0, 64: 995.0, 128: 1000.0}) == 64
    assert fastest_batch({8: 10.0}) == 8


@pytest.mark.parametrize(
    ("most_ms", "expected"),
    [
        pytest.param(20.0, 16, id="the fastest of those that are quick enough"),
        pytest.param(1000.0, 64, id="all are"),
        pytest.param(5.0, 1, id="none is: the least"),
    ],
)
def test_under_poisson_a_batch_must_be_quick(most_ms: float, expected: int) -> None:
    speeds = {1: 100.0, 8: 600.0, 16: 900.0, 64: 1600.0}  # 10, 13, 18 and 40 ms

    assert batch_within(speeds, most_ms) == expected


def test_the_fastest_precision_of_each_runtime_and_network_is_served() -> None:
    raw = {
        setup("float32"): {1: 10.0, 8: 50.0},
        setup("bfloat16"): {1: 9.0, 8: 90.0},
        setup("float32", runtime=1): {1: 20.0},
    }

    assert list(best_precisions(raw)) == [setup("bfloat16"), setup("float32", runtime=1)]


def test_the_tables_give_shares_of_raw_and_judge_them() -> None:
    raw = {setup(): {1: 100.0, 8: 1000.0}, setup("bfloat16"): {1: 150.0}}
    outcome = Latencies([10.0] * 99 + [40.0], missing=0)
    served = {setup(): Served(1000.0, 960.0, 8, 690.0, 8, outcome)}

    table = raw_section(raw)
    section = served_section(served, judged=True)

    assert list(table.header[1:]) == ["1", "8"]
    assert list(table.rows[1]) == ["resnet50, tensorflow, bfloat16", "150", "-"]
    assert "960 (8)" in str(section)
    assert "96.0 %" in str(section)
    assert "69.0 %" in str(section)
    assert "10.0 / 10.0" in str(section)
    assert [verdict.is_met for verdict in section.verdicts] == [True, False]
    assert "**missed**" in summary([section])
    assert served_section(served, judged=False).verdicts == []


def test_if_no_rate_passed_no_latencies_are_shown() -> None:
    section = served_section({setup(): Served(1000.0, 960.0, 8, 0.0, 8, None)}, judged=True)

    assert list(section.rows[0])[-2:] == ["0.0 %", "-"]
    assert not section.verdicts[1].is_met
