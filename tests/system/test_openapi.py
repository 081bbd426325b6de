"""The description of the API is true, as schemathesis judges it, on real processes."""

import os
from pathlib import Path

import pytest
from bench.fuzz.openapi import PROGRAM, check, service

EXAMPLES = 10
LESS = ("--phases=coverage,fuzzing", "--exclude-path-regex=/versions/")
"""`make fuzz` does the rest: sequences of calls, and each call of the protocol with a version."""


def test_every_answer_is_as_the_description_says(tmp_path: Path, redis_program: str) -> None:
    """A missing schemathesis is a failure where ``CI=true``, and a skip at home."""
    if not PROGRAM.exists():
        missing = "schemathesis is not installed: make install"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)

    with service(tmp_path, redis_program) as stack:
        summary = check(stack, tmp_path, *LESS, examples=EXAMPLES, seed=7, within_s=100)

    assert "No issues found" in summary
