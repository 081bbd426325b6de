from pathlib import Path

import pytest

from imageserve.errors import ModelLoadError
from imageserve.models.labels import IMAGENET_LABELS, read_labels


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


def test_the_packaged_imagenet_labels_are_complete() -> None:
    labels = read_labels(IMAGENET_LABELS)

    assert (len(labels), labels[0], labels[999]) == (1000, "tench", "toilet_tissue")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("l.txt", b"", "it is empty", id="empty"),
        pytest.param("l.txt", b"a\n\nb\n", "line 2 is empty", id="an empty line"),
        pytest.param("l.txt", b"\xff\xfe", "save it as UTF-8", id="not UTF-8"),
        pytest.param("l.json", b"{", "not ImageNet-style JSON", id="broken JSON"),
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
