"""The chart renders as the files in golden/ say.

A change of the chart shows here as a change of YAML, to be read in review. After an intended one:
``UPDATE_GOLDEN=1 make test ARGS=tests/chart/test_chart_golden.py``.
"""

import os
import re
from pathlib import Path

import pytest
from tests.chart.helm import Helm
from tests.chart.situations import DEFAULT, EVERYTHING, Situation, each_situation

GOLDEN = Path(__file__).parent / "golden"


def _without_pictures(text: str) -> str:
    return re.sub(r"[A-Za-z0-9+/=]{200,}", "…", text)


@each_situation([DEFAULT, EVERYTHING])
def test_it_renders_as_before(helm4: Helm, situation: Situation) -> None:
    path = GOLDEN / f"{situation.name}.yaml"
    text = _without_pictures(situation.text(helm4))
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        pytest.skip(f"wrote {path}")

    assert text.splitlines() == path.read_text().splitlines()
