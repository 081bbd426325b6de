"""``imageserve models check``: prove that a model can be served, or say what is wrong."""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

from imageserve.cli.models_options import (
    interpolation_of,
    is_onnx_only,
    load,
    settings_of,
)
from imageserve.config.settings import Settings
from imageserve.errors import ModelLoadError, RequestError
from imageserve.models.agreement import (
    Pictures,
    Probabilities,
    agreement,
    as_pictures,
    drawn_pictures,
    scores_of,
)
from imageserve.models.base import ScoringModel
from imageserve.models.classifier_checks import check_scores
from imageserve.models.reading import reading
from imageserve.worker.runner import Runner


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    settings = settings_of(options, environ)
    model = _loaded(settings)
    _warm(model, settings.batch_size)
    pictures = _pictures(options.pictures, model, settings)
    scores = scores_of(model.scores, pictures)
    check_scores(model.name, scores, (len(pictures), model.classes))
    labels = len(set(scores.argmax(axis=1).tolist()))
    _say("answers", f"probabilities for {len(pictures)} pictures, {labels} different labels")
    if model.runtime == "onnx" or settings.precision != "float32":
        _compare(settings, pictures, scores)
    _say("result", f"{model.name} can be served")
    return 0


def _loaded(settings: Settings) -> ScoringModel:
    began = time.monotonic()
    model = load(settings)
    height, width = model.input_size
    _say("model", f"{model.name}, version {model.version}")
    _say("engine", _engine(model, settings))
    _say("takes", f"pictures of {height}x{width} (height x width)")
    _say("labels", f"{model.classes}: {', '.join(model.labels[:4])}, ...")
    _say("loaded", f"in {time.monotonic() - began:.1f} s")
    return model


def _engine(model: ScoringModel, settings: Settings) -> str:
    if model.runtime == "onnx":
        return f"ONNX Runtime, {settings.precision}"
    xla = ", XLA" if settings.xla else ""
    return f"Keras on {settings.keras_backend}, {settings.precision}{xla}"


def _warm(model: ScoringModel, batch_size: int) -> None:
    runner = Runner(model, batch_size)
    runner.warm_up()
    times = ", ".join(f"{size}: {ms:.1f}" for size, ms in runner.times.ms.items())
    _say("warm", f"ms of one call by batch size: {times}")


def _compare(settings: Settings, pictures: Pictures, scores: Probabilities) -> None:
    """Say how far the answers agree with those of Keras in float32."""
    if is_onnx_only(settings):
        _say("agrees", "not compared: there is no Keras model beside it")
        return
    reference = load(settings, runtime="keras", precision="float32")
    found = agreement(scores, scores_of(reference.scores, pictures))
    _say(
        "agrees",
        f"with Keras in float32: the same first label for {found.same_best} of {found.pictures} "
        f"pictures, probabilities within {found.largest_difference:.1g}",
    )


def _pictures(folder: Path | None, model: ScoringModel, settings: Settings) -> Pictures:
    if folder is None:
        return drawn_pictures(model.input_size)
    files = sorted(path for path in folder.glob("*") if path.is_file())
    found = [pixels for path in files if (pixels := _decoded(path, model, settings))]
    if not found:
        raise ModelLoadError(f"{folder} holds no pictures: name a folder that does")
    return as_pictures(found, model.input_size)


def _decoded(path: Path, model: ScoringModel, settings: Settings) -> bytes | None:
    """Decode a picture as the web server does; None for a file that is none."""
    from imageserve.decoding import DecodingPolicy, decode

    try:
        policy = DecodingPolicy()
        with reading(path):
            data = path.read_bytes()
        return decode(data, model.input_size, interpolation_of(settings), policy)
    except RequestError:
        return None


def _say(what: str, text: str) -> None:
    print(f"{what:<8} {text}", flush=True)
