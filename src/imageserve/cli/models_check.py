"""``imageserve models check``: prove that a model can be served, or say what is wrong."""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from imageserve.cli.models_accuracy import (
    LabelledPictures,
    as_json,
    as_text,
    labelled_pictures,
    measure,
    write_confusion,
)
from imageserve.cli.models_load import default_runtime, load, network_of, source_of
from imageserve.cli.models_understood import understood
from imageserve.config.settings import Settings
from imageserve.errors import ModelLoadError, RequestError, SettingsError
from imageserve.models.accuracy import ids_of_classes
from imageserve.models.answers import check_scores
from imageserve.models.comparison import agreement, as_pictures, drawn_pictures, scores_of
from imageserve.models.entries import engine_of
from imageserve.models.files import file_errors
from imageserve.models.folder import written_by
from imageserve.models.foreign import foreign, reason_of
from imageserve.models.huggingface import CONFIG_FILE
from imageserve.models.model import Pictures, Probabilities, ScoringModel, best
from imageserve.models.runtimes import RUNTIMES, SOURCE_RUNTIME
from imageserve.preparation import Preparation
from imageserve.worker.runner import Runner

_ANSWERS_SHOWN, _LABELS_SHOWN = 5, 3


class Report:
    """What has been found: printed line by line, or as one JSON object at the end."""

    def __init__(self, *, is_json: bool) -> None:
        self._told: dict[str, Any] | None = {} if is_json else None

    def say(self, what: str, text: str, value: Any = None) -> None:
        """Report something; ``value`` is what JSON has in place of the text."""
        if self._told is None:
            self.line(what, text)
        else:
            self._told[what] = text if value is None else value

    def line(self, what: str, text: str) -> None:
        """Print a line that JSON has no part for."""
        if self._told is None:
            print(f"{what:<8} {text}", flush=True)

    def end(self) -> None:
        if self._told is not None:
            print(json.dumps(self._told, indent=2))


def check(options: argparse.Namespace, settings: Settings) -> int:
    """Load, warm up and call the model of these settings, and do what the options ask for."""
    report = Report(is_json=options.json)
    model = _loaded(settings, report)
    # What is wrong with the options is said first: warming up can take minutes.
    labelled = _labelled(options, model, settings) if options.accuracy else None
    if options.show:
        _show(options.show, options.pictures, model, settings, report)
    _warm_up(model, settings, report)
    names, pictures = _pictures(options.pictures, model, settings)
    scores = scores_of(model.scores, pictures)
    check_scores(model, scores, len(pictures))
    _answers(names, model, scores, report)
    if model.runtime != SOURCE_RUNTIME.name or settings.precision != "float32":
        _compare(settings, pictures, scores, report)
    if labelled is not None:
        _measure(labelled, model, settings, options.confusion, report)
    report.say("result", f"{model.name} can be served")
    report.end()
    return 0


def _loaded(settings: Settings, report: Report) -> ScoringModel:
    began = time.monotonic()
    model = load(settings)
    height, width = model.preparation.size
    text = f"{model.name}, version {model.version}{_described_by(settings)}"
    report.say("model", text, {"name": model.name, "version": model.version})
    report.say("engine", RUNTIMES[model.runtime].describe(engine_of(settings)))
    report.say("takes", f"pictures of {height}x{width} (height x width)")
    for what, text, value in understood(model, settings):
        report.say(what, text, value)
    first = foreign(", ".join(model.labels[:4])) + (", ..." if model.classes > 4 else "")
    report.say("labels", f"{model.classes}: {first}", model.classes)
    report.say("loaded", f"in {time.monotonic() - began:.1f} s")
    return model


def _described_by(settings: Settings) -> str:
    """Say which library's files describe the model, where that is not imageserve.yaml alone."""
    folder = Path(network_of(settings))
    library = written_by(folder) if folder.is_dir() else None
    return f", described by the {CONFIG_FILE} of {library}" if library else ""


def _warm_up(model: ScoringModel, settings: Settings, report: Report) -> None:
    runner = Runner(model, settings.batch_size)
    try:
        runner.warm_up()
    except Exception as error:  # a model may raise anything
        raise ModelLoadError(reason_of(error)) from error
    times = ", ".join(f"{size}: {ms:.1f}" for size, ms in runner.times.ms.items())
    report.say("warm", f"ms of one call by batch size: {times}", runner.times.ms)


def _answers(
    names: Sequence[str], model: ScoringModel, scores: Probabilities, report: Report
) -> None:
    """Say how the pictures are answered, the first of them one by one where they have names."""
    labels = len(set(scores.argmax(axis=1).tolist()))
    first = best(scores[:_ANSWERS_SHOWN], model.labels, _LABELS_SHOWN)
    answers = dict(zip(names, first, strict=False))
    text = f"probabilities for {len(scores)} pictures, {labels} different labels"
    shown = {name: {each.label: each.probability for each in a} for name, a in answers.items()}
    report.say("answers", text, {"pictures": len(scores), "labels": labels, "first": shown})
    for name, answer in answers.items():
        labels_and = ", ".join(f"{each.label} {each.probability:.4f}" for each in answer)
        report.line("", f"{foreign(name, 40)}: {foreign(labels_and)}")


def _compare(settings: Settings, pictures: Pictures, scores: Probabilities, report: Report) -> None:
    """Say how far the answers agree with those of the source in float32."""
    if default_runtime(settings) is not SOURCE_RUNTIME:
        title = SOURCE_RUNTIME.title
        report.say("agrees", f"not compared: there is no {title} model beside it")
        return
    source = load(settings, runtime=SOURCE_RUNTIME.name, precision="float32")
    found = agreement(scores, scores_of(source.scores, pictures))
    report.say(
        "agrees",
        f"with {SOURCE_RUNTIME.title} in float32: the same first label for {found.same_best} of "
        f"{found.pictures} pictures, probabilities within {found.largest_difference:.1g}",
    )


# -- on pictures of the user's ---------------------------------------------------------------------


def _pictures(
    folder: Path | None, model: ScoringModel, settings: Settings
) -> tuple[Sequence[str], Pictures]:
    """Return the names and pixels of the pictures in a folder; drawn ones have no names."""
    if folder is None:
        return (), drawn_pictures(model.preparation.shape)
    found = {path.name: px for path, px in decodable(folder, model.preparation, settings)}
    return list(found), as_pictures(list(found.values()), model.preparation.shape)


def decodable(
    folder: Path, preparation: Preparation, settings: Settings
) -> Iterator[tuple[Path, bytes]]:
    """Yield the pictures in a folder, decoded; at least one. Other files are left out."""
    is_empty = True
    for path in sorted(path for path in folder.glob("*") if path.is_file()):
        try:
            yield path, _decode(settings, preparation, path)
            is_empty = False
        except RequestError:
            continue
    if is_empty:
        raise ModelLoadError(f"{folder} holds no pictures: name a folder that does")


def _decode(settings: Settings, preparation: Preparation, path: Path) -> bytes:
    """Decode a picture as the web server does."""
    pixels: bytes = _decoding().decode(_content(path), preparation, _policy(settings))
    return pixels


def _content(path: Path) -> bytes:
    with file_errors(path):
        return path.read_bytes()


def _decoding() -> Any:
    """Return the package that decodes; an image of a worker has none."""
    try:
        from imageserve import decoding
    except ImportError as error:
        raise ModelLoadError(
            "pictures cannot be decoded here: pip install 'imageserve[web]', or leave out "
            "--pictures, --show and --accuracy"
        ) from error
    return decoding


def _policy(settings: Settings) -> Any:
    return _decoding().DecodingPolicy.from_settings(settings)


def _show(
    file: Path, folder: Path | None, model: ScoringModel, settings: Settings, report: Report
) -> None:
    """Write a picture, and what the model gets of it, into a PNG file."""
    policy = _policy(settings)
    from imageserve.decoding.before_after import before_and_after, drawn_picture

    if folder:
        path, _ = next(decodable(folder, model.preparation, settings))
        data, what = _content(path), str(path)
    else:
        data, what = drawn_picture(), "a drawn picture; --pictures names a folder with your own"
    both = before_and_after(data, model.preparation, policy)
    try:
        file.write_bytes(both)
    except OSError as error:
        raise SettingsError(f"--show: {file} cannot be written: {error.strerror}") from error
    report.say("shown", f"in {file}: {what}")


def _labelled(
    options: argparse.Namespace, model: ScoringModel, settings: Settings
) -> LabelledPictures:
    """Return the pictures of ``--accuracy``, which can be measured and the result written."""
    ids = ids_of_classes(source_of(settings).labels, model.classes)
    found = labelled_pictures(options.accuracy, model, ids)
    _try_to_write(options.confusion)
    return found


def _measure(
    pictures: LabelledPictures,
    model: ScoringModel,
    settings: Settings,
    confusion: Path | None,
    report: Report,
) -> None:
    """Say how often the model is right about labelled pictures."""
    decode = partial(_decode, settings, model.preparation)
    found = measure(pictures, model, decode, settings.batch_size)
    (_, text), *more = as_text(found, model.labels)
    report.say("accuracy", text, as_json(found, model.labels))
    for what, text in more:
        report.line(what, text)
    if confusion:
        with confusion.open("w", encoding="utf-8", newline="") as file:
            write_confusion(file, found.accuracy, model.labels)
        report.say("written", f"{confusion}: what is taken for what, as CSV")


def _try_to_write(file: Path | None) -> None:
    """Raise SettingsError where a file cannot be written: now, not after all the pictures."""
    try:
        if file:
            file.open("a").close()
    except OSError as error:
        raise SettingsError(f"--confusion: {file} cannot be written: {error.strerror}") from error
