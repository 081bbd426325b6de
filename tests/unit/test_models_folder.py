"""Model folders: what is found in one, and what its imageserve.yaml may say."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imageserve.errors import ModelLoadError
from imageserve.models.folder import FolderFacts, read_facts, read_folder

UNREADABLE = Path("/", "x" * 300)
"""Too long a name: looking at it fails for root, too, whom no permission stops."""


def write(folder: Path, *names: str, facts: str | bytes | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    if facts is not None:
        content = facts.encode() if isinstance(facts, str) else facts
        (folder / "imageserve.yaml").write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("names", "keras", "onnx", "labels"),
    [
        pytest.param(
            ["model.keras", "labels.txt"], "model.keras", None, "labels.txt", id="a Keras file"
        ),
        pytest.param(
            ["model.onnx", "labels.json"], None, "model.onnx", "labels.json", id="an ONNX file"
        ),
        pytest.param(
            ["saved_model/saved_model.pb"], "saved_model", None, None, id="a SavedModel, no labels"
        ),
        pytest.param(
            ["model.keras", "model.onnx", "labels.txt"],
            "model.keras",
            "model.onnx",
            "labels.txt",
            id="both",
        ),
        pytest.param(["saved_model.pb"], ".", None, None, id="a SavedModel itself"),
    ],
)
def test_a_folder_is_what_it_holds(
    tmp_path: Path, names: list[str], keras: str | None, onnx: str | None, labels: str | None
) -> None:
    found = read_folder(write(tmp_path, *names))

    expected = [tmp_path / name if name else None for name in (keras, onnx, labels)]
    assert [found.keras, found.onnx, found.labels] == expected
    assert found.facts == FolderFacts()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        pytest.param([], "holds no model: put model.keras, model.onnx or saved_model/", id="empty"),
        pytest.param(
            ["model.keras", "labels.txt", "labels.json"],
            "holds labels.txt and labels.json: keep one",
            id="labels twice",
        ),
        pytest.param(
            ["model.keras", "saved_model/saved_model.pb"],
            "holds model.keras and saved_model: keep one",
            id="two for Keras",
        ),
    ],
)
def test_a_folder_that_is_not_clear_is_refused(tmp_path: Path, names: list[str], said: str) -> None:
    with pytest.raises(ModelLoadError, match=said):
        read_folder(write(tmp_path, *names))


def test_a_file_that_is_no_folder_is_answered_with_what_a_model_may_be(tmp_path: Path) -> None:
    (tmp_path / "model.h5").touch()

    with pytest.raises(ModelLoadError, match=r"loaded in Keras and saved as \.keras"):
        read_folder(tmp_path / "model.h5")


@pytest.mark.parametrize("read", [read_folder, read_facts])
def test_a_folder_that_may_not_be_looked_at_is_named_with_the_mend(
    read: Callable[[Path], object],
) -> None:
    with pytest.raises(ModelLoadError, match=r"cannot be read .*: allow it, and to look into"):
        read(UNREADABLE)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="nowhere does not exist: correct its path"):
        read_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(None, FolderFacts(), id="no file"),
        pytest.param("# nothing yet\n", FolderFacts(), id="nothing"),
        pytest.param("input_size: 64", FolderFacts((64, 64)), id="one number is both"),
        pytest.param("input_size: [64, 48]", FolderFacts((64, 48)), id="height and width"),
        pytest.param("version: 3", FolderFacts(version="3"), id="a whole number"),
        pytest.param("version: '2.10'", FolderFacts(version="2.10"), id="digits in quotes"),
        pytest.param(
            "input_size: 224\ninterpolation: bicubic\nscaling: -1..1\nversion: spring-1",
            FolderFacts((224, 224), "bicubic", "-1..1", "spring-1"),
            id="everything",
        ),
    ],
)
def test_the_facts_are_read(tmp_path: Path, content: str | None, expected: FolderFacts) -> None:
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
