"""``imageserve models check``: prove that a model can be served, or say what is wrong."""

import time
from pathlib import Path

from imageserve.cli.models_load import default_runtime, load
from imageserve.config.settings import Settings
from imageserve.errors import ModelLoadError, RequestError
from imageserve.models.answers import check_scores
from imageserve.models.catalog import is_model_path
from imageserve.models.comparison import agreement, as_pictures, drawn_pictures, scores_of
from imageserve.models.entries import engine_of, worker_entry
from imageserve.models.files import file_errors
from imageserve.models.foreign import foreign, reason_of
from imageserve.models.model import Pictures, Probabilities, ScoringModel
from imageserve.models.runtimes import RUNTIMES, SOURCE_RUNTIME
from imageserve.preparation import Preparation
from imageserve.worker.runner import Runner


def check(settings: Settings, folder: Path | None) -> int:
    """Load, warm up and call the model of these settings, on the pictures in a folder."""
    model = _loaded(settings)
    runner = Runner(model, settings.batch_size)
    try:
        runner.warm_up()
    except Exception as error:  # a model may raise anything
        raise ModelLoadError(reason_of(error)) from error
    times = ", ".join(f"{size}: {ms:.1f}" for size, ms in runner.times.ms.items())
    _say("warm", f"ms of one call by batch size: {times}")
    pictures = _pictures(folder, model)
    scores = scores_of(model.scores, pictures)
    check_scores(model, scores, len(pictures))
    labels = len(set(scores.argmax(axis=1).tolist()))
    _say("answers", f"probabilities for {len(pictures)} pictures, {labels} different labels")
    if model.runtime != SOURCE_RUNTIME.name or settings.precision != "float32":
        _compare(settings, pictures, scores)
    _say("result", f"{model.name} can be served")
    return 0


def _loaded(settings: Settings) -> ScoringModel:
    began = time.monotonic()
    model = load(settings)
    height, width = model.preparation.size
    _say("model", f"{model.name}, version {model.version}")
    _say("engine", RUNTIMES[model.runtime].describe(engine_of(settings)))
    _say("takes", f"pictures of {height}x{width} (height x width){_for_the_web(settings)}")
    _say("labels", f"{model.classes}: {foreign(', '.join(model.labels[:4]))}, ...")
    _say("loaded", f"in {time.monotonic() - began:.1f} s")
    return model


def _for_the_web(settings: Settings) -> str:
    """Say what web servers need that cannot read the model's file, as in a cluster."""
    entry = worker_entry(settings)
    if settings.models_file or not is_model_path(entry.network):
        return ""
    height, width = entry.input_size
    needed = f"INPUT_SIZE={height}x{width} INTERPOLATION={entry.preparation.interpolation}"
    return f"; web servers that cannot read {entry.network} need {needed}"


def _compare(settings: Settings, pictures: Pictures, scores: Probabilities) -> None:
    """Say how far the answers agree with those of the source in float32."""
    if default_runtime(settings) is not SOURCE_RUNTIME:
        _say("agrees", f"not compared: there is no {SOURCE_RUNTIME.title} model beside it")
        return
    source = load(settings, runtime=SOURCE_RUNTIME.name, precision="float32")
    found = agreement(scores, scores_of(source.scores, pictures))
    _say(
        "agrees",
        f"with {SOURCE_RUNTIME.title} in float32: the same first label for {found.same_best} of "
        f"{found.pictures} pictures, probabilities within {found.largest_difference:.1g}",
    )


def _pictures(folder: Path | None, model: ScoringModel) -> Pictures:
    if folder is None:
        return drawn_pictures(model.preparation.shape)
    files = sorted(path for path in folder.glob("*") if path.is_file())
    found = [pixels for path in files if (pixels := _decoded(path, model.preparation))]
    if not found:
        raise ModelLoadError(f"{folder} holds no pictures: name a folder that does")
    return as_pictures(found, model.preparation.shape)


def _decoded(path: Path, preparation: Preparation) -> bytes | None:
    """Decode a picture as the web server does; None for a file that is no picture."""
    from imageserve.decoding import DecodingPolicy, decode

    with file_errors(path):
        data = path.read_bytes()
    try:
        return decode(data, preparation, DecodingPolicy())
    except RequestError:
        return None


def _say(what: str, text: str) -> None:
    print(f"{what:<8} {text}", flush=True)
