"""Label files: one label a line, or the JSON in which Keras ships the ImageNet labels."""

import json
from pathlib import Path

from imageserve.errors import ModelLoadError
from imageserve.models.reading import reading

IMAGENET_LABELS = Path(__file__).with_name("imagenet_class_index.json")


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the labels in the order of the classes.

    A file that ends in ``.json`` maps each class number to an id and a label, as in
    ``{"0": ["n01440764", "tench"]}``; any other file holds one label a line.

    Raises:
        ModelLoadError: the file is missing, or holds anything else.
    """
    with reading(f"the labels file {path}"):
        content = path.read_bytes()
    try:
        text = _text(content)
        return _from_json(text) if path.suffix == ".json" else _from_lines(text)
    except ValueError as error:
        raise ModelLoadError(f"the labels file {path} cannot be used: {error}") from error


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 ({error.reason}); save it as UTF-8") from error


def _from_lines(text: str) -> tuple[str, ...]:
    labels = tuple(line.strip() for line in text.strip().splitlines())
    if not all(labels):
        number = labels.index("") + 1
        raise ValueError(f"line {number} is empty; write one label a line, in class order")
    if not labels:
        raise ValueError("it is empty; write one label a line, in class order")
    return labels


def _from_json(text: str) -> tuple[str, ...]:
    expected = 'write {"0": ["id of class 0", "label of class 0"], ...}'
    try:
        classes = json.loads(text)
        pairs = [classes[str(i)] for i in range(len(classes))]
        labels = tuple(label for _, label in pairs)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"it is not ImageNet-style JSON ({error!r}); {expected}") from error
    # A text in place of a pair would give two of its letters.
    if not all(isinstance(pair, list) for pair in pairs):
        raise ValueError(f"it holds no pairs; {expected}")
    if not labels or not all(isinstance(label, str) and label for label in labels):
        raise ValueError(f"it holds no labels, or empty ones; {expected}")
    return labels
