"""What is told of mutants: which were drawn, which the tests noticed, where the others are."""

from textwrap import dedent

import pytest
from bench.mutants.score import (
    Mutant,
    grouped,
    parse_results,
    sample,
    score,
    scores,
    survivor,
)

SOURCE = dedent('''\
    """A module."""

    import os


    def double(n: int) -> int:
        """Twice."""
        return 2 * n


    class Keys:
        """Names."""

        size = 3

        @staticmethod
        def double(n: int) -> int:
            return n + n
''')


def mutants(**statuses: str) -> list[Mutant]:
    return [Mutant(f"pkg.{name}__mutmut_1", status) for name, status in statuses.items()]


def test_results_are_read_as_mutmut_prints_them() -> None:
    printed = """
    imageserve.queue.keys.xǁKeysǁpixels__mutmut_2: killed
    imageserve.queue.wire.x_encode__mutmut_11: no tests
    """
    assert parse_results(printed) == [
        Mutant("imageserve.queue.keys.xǁKeysǁpixels__mutmut_2", "killed"),
        Mutant("imageserve.queue.wire.x_encode__mutmut_11", "no tests"),
    ]


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("a.b.x_encode__mutmut_11", ["encode"]),
        ("a.b.x__private__mutmut_1", ["_private"]),
        ("a.b.xǁKeysǁpixels__mutmut_2", ["Keys", "pixels"]),
        ("a.b.xǁ_Ownǁ__init____mutmut_3", ["_Own", "__init__"]),
    ],
)
def test_a_mutant_belongs_to_a_function_of_a_module(name: str, function: list[str]) -> None:
    assert (Mutant(name).module, Mutant(name).function) == ("a.b", function)


def test_a_draw_takes_as_many_of_each_module_and_the_same_ones_again() -> None:
    there = [Mutant(f"m{module}.x_f__mutmut_{n}") for module in range(3) for n in range(20)]
    drawn = sample([*there, Mutant("small.x_f__mutmut_1")], per_module=5, seed=1)
    assert {module: len(set(own)) for module, own in grouped(drawn).items()} == {
        "m0": 5,
        "m1": 5,
        "m2": 5,
        "small": 1,
    }
    assert drawn == sample(reversed_modules(there), 5, 1) + drawn[-1:]
    assert drawn != sample(there, per_module=5, seed=2)


def reversed_modules(there: list[Mutant]) -> list[Mutant]:
    """Another order of the modules, the same order within each."""
    return sorted(there, key=lambda each: each.module, reverse=True)


def test_a_test_that_hangs_or_crashes_has_noticed_too() -> None:
    tried = mutants(a="killed", b="timeout", c="segfault", d="survived")
    assert score(tried) == 0.75


def test_a_function_that_no_test_calls_counts_against_the_tests() -> None:
    assert score(mutants(a="killed", b="no tests")) == 0.5


def test_what_is_unclear_counts_neither_way() -> None:
    assert score(mutants(a="killed", b="suspicious", c="not checked")) == 1
    assert score(mutants(a="not checked")) is None


def test_the_table_has_a_row_for_each_module_and_their_sum() -> None:
    tried = [Mutant("a.x_f__mutmut_1", "killed"), Mutant("b.x_f__mutmut_1", "suspicious")]
    there = [*tried, Mutant("a.x_f__mutmut_2")]
    rows = [line.split("|")[1:-1] for line in scores(tried, there).splitlines()]
    assert [[cell.strip() for cell in row] for row in (rows[0], *rows[2:])] == [
        ["module", "mutants", "tried", "noticed", "survived", "no tests", "unclear", "score"],
        ["a", "2", "1", "1", "0", "0", "0", "100.0 %"],
        ["b", "1", "1", "0", "0", "0", "1", "-"],
        ["all", "3", "2", "1", "0", "0", "1", "100.0 %"],
    ]


@pytest.mark.parametrize(
    ("name", "diff", "line", "change"),
    [
        pytest.param(
            "m.x_double__mutmut_1",
            """\
            # m.x_double__mutmut_1: survived
            --- src/m.py
            +++ src/m.py
            @@ -1,3 +1,3 @@
             def double(n: int) -> int:
                 \"\"\"Twice.\"\"\"
            -    return 2 * n
            +    return 2 / n
            """,
            8,
            "-    return 2 * n\n+    return 2 / n",
            id="a function",
        ),
        pytest.param(
            "m.xǁKeysǁdouble__mutmut_1",
            """\
            # m.xǁKeysǁdouble__mutmut_1: survived
            --- src/m.py
            +++ src/m.py
            @@ -1,3 +1,3 @@
             @staticmethod
             def double(n: int) -> int:
            -    return n + n
            +    return n - n
            """,
            18,
            "-    return n + n\n+    return n - n",
            id="a method with a decorator",
        ),
    ],
)
def test_a_survivor_is_placed_in_its_file(name: str, diff: str, line: int, change: str) -> None:
    found = survivor(Mutant(name, "survived"), "src/m.py", SOURCE, dedent(diff))
    assert SOURCE.splitlines()[line - 1].strip() == change.splitlines()[0].removeprefix("-").strip()
    assert str(found) == f"src/m.py:{line} (survived)\n{change}"
