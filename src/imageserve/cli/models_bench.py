"""``imageserve models bench``: pictures a second by batch size, precision and runtime."""

import argparse
import json
import platform
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from imageserve.cli.models_export import export, load_written
from imageserve.cli.models_options import is_onnx_only, load, settings_of
from imageserve.config.choices import DEFAULT_INTERPOLATION, PRECISIONS, RUNTIMES
from imageserve.config.settings import Settings
from imageserve.errors import ModelLoadError, SettingsError
from imageserve.models.base import ScoringModel
from imageserve.models.processors import usable_processors
from imageserve.models.speed import Plan, Speeds, measure

BEGIN = "<!-- models bench: begin -->"
END = "<!-- models bench: end -->"
_EXPORTABLE = "keras tensorflow float32"


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    settings = settings_of(options, environ)
    sizes = _sizes(options.batch_sizes)
    around = _around_markers(options.markdown) if options.markdown else None
    models = _models(
        settings,
        _some_of("--runtimes", options.runtimes, RUNTIMES),
        _some_of("--precisions", options.precisions, PRECISIONS),
    )
    first = next(iter(models.values()))
    plan = Plan(first.input_size, sizes, max(1, options.rounds), options.seconds)
    calls = {name: model.scores for name, model in models.items()}
    speeds = measure(calls, plan, lambda text: print(text, file=sys.stderr, flush=True))
    text = "\n".join(_table(first.name, speeds, sizes))
    print(_as_json(first, speeds) if options.json else text)
    if around is not None:
        options.markdown.write_text(f"\n\n{text}\n\n".join(around), encoding="utf-8")
    return 0


def _models(
    settings: Settings, runtimes: Sequence[str], precisions: Sequence[str]
) -> dict[str, ScoringModel]:
    """Load the model once for each engine, by the engine's name."""
    if is_onnx_only(settings):
        return {
            f"onnx {each}": load(settings, runtime="onnx", precision=each)
            for each in _of_onnx(precisions)
        }
    models = {
        f"keras {settings.keras_backend} {precision}": load(
            settings, runtime="keras", precision=precision
        )
        for precision in precisions
        if "keras" in runtimes
    }
    if "onnx" in runtimes:
        models |= _exported(settings, models.get(_EXPORTABLE), precisions)
    return models


def _exported(
    settings: Settings, source: ScoringModel | None, precisions: Sequence[str]
) -> dict[str, ScoringModel]:
    """Export the model and load it again, once for each precision, by the engine's name."""
    if settings.keras_backend != "tensorflow":
        raise ModelLoadError(
            "TensorFlow exports the ONNX: leave KERAS_BACKEND out, or take --runtimes keras"
        )
    source = source or load(settings, runtime="keras", precision="float32", xla=False)
    with tempfile.TemporaryDirectory(prefix="imageserve-") as folder:
        export(source, Path(folder), DEFAULT_INTERPOLATION)
        return {f"onnx {each}": load_written(Path(folder), each) for each in _of_onnx(precisions)}


def _of_onnx(precisions: Sequence[str]) -> Sequence[str]:
    """Return those in which ONNX Runtime can compute here, float32 if none of them."""
    from imageserve.models import onnx_session

    return [each for each in precisions if each in onnx_session.precisions()] or ["float32"]


def _table(name: str, speeds: Speeds, sizes: Sequence[int]) -> Iterator[str]:
    """Yield a Markdown table of medians, and below it what it says."""
    engines = list(speeds.rounds)
    yield f"`{name}`, pictures a second, {machine()}:"
    yield ""
    yield f"| batch size | {' | '.join([*engines, *_ratio_names(engines)])} |"
    yield "| ---: |" + " ---: |" * (2 * len(engines) - 1)
    for size in sizes:
        cells = [_number(speeds.median(engine, size)) for engine in engines]
        yield f"| {size} | {' | '.join([*cells, *_ratios(speeds, engines, size)])} |"
    yield ""
    for engine in engines:
        yield _verdict(engine, speeds)


def _ratio_names(engines: Sequence[str]) -> list[str]:
    return [f"{engine} / {engines[0]}" for engine in engines[1:]]


def _ratios(speeds: Speeds, engines: Sequence[str], size: int) -> list[str]:
    found = [speeds.ratios(engine, engines[0], size) for engine in engines[1:]]
    return [
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "-"
        for ratios in found
    ]


def _verdict(engine: str, speeds: Speeds) -> str:
    best = speeds.best_size(engine)
    if best is None:
        return f"- {engine}: no batch size fits into memory"
    median = _number(speeds.median(engine, best))
    return f"- {engine}: BATCH_SIZE={best} is the best, with {median} pictures a second"


def _number(value: float | None) -> str:
    if value is None:
        return "no memory"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _as_json(model: ScoringModel, speeds: Speeds) -> str:
    engines = {
        engine: {
            "pictures_per_second": {str(size): values for size, values in sizes.items()},
            "best_batch_size": speeds.best_size(engine),
        }
        for engine, sizes in speeds.rounds.items()
    }
    found = {"model": model.name, "version": model.version, "machine": machine()}
    return json.dumps({**found, "engines": engines}, indent=2)


def machine() -> str:
    """Name the processor and how much of it this process may use."""
    found = re.search(r"^model name\s*: (.+)$", _cpuinfo(), re.MULTILINE)
    return f"{usable_processors()} processors ({found[1] if found else platform.machine()})"


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _some_of(option: str, text: str, choices: Sequence[str]) -> list[str]:
    given = [part.strip() for part in text.split(",") if part.strip()]
    if not given or not set(given) <= set(choices):
        raise SettingsError(f"{option}: must be some of {','.join(choices)} (it is {text!r})")
    return given


def _sizes(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= 1024 for part in parts):
        raise SettingsError(f"--batch-sizes: must be numbers from 1 to 1024 (it is {text!r})")
    return sorted({int(part) for part in parts})


def _around_markers(path: Path) -> tuple[str, str]:
    """Return what stands in a Markdown file up to and from the markers."""
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    head, begin, rest = old.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SettingsError(f"--markdown: {path} has no lines {BEGIN} and {END} to write between")
    return head + begin, end + tail
