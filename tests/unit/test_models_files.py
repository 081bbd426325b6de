"""The files of a model: labels, versions, and the messages for files that cannot be read."""

from pathlib import Path

import pytest

from imageserve.errors import ModelLoadError
from imageserve.models.files import (
    IMAGENET_LABELS,
    check_file,
    content_version,
    is_version,
    read_labels,
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("l.txt", b"circle\nround square\n", id="lines"),
        pytest.param("l.txt", b"circle\r\nround square", id="lines of Windows, no last newline"),
        pytest.param("l.txt", b"\xef\xbb\xbfcircle\nround square\n\n", id="byte order mark"),
        pytest.param(
            "l.json", b'{"1": ["n2", "round square"], "0": ["n1", "circle"]}', id="ImageNet's JSON"
        ),
    ],
)
def test_labels_are_read_in_class_order(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    assert read_labels(path) == ("circle", "round square")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=repr)
@pytest.mark.parametrize("letter", "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\xa0\u3000")
def test_only_line_ends_divide_labels(tmp_path: Path, letter: str, end: str) -> None:
    labels = (f"one{letter}label", f"{letter}at its beginning", f"at its end{letter}")
    path = tmp_path / "l.txt"
    path.write_bytes("".join(f"{label} \t{end}" for label in labels).encode())

    assert read_labels(path) == labels


def test_the_packaged_imagenet_labels_are_complete() -> None:
    labels = read_labels(IMAGENET_LABELS)

    assert (len(labels), labels[0], labels[999]) == (1000, "tench", "toilet_tissue")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("l.txt", b"", "it is empty", id="empty"),
        pytest.param("l.txt", b"a\n\nb\n", "line 2 is empty", id="an empty line"),
        pytest.param("l.txt", b"\xff\xfe", "save it as UTF-8", id="not UTF-8"),
        pytest.param("l.json", b"{", "no JSON", id="broken JSON"),
        pytest.param(
            "config.json",
            b'{"model_type": "vit", "id2label": {"0": "a", "2": "c"}}',
            "its 2 labels are not numbered from 0 to 1: name in id2label",
            id="a gap in id2label",
        ),
        pytest.param("l.json", b'["a", "b"]', "not ImageNet-style JSON", id="a list"),
        pytest.param("l.json", b"7", "not ImageNet-style JSON", id="a number"),
        pytest.param("l.json", b'{"1": ["n", "a"]}', "not ImageNet-style JSON", id="no class 0"),
        pytest.param("l.json", b'{"0": ["n"]}', "not ImageNet-style JSON", id="no label"),
        pytest.param("l.json", b'{"0": ["n", 3]}', "holds no labels", id="a number for a label"),
        pytest.param("l.json", b"{}", "holds no labels", id="no classes"),
        pytest.param(
            "l.json", b'{"0": "an"}', "it holds no pairs; write", id="a text of two letters"
        ),
        pytest.param("l.json", b'{"0": "circle"}', "not ImageNet-style JSON", id="a text"),
        pytest.param("l.json", b'{"0": ["n", ""]}', "or empty ones; write", id="an empty label"),
    ],
)
def test_a_labels_file_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(ModelLoadError, match=message) as caught:
        read_labels(path)
    assert str(path) in str(caught.value)


def test_a_missing_labels_file_is_named() -> None:
    with pytest.raises(ModelLoadError, match=r"nowhere\.txt does not exist"):
        read_labels(Path("nowhere.txt"))


def test_a_folder_is_no_labels_file(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"cannot be read .Is a directory."):
        read_labels(tmp_path)


def test_a_file_that_can_be_read_is_fine(tmp_path: Path) -> None:
    (tmp_path / "model.keras").touch()

    check_file("the model file", tmp_path / "model.keras")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("nothing", "nothing does not exist: correct its path", id="missing"),
        pytest.param("", r"cannot be read \(Is a directory\): allow it", id="a folder"),
        # Fails for root as well, whom no permission stops.
        pytest.param("x" * 300, r"cannot be read \(File name too long\): allow", id="unreadable"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_what_to_do(
    tmp_path: Path, name: str, said: str
) -> None:
    with pytest.raises(ModelLoadError, match=f"the model file {tmp_path}.*{said}"):
        check_file("the model file", tmp_path / name)


def test_the_version_of_a_file_is_the_beginning_of_its_checksum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")

    assert content_version(tmp_path / "a") == "9a129038d9a0"


def test_the_version_of_a_file_covers_what_lies_beside_it(tmp_path: Path) -> None:
    file, beside, other = (tmp_path / name for name in "abc")
    for path in (file, beside, other):
        path.write_bytes(b"weights")

    first = content_version(file, beside, other)
    assert first == content_version(file, beside, other, beside) != content_version(file)
    other.write_bytes(b"weighty")
    assert content_version(file, beside, other) != first


def test_a_file_that_is_missing_beside_a_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")

    with pytest.raises(ModelLoadError, match="does not exist"):
        content_version(tmp_path / "a", tmp_path / "b")


def test_the_version_of_a_folder_changes_with_any_content_or_name(tmp_path: Path) -> None:
    def version() -> str:
        return content_version(tmp_path)

    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "data").write_bytes(b"weights")
    first = version()
    assert version() == first
    (tmp_path / "variables" / "data").write_bytes(b"weighty")
    second = version()
    (tmp_path / "variables" / "data").rename(tmp_path / "variables" / "date")
    assert len({first, second, version()}) == 3


def test_a_model_that_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="gone does not exist: correct its path"):
        content_version(tmp_path / "gone")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", True),
        ("2024-05.a_b", True),
        ("x" * 65, False),
        ("", False),
        (".a", False),
        ("a b", False),
    ],
)
def test_a_version_is_a_short_word(text: str, expected: bool) -> None:
    assert is_version(text) is expected
