"""Foreign text in our messages: one line, no control characters, never long."""

import pytest

from imageserve.errors import ModelLoadError
from imageserve.models.foreign import MOST_CHARACTERS, first_line, foreign, reason_of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("as it is", "as it is", id="plain"),
        pytest.param(" two\n\n lines\t", "two lines", id="white space"),
        pytest.param("\x1b[31mred\x00\x85\u2028", "[31mred", id="control characters"),
        pytest.param((None, "n"), "(None, 'n')", id="no text"),
        pytest.param("x" * 300, "x" * 300, id="as long as may be"),
        pytest.param("x" * 301, "x" * 297 + "...", id="too long"),
    ],
)
def test_it_becomes_one_short_line(text: object, expected: str) -> None:
    assert foreign(text) == expected


def test_of_an_error_of_a_library_the_first_line_is_said() -> None:
    assert first_line(ValueError("\nno such layer\nconfig={...}")) == "no such layer"
    assert len(first_line(ValueError("x" * 9000))) == MOST_CHARACTERS
    assert first_line(MemoryError()) == "MemoryError"


def test_our_own_reason_is_said_as_it_is_and_a_foreign_one_with_its_class() -> None:
    assert reason_of(ModelLoadError("y" * 900)) == "y" * 900
    said = reason_of(RuntimeError("x" * 9000))
    assert said.startswith("the model fails: RuntimeError: xxx")
    assert len(said) < 400
