"""``imageserve models check --accuracy``: how often a model is right about a folder of pictures.

The folder is as Keras and torchvision's ImageFolder have it: ``FOLDER/LABEL/picture``.
"""

import csv
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from imageserve.cli.progress import Progress
from imageserve.errors import ImageserveError, SettingsError
from imageserve.models.accuracy import FEW, Accuracy, classes_of_folders
from imageserve.models.answers import check_scores
from imageserve.models.comparison import as_pictures
from imageserve.models.model import ScoringModel
from imageserve.models.runtimes import usable_processors

_AHEAD = 2
"""Batches that are decoded while the model computes."""
_MISTAKES = 10
_BROKEN_IN_JSON = 20

Decode = Callable[[Path], bytes]
"""From a picture's file to what the model takes of it. Raises ImageserveError."""

Waiting = deque[tuple[Path, int, Future[bytes | ImageserveError]]]
"""Pictures and their classes, with what decoding gives or will give."""


@dataclass(frozen=True, slots=True)
class LabelledPictures:
    """A folder of labelled pictures."""

    folder: Path
    classes: Mapping[str, int]
    """The name of each folder in it -> the class of its pictures."""

    def __iter__(self) -> Iterator[tuple[Path, int]]:
        """Walk through all pictures, at any depth; hidden files and folders are left out."""
        for name, number in self.classes.items():
            for parent, folders, files in os.walk(self.folder / name, followlinks=True):
                folders[:] = sorted(each for each in folders if not each.startswith("."))
                for file in sorted(files):
                    if not file.startswith("."):
                        yield Path(parent, file), number


def labelled_pictures(folder: Path, model: ScoringModel, ids: tuple[str, ...]) -> LabelledPictures:
    """Look which classes the folders stand for.

    Raises SettingsError where that is not known, or there are no pictures.
    """
    if model.multi_label:
        raise SettingsError(
            f"--accuracy: several labels may hold for a picture of {model.name}, and a folder "
            "names one: leave --accuracy out, and measure such a model by label in your own program"
        )
    try:
        names = sorted(
            each.name for each in folder.iterdir() if each.is_dir() and each.name[0] != "."
        )
    except OSError as error:
        raise SettingsError(f"--accuracy: {folder} cannot be read: {error.strerror}") from error
    if not names:
        raise SettingsError(
            f"--accuracy: {folder} holds no folders: put the pictures of each label into a folder "
            "of its name, FOLDER/LABEL/picture.jpg"
        )
    found = LabelledPictures(folder, classes_of_folders(names, model.labels, ids))
    if next(iter(found), None) is None:
        raise SettingsError(f"--accuracy: the folders in {folder} hold no pictures")
    return found


@dataclass(slots=True)
class Measured:
    """What has been found."""

    accuracy: Accuracy
    broken: int
    """Files that could not be decoded; each is named on stderr."""
    first_broken: list[str]


def measure(
    pictures: LabelledPictures, model: ScoringModel, decode: Decode, batch_size: int
) -> Measured:
    """Have the model classify all pictures; a few batches of them are in memory at a time."""
    progress = Progress(sum(1 for _ in pictures), "pictures")
    found = Measured(Accuracy(), 0, [])
    ahead = _decoded_ahead(pictures, decode, _AHEAD * batch_size)
    while batch := list(islice(ahead, batch_size)):
        whole = [(pixels, number) for _, number, pixels in batch if isinstance(pixels, bytes)]
        for path, _, reason in batch:
            if isinstance(reason, ImageserveError):
                _count_broken(found, path, reason, progress)
        if whole:
            decoded, classes = zip(*whole, strict=True)
            scores = model.scores(as_pictures(decoded, model.preparation.shape))
            check_scores(model, scores, len(classes))
            found.accuracy.add(scores, classes)
        done = found.accuracy.pictures + found.broken
        progress.show(done, f"{_percent(found.accuracy.right, found.accuracy.pictures)} right")
    progress.end()
    if not found.accuracy.pictures:
        raise SettingsError(
            f"--accuracy: none of {found.broken} files in {pictures.folder} is a picture"
        )
    return found


def _count_broken(found: Measured, path: Path, reason: ImageserveError, progress: Progress) -> None:
    found.broken += 1
    progress.say(f"{path}: {reason}")
    if len(found.first_broken) < _BROKEN_IN_JSON:
        found.first_broken.append(str(path))


def _decoded_ahead(
    pictures: Iterable[tuple[Path, int]], decode: Decode, most: int
) -> Iterator[tuple[Path, int, bytes | ImageserveError]]:
    """Decode on all processors, at most ``most`` pictures ahead; yield them in their order."""

    def pixels_or_error(path: Path) -> bytes | ImageserveError:
        try:
            return decode(path)
        except ImageserveError as error:
            return error

    waiting: Waiting = deque()
    with ThreadPoolExecutor(usable_processors()) as pool:
        for path, number in pictures:
            waiting.append((path, number, pool.submit(pixels_or_error, path)))
            if len(waiting) > most:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)


def _next(waiting: Waiting) -> tuple[Path, int, bytes | ImageserveError]:
    path, number, future = waiting.popleft()
    return path, number, future.result()


# -- what is said ---------------------------------------------------------------------------------


def as_text(found: Measured, labels: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the lines of a report: what each is about, and its text."""
    accuracy, broken = found.accuracy, found.broken
    among = f", {_percent(accuracy.among_few, accuracy.pictures)} among the first {FEW} (top-{FEW})"
    is_top_few = len(labels) > FEW
    yield (
        "accuracy",
        f"{_percent(accuracy.right, accuracy.pictures)} right (top-1){among if is_top_few else ''}"
        f", of {accuracy.pictures} pictures",
    )
    if broken:
        yield "broken", f"{broken} of the files could not be decoded, and do not count"
    worst = list(accuracy.worst(_MISTAKES))
    if worst:
        wrong = accuracy.pictures - accuracy.right
        yield "mistakes", f"{wrong}; the commonest:"
    totals = accuracy.of_class
    longest = max((len(labels[right]) for right, _, _ in worst), default=0)
    for right, best, number in worst:
        times = f"{number} of {totals[right]}"
        yield "", f"{times:>13}  {labels[right]:<{longest}}  taken for  {labels[best]}"


def as_json(found: Measured, labels: tuple[str, ...]) -> dict[str, Any]:
    """Return the same for programs; shares are from 0 to 1."""
    accuracy = found.accuracy
    pictures = max(1, accuracy.pictures)
    right = accuracy.answers
    return {
        "pictures": accuracy.pictures,
        "top_1": accuracy.right / pictures,
        f"top_{FEW}": accuracy.among_few / pictures,
        "broken": {"files": found.broken, "first": found.first_broken},
        "labels": [
            {"class": n, "label": labels[n], "pictures": total, "right": right[n, n]}
            for n, total in sorted(accuracy.of_class.items())
        ],
        "mistakes": [
            {"label": labels[a], "taken_for": labels[b], "pictures": n}
            for a, b, n in accuracy.worst(_MISTAKES)
        ],
    }


def write_confusion(file: TextIO, accuracy: Accuracy, labels: tuple[str, ...]) -> None:
    """Write the whole confusion matrix as CSV: a row for each label that had pictures."""
    writer = csv.writer(file)
    writer.writerow(["label \\ taken for", *labels])
    for right in sorted(accuracy.of_class):
        row = (accuracy.answers[right, best] for best in range(len(labels)))
        writer.writerow([labels[right], *row])


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.2f} %"
