"""Some hundred cases of ``make fuzz``, the same ones each time, against real processes."""

from pathlib import Path

from bench.fuzz.run import Case, fuzzing

SEED = 7
EACH = 250


def test_random_requests_and_broken_pictures_break_nothing(
    tmp_path: Path, redis_program: str
) -> None:
    cases = [Case(kind, SEED, n) for n in range(EACH) for kind in ("requests", "pictures")]
    with fuzzing(tmp_path / "stack", redis_program) as fuzz:
        fuzz.feed(cases)
        result = fuzz.finish()
    assert result.faults == []
    assert result.cases == 2 * EACH
    assert {200, 400, 413} <= result.statuses.keys()
