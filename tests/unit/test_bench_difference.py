"""When a commit counts as slower than another one."""

from collections.abc import Sequence

import pytest
from bench.__main__ import main
from bench.difference import Change, Figure, comparison, is_worse, middle_half


def steady(median: float) -> list[float]:
    return [median] * 7


def noisy(median: float, half: float) -> list[float]:
    """Seven rounds whose middle half is that wide, with a wild one at each end."""
    step = half / 2
    return [median / 9, median - step, median - step, median, *[median + step] * 2, median * 9]


def test_the_middle_half_ignores_a_wild_round_at_either_end() -> None:
    assert middle_half(noisy(100, 10)) == 10
    assert middle_half(steady(100)) == 0


@pytest.mark.parametrize(
    ("this", "that", "change"),
    [
        pytest.param(steady(103), steady(100), Change.SAME, id="3 % is no difference"),
        pytest.param(steady(103.1), steady(100), Change.WORSE, id="more than 3 % is one"),
        pytest.param(steady(96.9), steady(100), Change.BETTER, id="in the other direction too"),
        pytest.param(noisy(109, 10), steady(100), Change.SAME, id="within this one's middle half"),
        pytest.param(steady(109), noisy(100, 10), Change.SAME, id="within that one's middle half"),
        pytest.param(noisy(111, 10), noisy(100, 10), Change.WORSE, id="more than either"),
        pytest.param(noisy(89, 10), noisy(100, 10), Change.BETTER, id="less by more than either"),
    ],
)
def test_medians_differ_by_more_than_3_percent_and_more_than_either_middle_half(
    this: Sequence[float], that: Sequence[float], change: Change
) -> None:
    assert Figure("ms", this, that).change is change


def test_more_images_a_second_are_better() -> None:
    assert Figure("images/s", steady(110), steady(100), more_is_better=True).change is Change.BETTER
    assert Figure("images/s", steady(90), steady(100), more_is_better=True).change is Change.WORSE


def test_one_worse_figure_makes_a_commit_worse() -> None:
    better, same = Figure("a", steady(50), steady(100)), Figure("b", steady(100), steady(100))
    assert not is_worse([better, same])
    assert is_worse([better, same, Figure("c", steady(110), steady(100))])


def test_the_table_gives_medians_middle_halves_and_their_ratio() -> None:
    written = comparison([Figure("ms", noisy(111, 10), steady(100))])
    head, _, row = [[cell.strip() for cell in line.split("|")] for line in written.splitlines()]
    assert head[1:-1] == ["figure", "this", "that", "this / that", ""]
    assert row[1:-1] == ["ms", "111 (10.0)", "100 (0.00)", "1.11x", "**worse**"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rounds", "6"], "at least 7 rounds"),
        (["a"], "takes no parts"),
        (["--markdown", "x.md"], "no --markdown"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--beside", "HEAD", *arguments])
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err
