"""The imageserve.yaml of a model folder."""

from pathlib import Path

import pytest

from imageserve.errors import ModelLoadError
from imageserve.models.folder import ModelFacts, read_facts

UNREADABLE = Path("/", "x" * 300)
"""Too long a name: it cannot be read even by root, whom no permission stops."""


def write(folder: Path, facts: str | bytes | None) -> Path:
    if facts is not None:
        content = facts.encode() if isinstance(facts, str) else facts
        (folder / "imageserve.yaml").write_bytes(content)
    return folder


def test_a_folder_that_cannot_be_read_is_named_with_what_to_do() -> None:
    with pytest.raises(ModelLoadError, match=r"cannot be read .*: allow it"):
        read_facts(UNREADABLE)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(None, ModelFacts(), id="no file"),
        pytest.param("# nothing yet\n", ModelFacts(), id="nothing"),
        pytest.param("input_size: 64", ModelFacts((64, 64)), id="one number is both"),
        pytest.param("input_size: [64, 48]", ModelFacts((64, 48)), id="height and width"),
        pytest.param("version: 3", ModelFacts(version="3"), id="a whole number"),
        pytest.param("version: '2.10'", ModelFacts(version="2.10"), id="digits in quotes"),
        pytest.param(
            "input_size: 224\ninterpolation: bicubic\nscaling: -1..1\nversion: spring-1",
            ModelFacts((224, 224), "bicubic", "-1..1", "spring-1"),
            id="everything",
        ),
    ],
)
def test_the_facts_are_read(tmp_path: Path, content: str | None, expected: ModelFacts) -> None:
    assert read_facts(write(tmp_path, facts=content)) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("a: [", "imageserve.yaml: is not valid YAML: ", id="not YAML"),
        pytest.param(b"\xff\xfe\xfa", "imageserve.yaml: is not valid YAML: ", id="not text"),
        pytest.param("224", "must be a mapping, lines of 'key: value'", id="a number"),
        pytest.param("size: 224", "size: is unknown; known are input_size, ", id="an unknown key"),
        pytest.param("input_size: big", r"input_size: must be \[height, width\] or", id="no size"),
        pytest.param(
            "input_size: [224]", r"input_size: must be \[height, width\] or", id="half a size"
        ),
        pytest.param("input_size: 7", "8 to 4096 pixels .it is 7.", id="a small size"),
        pytest.param("input_size: true", "input_size: must be", id="a truth value"),
        pytest.param("interpolation: cubic", "must be one of nearest, bilinear", id="cubic"),
        pytest.param("scaling: 0-1", "must be one of none, 0..1, -1..1, torch", id="no scaling"),
        pytest.param("version: 2.10", "in quotes .it is 2.1.", id="a version that YAML rounds"),
        pytest.param(
            "version: a b", "version: must be 1 to 64 letters", id="a version of two words"
        ),
        pytest.param("version:", "version: must be", id="an empty version"),
    ],
)
def test_facts_that_cannot_be_used_are_named_with_what_they_must_be(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    with pytest.raises(ModelLoadError, match=said) as caught:
        read_facts(write(tmp_path, facts=content))
    assert str(tmp_path / "imageserve.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_facts_that_may_not_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "imageserve.yaml").mkdir()

    with pytest.raises(ModelLoadError, match=r"imageserve\.yaml: cannot be read"):
        read_facts(tmp_path)
