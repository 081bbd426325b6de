"""The autoscaler sizes real workers as the simulator says it would: the short form."""

from pathlib import Path

from bench.sizing.__main__ import MOST_POINTS
from bench.sizing.replay import Plan, compressed_policy, replay

from imageserve_loadtest.simulator.trace import Trace

COMPRESSION = 10.0
JUMP = Trace("jump", (0.0, 6.0, 18.0, 34.0), (10.0, 70.0, 6.0, 0.0))
"""A jump to three times what two workers can do, and back."""


def show(text: str) -> None:
    print(text)  # noqa: T201 - seen where the test fails, and with -s


def test_real_workers_answer_as_many_in_time_as_the_simulator_says(
    tmp_path: Path, redis_program: str
) -> None:
    policy = compressed_policy(COMPRESSION, scale_down_window_s=6.0)

    proof = replay(Plan(JUMP, COMPRESSION, policy), tmp_path / "stack", redis_program)

    show(f"{proof.real}, {proof.simulated}, {proof.decisions}")
    assert proof.most_workers > 2
    assert proof.changes > 2
    assert proof.load_s > 0
    assert proof.points_apart <= MOST_POINTS
