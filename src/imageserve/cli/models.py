"""``imageserve models``: list, fetch, check, export, import, measure and change models.

Only the action that is asked for imports a runtime: ``list`` and ``use`` work in any image.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from imageserve.cli.extras import argument, sentence
from imageserve.cli.models_fetch import add_fetch
from imageserve.cli.models_import import add_import
from imageserve.cli.models_load import load, network_of
from imageserve.cli.models_use import add_use
from imageserve.config.choices import PRECISIONS
from imageserve.config.reader import number, whole
from imageserve.config.settings import Settings
from imageserve.errors import SettingsError
from imageserve.models.catalog import KNOWN, NETWORKS
from imageserve.models.fetch.weights import ENDING
from imageserve.models.runtimes import (
    RUNTIMES,
    SOURCE_RUNTIME,
    file_endings,
    writable,
)

Actions = argparse._SubParsersAction

_MODEL_OPTIONS = {
    "labels": ("MODEL_LABELS", "FILE", "labels, one a line"),
    "weights": ("MODEL_WEIGHTS", "WEIGHTS", "imagenet, random or a weights file"),
    "input_size": ("INPUT_SIZE", "SIZE", "height and width, such as 224 or 224x320"),
}


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser().parse_args(arguments)
    status: int = options.action(options, environ)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imageserve models",
        description="Find models, prepare them for serving, and change the model that is served.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for add in (_add_list, add_fetch, _add_check, _add_export, add_import, _add_bench, add_use):
        add(actions)
    return parser


def _add_list(actions: "Actions[argparse.ArgumentParser]") -> None:
    about = "list the models that are known by name"
    listing = actions.add_parser(
        "list",
        help=about,
        description=f"{sentence(about)}: the size of their pictures, their parameters, and "
        "where their ImageNet weights are.",
    )
    listing.add_argument(
        "--in", dest="folder", type=Path, metavar="DIR", help="look for fetched weights here, too"
    )
    listing.set_defaults(action=_list)


def _add_check(actions: "Actions[argparse.ArgumentParser]") -> None:
    about = "prove that a model loads, warms up and gives probabilities"
    check = actions.add_parser(
        "check",
        help=about,
        description=f"{sentence(about)}, as MODEL_RUNTIME, KERAS_BACKEND, PRECISION and XLA "
        f"say. Where this is not {SOURCE_RUNTIME.title} in float32, it also shows how far the "
        "answers agree with those. Exit status 0: the model can be served; 1: it cannot, and the "
        "message says what to change.",
    )
    _add_model_options(check)
    check.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="compare the answers for these (default: for drawn pictures); needs Pillow",
    )
    check.add_argument(
        "--show",
        type=Path,
        metavar="FILE",
        help="write a PNG: the first of the pictures, and beside it what the model gets of it",
    )
    check.add_argument(
        "--accuracy",
        type=Path,
        metavar="FOLDER",
        help="measure how often the first label is right, for FOLDER/LABEL/picture, where LABEL "
        "is a label of the model, its id (wnid) or its number",
    )
    check.add_argument(
        "--confusion",
        type=Path,
        metavar="FILE",
        help="with --accuracy: write a CSV of which label is taken for which how often",
    )
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(action=_check)


def _add_export(actions: "Actions[argparse.ArgumentParser]") -> None:
    about = "write a Keras model for another runtime, into a model folder"
    export = actions.add_parser(
        "export",
        help=about,
        description=f"{sentence(about)}: the model with its scaling inside, labels.txt and "
        "imageserve.yaml. Nothing is put in place unless its probabilities are those of Keras "
        "within 0.0001. Exporting needs TensorFlow, and tf2onnx for onnx; serving the result "
        "needs neither.",
        epilog="A worker then serves it with MODEL=DIR MODEL_RUNTIME=RUNTIME.",
    )
    _add_model_options(export)
    export.add_argument("--to", required=True, type=Path, metavar="DIR", help="the folder")
    export.add_argument(
        "--runtime",
        choices=writable(),
        default=writable()[0],
        help=f"what will run it (default: {writable()[0]})",
    )
    export.set_defaults(action=_export)


def _add_bench(actions: "Actions[argparse.ArgumentParser]") -> None:
    about = "measure pictures a second by batch size, precision and runtime"
    bench = actions.add_parser(
        "bench",
        help=about,
        description=f"{sentence(about)}, in turns, and name the best batch size. Keras runs on "
        "KERAS_BACKEND; for other runtimes the Keras model is exported to a temporary folder.",
    )
    _add_model_options(bench)
    _add_what_is_measured(bench)
    bench.add_argument("--json", action="store_true", help="print JSON, with every round")
    bench.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the table into it, between its markers"
    )
    bench.set_defaults(action=_bench)


def _add_what_is_measured(bench: argparse.ArgumentParser) -> None:
    runtimes = ",".join([SOURCE_RUNTIME.name, *writable()])
    bench.add_argument("--runtimes", default=runtimes, metavar="LIST", help=f"default: {runtimes}")
    bench.add_argument(
        "--precisions",
        default="float32",
        metavar="LIST",
        help=f"some of {', '.join(PRECISIONS)}, where the runtime has them (default: float32)",
    )
    bench.add_argument(
        "--batch-sizes", default="1,2,4,8,16,32", metavar="LIST", help="default: 1,2,4,8,16,32"
    )
    bench.add_argument(
        "--rounds", type=argument(whole(1, 1000)), default=3, metavar="N", help="default: 3"
    )
    bench.add_argument(
        "--seconds",
        type=argument(number(0, 3600)),
        default=1.0,
        metavar="S",
        help="of each measurement (default: 1)",
    )


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help=f"a known name, a {file_endings()} file, or a model folder (default: the model that "
        "MODEL or MODELS_FILE name, as for a worker)",
    )
    for name, (variable, metavar, about) in _MODEL_OPTIONS.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, metavar=metavar, help=f"{about} (default: {variable})")


def _list(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    print(f"{'name':<20} {'pictures':>9} {'parameters':>11}  weights")
    for name, known in KNOWN.items():
        height, width = known.input_size
        size, millions = f"{height}x{width}", f"{known.parameters / 1e6:.1f} M"
        weights = _weights(name, options.folder, environ)
        print(f"{name:<20} {size:>9} {millions:>11}  {weights}")
    return 0


def _weights(name: str, folder: Path | None, environ: Mapping[str, str]) -> str:
    """Say where the weights of a model are."""
    if name not in NETWORKS:
        return "part of imageserve"
    fetched = folder / f"{name}{ENDING}" if folder else None
    if fetched and fetched.is_file():
        return f"fetched: {fetched}"
    keras_home = environ.get("KERAS_HOME") or os.path.expanduser("~/.keras")
    cached = Path(keras_home, "models", NETWORKS[name].cached)
    return f"downloaded: {cached}" if cached.is_file() else "not here"


def _check(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from imageserve.cli.models_check import check

    if options.confusion and not options.accuracy:
        raise SettingsError("--confusion: needs --accuracy")
    return check(options, settings_of(options, environ))


def _export(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from imageserve.models.export import SOURCE_BACKEND, export, holds_source

    settings = settings_of(
        options, environ, MODEL_RUNTIME=SOURCE_RUNTIME.name, KERAS_BACKEND=SOURCE_BACKEND
    )
    folder, runtime = options.to, RUNTIMES[options.runtime]
    only_model = holds_source(folder, network_of(settings))
    model = load(settings, precision="float32", xla=False)
    found = export(model, runtime, folder, only_model=only_model)
    written = folder / runtime.folder_files[0]
    print(
        f"{written}: {written.stat().st_size / 2**20:.1f} MiB, {model.name} version "
        f"{model.version}, probabilities of {found.pictures} pictures within "
        f"{found.largest_difference:.1g} of {SOURCE_RUNTIME.title}"
    )
    return 0


def _bench(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from imageserve.cli.models_bench import bench

    return bench(options, settings_of(options, environ))


def settings_of(
    options: argparse.Namespace, environ: Mapping[str, str], **more: str | None
) -> Settings:
    """Read the settings; options replace variables of the environment. Raises SettingsError."""
    given = {variable: getattr(options, name) for name, (variable, *_) in _MODEL_OPTIONS.items()}
    given |= more
    if options.model:
        given |= {"MODEL": options.model, "MODELS_FILE": ""}
    return Settings.from_env({**environ, **{k: v for k, v in given.items() if v is not None}})
