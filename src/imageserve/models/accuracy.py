"""How often a model is right about pictures whose labels are known: it counts, picture by picture.

Whoever calls it finds and decodes the pictures, so any number of them takes no memory here.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imageserve.errors import SettingsError
from imageserve.models.files import IMAGENET_LABELS, file_errors
from imageserve.models.foreign import foreign
from imageserve.models.model import Probabilities

FEW = 5
"""What is also counted is whether the right label is among so many likeliest ones."""

_SHOWN = 5
_IMAGENET_CLASSES = 1000


@dataclass(slots=True)
class Accuracy:
    """What a model has answered so far. Classes are numbers; equal scores keep their order."""

    answers: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(right class, likeliest class) -> pictures."""
    right: int = 0
    """Pictures whose likeliest label is the right one."""
    among_few: int = 0
    """Pictures whose right class is one of the `FEW` likeliest."""

    def add(self, scores: Probabilities, classes: Sequence[int]) -> None:
        """Count the answers to some pictures of known classes."""
        right = np.asarray(classes)[:, np.newaxis]
        own = np.take_along_axis(scores, right, axis=1)
        earlier = np.arange(scores.shape[1]) < right
        before = (scores > own) | ((scores == own) & earlier)
        ranks = before.sum(axis=1)
        self.right += int((ranks == 0).sum())
        self.among_few += int((ranks < FEW).sum())
        self.answers.update(zip(classes, scores.argmax(axis=1).tolist(), strict=True))

    @property
    def pictures(self) -> int:
        return self.answers.total()

    @property
    def of_class(self) -> Mapping[int, int]:
        """Return how many pictures there were of each class that had any."""
        found: Counter[int] = Counter()
        for (right, _), n in self.answers.items():
            found[right] += n
        return found

    def worst(self, most: int) -> Iterator[tuple[int, int, int]]:
        """Yield right class, likeliest class and pictures of the commonest mistakes."""
        wrong = ((pair, n) for pair, n in self.answers.items() if pair[0] != pair[1])
        for (right, best), n in sorted(wrong, key=lambda each: (-each[1], each[0]))[:most]:
            yield right, best, n


def ids_of_classes(labels_file: Path, classes: int) -> tuple[str, ...]:
    """Return the ids (wnids) of the classes, () where there are none.

    Those of a ``labels.json``, or ImageNet's where there are as many classes.
    Raises ModelLoadError where the file cannot be read.
    """
    own = _ids(labels_file) if labels_file.suffix == ".json" else ()
    if len(own) == classes:
        return own
    return _ids(IMAGENET_LABELS) if classes == _IMAGENET_CLASSES else ()


def _ids(path: Path) -> tuple[str, ...]:
    with file_errors(f"the labels file {path}"):
        content = path.read_bytes()
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        told = json.loads(content.decode("utf-8-sig"))
        pairs = [told[str(n)] for n in range(len(told))]
        return tuple(pair[0] for pair in pairs if isinstance(pair, list))
    return ()


def classes_of_folders(
    names: Sequence[str], labels: Sequence[str], ids: Sequence[str]
) -> dict[str, int]:
    """Return the class number of each folder of pictures.

    A folder has the name of a label (small letters, blanks and dashes do not matter), its id, or,
    where no folder has another name, its number.

    Raises SettingsError that names the folders of which the class is not known.
    """
    if all(re.fullmatch("[0-9]+", name) for name in names) and not {*names} <= {*labels}:
        found = {name: int(name) for name in names if int(name) < len(labels)}
    else:
        exactly = {each: number for number, each in enumerate(ids)} | _only_once(labels)
        nearly = _only_once([*map(_plain, labels)])
        known = {name: exactly.get(name, nearly.get(_plain(name))) for name in names}
        found = {name: number for name, number in known.items() if number is not None}
    strange = [name for name in names if name not in found]
    if strange:
        raise SettingsError(_unknown(strange, names, labels, ids))
    return found


def _only_once(labels: Sequence[str]) -> dict[str, int]:
    """Return the class of each label that no other class has."""
    times = Counter(labels)
    return {label: number for number, label in enumerate(labels) if times[label] == 1}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def _unknown(
    strange: Sequence[str], names: Sequence[str], labels: Sequence[str], ids: Sequence[str]
) -> str:
    more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
    times = Counter(map(_plain, labels))
    several = [name for name in strange if times[_plain(name)] > 1]
    is_doubled = "; two classes have the label " + foreign(several[0]) if several else ""
    by_id = f", its id ({ids[0]})" if ids else ""
    return (
        f"--accuracy: {len(strange)} of {len(names)} folders name no class of the model: "
        f"{foreign(', '.join(strange[:_SHOWN]))}{more}{is_doubled}. Name each folder by its label "
        f"({foreign(', '.join(labels[:3]), 80)}, ...){by_id} or its number (0 to {len(labels) - 1})"
    )
