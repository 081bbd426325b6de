"""Load traces: what is read, what is refused, and the built-in ones."""

import subprocess
import sys
from pathlib import Path

import pytest

from imageserve.errors import SettingsError
from imageserve_loadtest.simulator.trace import (
    Trace,
    parse_trace,
    read_trace,
    shipped_traces,
)

ROOT = Path(__file__).parents[2]
HEAD = "second,requests_per_second\n"


def test_a_row_holds_until_the_next_and_the_last_one_is_the_end() -> None:
    trace = parse_trace("made up", HEAD + "0,5\n\n10,0.5\n20,7\n")
    assert trace == Trace("made up", (0.0, 10.0, 20.0), (5.0, 0.5, 7.0))
    assert trace.length_s == 20
    requests = trace.requests(seed=1)
    assert requests == sorted(requests)
    assert 20 < sum(second < 10 for second in requests) < 90
    assert requests[-1] < 20


def test_requests_are_a_poisson_process_of_the_rate_of_the_trace() -> None:
    trace = Trace("steady", (0.0, 10_000.0), (10.0, 0.0))
    requests = trace.requests(seed=3)
    assert len(requests) == pytest.approx(100_000, rel=0.02)
    # Of a Poisson process, the variance of a count is its mean.
    counts = [0] * 10_000
    for second in requests:
        counts[int(second)] += 1
    assert sum((n - 10) ** 2 for n in counts) / len(counts) == pytest.approx(10, rel=0.1)
    assert requests == trace.requests(seed=3) != trace.requests(seed=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "line 1: must be second,requests_per_second", id="empty"),
        pytest.param("a,b\n0,1\n", "line 1: must be second,requests_per_second", id="other names"),
        pytest.param(HEAD + "0,5\n", "at least two rows", id="no end"),
        pytest.param(HEAD + "0,5\u20286,5\n9,1\n", "line 2: must be two numbers", id="no line end"),
        pytest.param(HEAD + "0,5\n10\n", "line 3: must be two numbers, not '10'", id="one number"),
        pytest.param(HEAD + "0,five\n10,1\n", "line 2: must be two numbers", id="a word"),
        pytest.param(HEAD + "0,-5\n10,1\n", "line 2: numbers must be 0 or more", id="negative"),
        pytest.param(HEAD + "0,nan\n10,1\n", "line 2: numbers must be 0 or more", id="no number"),
        pytest.param(HEAD + "0,5\ninf,1\n", "line 3: numbers must be 0 or more", id="endless"),
        pytest.param(HEAD + "10,5\n10,1\n", "second 10 must be after second 10", id="no time"),
        pytest.param(HEAD + "0,1e9\n10,1\n", "has 10000000000 requests", id="too many"),
    ],
)
def test_a_broken_trace_is_refused_by_its_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.csv"
    file.write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        read_trace(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_a_trace_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.csv", "binary.csv"):
        with pytest.raises(SettingsError, match=f"{name}: cannot be read"):
            read_trace(tmp_path / name)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / "exported.csv"
    file.write_bytes(b"\xef\xbb\xbf" + HEAD.encode() + b"0,1\r\n5,0\r\n")
    assert read_trace(file) == Trace("exported", (0.0, 5.0), (1.0, 0.0))


def test_the_built_in_traces_are_those_that_the_tool_draws() -> None:
    names = [trace.name for trace in shipped_traces()]
    assert names == ["day", "flash-crowd", "long-idle", "on-off", "ramp", "slow-leak", "step"]
    tool = ROOT / "tools" / "draw_traces.py"
    assert (
        subprocess.run([sys.executable, tool, "--check"], timeout=60, check=False).returncode == 0
    )
