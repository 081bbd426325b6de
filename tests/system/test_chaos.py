"""The fault tests of ``make chaos``, seconds each: every request is accounted for.

The tests assert verdicts, never times: a busy machine is slower, not wrong.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from bench.chaos.arena import QUICK, Arena
from bench.chaos.run import run
from bench.chaos.scenarios import Scenario, load_at
from bench.chaos.surroundings import ALL
from bench.report import Verdict

SEED = 1


def is_about_time(verdict: Verdict) -> bool:
    return "goodput" in verdict.target or "within" in verdict.target


@pytest.mark.parametrize("scenario", ALL, ids=lambda scenario: scenario.name)
def test_no_request_is_lost_doubled_or_wrong(
    scenario: Scenario, tmp_path: Path, redis_program: str
) -> None:
    if lacks := scenario.lacks():
        pytest.skip(f"it needs {lacks}")
    report = run(scenario, QUICK, SEED, tmp_path / "stack", redis_program)
    missed = [each for each in report.verdicts if not each.is_met and not is_about_time(each)]
    assert missed == [], (report.account, report.done)
    assert report.account.answered > 0


def steal_a_job_and_settle_another_twice(arena: Arena) -> list[Verdict]:
    """Break the guarantees from outside, as the service itself must never do."""
    stack, ledger = arena.stack, arena.witness.ledger
    with arena.load(load_at(arena, 2.0)):
        arena.wait(lambda: stack.db.rpop(stack.keys.queue), "a job is stolen")
        arena.wait(lambda: ledger.settled, "a job is settled")
        stack.db.set(stack.keys.result(next(iter(ledger.settled))), "{}", px=60_000)
        arena.done["crimes"] = 2
    return []


def test_a_service_that_loses_and_doubles_jobs_is_caught(
    tmp_path: Path, redis_program: str
) -> None:
    sabotage = Scenario(
        "sabotage",
        "one job is stolen, one is settled twice",
        "none",
        steal_a_job_and_settle_another_twice,
        proof="crimes",
        settings=lambda scale: {"REQUEST_TIMEOUT_S": "5"},
    )
    scale = replace(QUICK, workers=1, seconds=2.0)
    report = run(sabotage, scale, SEED, tmp_path / "stack", redis_program)
    assert (report.account.lost, report.account.duplicated) == (1, 1)
    assert report.account.others == {"504 timed_out": 1}
    missed = {each.target for each in report.verdicts if not each.is_met}
    assert missed == {"lost: 0", "duplicated: 0", "no other end of a request"}
