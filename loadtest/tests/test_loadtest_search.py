"""The search for the highest rate, addresses, and the progress line."""

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserve_loadtest.client import Address, TargetError
from imageserve_loadtest.result import Outcome, SearchStep
from imageserve_loadtest.search import LOWEST_PER_S, MOST_STEPS, PRECISION, best_rate, next_rate
from imageserve_loadtest.tally import Record, Tally, Times
from imageserve_loadtest.terminal import PLAIN_EVERY_S, Progress


def searched(first: float, holds: Callable[[float], bool]) -> list[SearchStep]:
    steps: list[SearchStep] = []
    while (rate := next_rate(first, steps)) is not None:
        steps.append(SearchStep(rate, holds(rate), rate, None, None))
    return steps


@given(st.floats(1, 3_000), st.floats(5, 500))
def test_the_search_finds_the_highest_rate_from_any_start(limit: float, first: float) -> None:
    steps = searched(first, lambda rate: rate <= limit)

    best = best_rate(steps)
    assert best is not None
    assert limit / (1 + PRECISION) <= best <= limit
    assert len(steps) <= MOST_STEPS


def test_the_search_ends_where_no_rate_holds() -> None:
    steps = searched(10.0, lambda _: False)

    assert best_rate(steps) is None
    assert steps[-1].rate_per_s <= LOWEST_PER_S


def test_the_search_ends_where_every_rate_holds() -> None:
    assert len(searched(10.0, lambda _: True)) == MOST_STEPS


def test_a_rate_that_held_above_one_that_failed_does_not_count() -> None:
    found = {5.0: True, 10.0: False, 20.0: True}
    steps = [SearchStep(rate, holds, rate, None, None) for rate, holds in found.items()]

    assert best_rate(steps) == 5


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:8000", Address("http", "localhost", 8000)),
        ("http://web/", Address("http", "web", 80)),
        ("https://example.org/api/v1/", Address("https", "example.org", 443, "/api/v1")),
        ("http://[::1]:8000", Address("http", "::1", 8000)),
    ],
)
def test_an_address_is_read_and_written(url: str, expected: Address) -> None:
    address = Address.parse(url)

    assert address == expected
    assert address.url == url.rstrip("/")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://a", "http://", "http://a:x", "http://a?b", "http://u:p@a"]
)
def test_an_address_that_is_not_valid_is_refused(url: str) -> None:
    with pytest.raises(TargetError):
        Address.parse(url)


def tally_of(good: int) -> Tally:
    tally = Tally(10.0)
    for _ in range(good):
        tally.begin(0.0, 0.0, 1)
        tally.end(Record(Times(0.0, 0.0, 0.1), Outcome.GOOD, "a", "1", status=200))
    tally.begin(0.0, 0.0, 1)
    return tally


def test_in_a_terminal_one_line_is_updated_and_then_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    out = io.StringIO()
    progress = Progress(out, 10.0, live=True)

    progress.show(tally_of(20), 5.0)
    progress.end()

    text = out.getvalue()
    assert "\n" not in text
    assert "[############------------] 5/10 s  4/s  p99 100 ms  good 20" in text
    assert text.endswith("\r\x1b[K")


def test_in_a_narrow_terminal_the_bar_makes_room_for_the_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = "5/10 s  4/s  p99 100 ms  good 20  refused 0  bad 0  open 1"
    for columns, shown in ((72, f"[#####-----] {numbers}"), (60, numbers), (30, numbers[:29])):
        monkeypatch.setenv("COLUMNS", str(columns))
        out = io.StringIO()

        Progress(out, 10.0, live=True).show(tally_of(20), 5.0)

        assert out.getvalue() == f"\r\x1b[K{shown}"


def test_elsewhere_a_plain_line_is_written_every_few_seconds() -> None:
    out = io.StringIO()
    progress = Progress(out, 20.0, live=False)

    for i in range(1, 41):
        progress.show(tally_of(i), i / 2)
    progress.end()

    lines = out.getvalue().splitlines()
    assert len(lines) == 20 / PLAIN_EVERY_S
    assert lines[0] == "5/20 s  2/s  p99 100 ms  good 10  refused 0  bad 0  open 1"
    assert "\x1b" not in out.getvalue()
