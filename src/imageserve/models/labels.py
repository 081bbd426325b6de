"""Label files: one label a line, or the JSON in which Keras ships the ImageNet labels."""

import json
from pathlib import Path

from imageserve.errors import ModelLoadError

IMAGENET_LABELS = Path(__file__).with_name("imagenet_class_index.json")


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the labels in the order of the classes.

    A file that ends in ``.json`` maps each class number to an id and a label, as in
    ``{"0": ["n01440764", "tench"]}``; any other file holds one label a line.

    Raises:
        ModelLoadError: the file is missing, or holds anything else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return _from_json(text) if path.suffix == ".json" else _from_lines(text)
    except FileNotFoundError as error:
        raise ModelLoadError(f"the labels file {path} does not exist: correct its path") from error
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"the labels file {path} cannot be used: {error}") from error


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
        labels = tuple(classes[str(i)][1] for i in range(len(classes)))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"it is not ImageNet-style JSON ({error!r}); {expected}") from error
    if not labels or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"it holds no labels; {expected}")
    return labels
