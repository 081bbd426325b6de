"""What is said of files that cannot be looked at."""

from pathlib import Path

import pytest

from imageserve.errors import ModelLoadError
from imageserve.models.reading import check_file


def test_a_file_that_can_be_read_is_fine(tmp_path: Path) -> None:
    (tmp_path / "model.keras").touch()

    check_file("the model file", tmp_path / "model.keras")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("nothing", "nothing does not exist: correct its path", id="missing"),
        pytest.param("", r"cannot be read \(Is a directory\): allow it", id="a folder"),
        # For root, too, whom no permission stops.
        pytest.param("x" * 300, r"cannot be read \(File name too long\): allow", id="unreadable"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_mend(
    tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(ModelLoadError, match=f"the model file {tmp_path}.*{said}"):
        check_file("the model file", tmp_path / name)
