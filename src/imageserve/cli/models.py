"""``imageserve models``: what can be done with models before they are served, and while they are.

Only the action that is asked for imports an engine: ``list`` and ``use`` run in any image.
"""

import argparse
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from imageserve.cli.models_options import add_model_options
from imageserve.cli.models_use import add_use
from imageserve.config.settings import Settings
from imageserve.models.catalog import KNOWN
from imageserve.models.entries import engine_of
from imageserve.models.fetch import ENDING, download, fetch_weights
from imageserve.models.networks import NETWORKS

Action = Callable[[argparse.Namespace, Mapping[str, str]], int]


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser().parse_args(arguments)
    status: int = options.action(options, environ)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imageserve models",
        description="Find models, get them ready to be served, and change the one that is.",
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for add in (_add_list, _add_fetch, _add_check, _add_export, _add_bench, add_use):
        add(actions)
    return parser


def _add_list(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = "list the models that are known by name"
    listing = actions.add_parser(
        "list",
        help=about,
        description=f"{about.capitalize()}: the size of their pictures, their parameters, and "
        "where their ImageNet weights are.",
    )
    listing.add_argument(
        "--in", dest="folder", type=Path, metavar="DIR", help="look for fetched weights here, too"
    )
    listing.set_defaults(action=_list)


def _add_fetch(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = "download the ImageNet weights of a network into a folder"
    fetch = actions.add_parser(
        "fetch",
        help=about,
        description=f"{about.capitalize()}, with a checksum beside them. Weights that are there "
        "are checked and kept.",
        epilog="A worker then serves them with MODEL=NAME MODEL_WEIGHTS=DIR/NAME.weights.h5. "
        "Keras keeps its download under KERAS_HOME (~/.keras).",
    )
    about = "networks; 'imageserve models list' shows them"
    fetch.add_argument("names", nargs="+", metavar="NAME", help=about)
    fetch.add_argument("--to", required=True, type=Path, metavar="DIR", help="the folder")
    fetch.set_defaults(action=_fetch)


def _add_check(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = "prove that a model loads, warms up and gives probabilities"
    check = actions.add_parser(
        "check",
        help=about,
        description=f"{about.capitalize()}, with the engine that MODEL_RUNTIME, KERAS_BACKEND, "
        "PRECISION and XLA set. Where that computes otherwise than Keras in float32, it says how "
        "far the answers agree. Exit status 0: the model can be served; 1: it cannot, and the "
        "message names the mend.",
    )
    add_model_options(check)
    check.add_argument(
        "--pictures",
        type=Path,
        metavar="FOLDER",
        help="compare the answers on these (default: on drawn ones); needs Pillow",
    )
    check.set_defaults(action=_later("models_check"))


def _add_export(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = "write a Keras model as ONNX, into a model folder"
    export = actions.add_parser(
        "export",
        help=about,
        description=f"{about.capitalize()}: model.onnx with the scaling inside, labels.txt and "
        "imageserve.yaml. Nothing is put in place unless its probabilities are those of Keras "
        "within 0.0001. It takes TensorFlow and tf2onnx; what it writes is served without them.",
        epilog="A worker then serves it with MODEL=DIR MODEL_RUNTIME=onnx.",
    )
    add_model_options(export)
    export.add_argument("--to", required=True, type=Path, metavar="DIR", help="the folder")
    export.set_defaults(action=_later("models_export"))


def _add_bench(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    about = "measure pictures a second by batch size, precision and runtime"
    bench = actions.add_parser(
        "bench",
        help=about,
        description=f"{about.capitalize()}, the engines in turn, and name the best batch size. "
        "Keras runs on KERAS_BACKEND; the ONNX is exported for the purpose, where the model is "
        "none.",
    )
    add_model_options(bench)
    _add_what_is_measured(bench)
    bench.add_argument("--json", action="store_true", help="print JSON, each round by itself")
    bench.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the table into it, between its markers"
    )
    bench.set_defaults(action=_later("models_bench"))


def _add_what_is_measured(bench: argparse.ArgumentParser) -> None:
    bench.add_argument(
        "--runtimes", default="keras,onnx", metavar="LIST", help="default: keras,onnx"
    )
    bench.add_argument(
        "--precisions",
        default="float32",
        metavar="LIST",
        help="float32, bfloat16, and of Keras float16 (default: float32)",
    )
    bench.add_argument(
        "--batch-sizes", default="1,2,4,8,16,32", metavar="LIST", help="default: 1,2,4,8,16,32"
    )
    bench.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3")
    bench.add_argument(
        "--seconds", type=float, default=1.0, metavar="S", help="of each measurement (default: 1)"
    )


def _later(module: str) -> Action:
    def action(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
        return int(importlib.import_module(f"imageserve.cli.{module}").run(options, environ))

    return action


def _list(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    print(f"{'name':<20} {'pictures':>9} {'parameters':>11}  weights")
    for line in _rows(options.folder, _keras_cache(environ)):
        print(line)
    return 0


def _rows(folder: Path | None, cache: Path) -> Iterator[str]:
    for name, facts in KNOWN.items():
        height, width = facts.input_size
        size, millions = f"{height}x{width}", f"{facts.parameters / 1e6:.1f} M"
        yield f"{name:<20} {size:>9} {millions:>11}  {_weights(name, folder, cache)}"


def _weights(name: str, folder: Path | None, cache: Path) -> str:
    """Say where the weights of a model are."""
    if name not in NETWORKS:
        return "part of imageserve"
    fetched = folder / f"{name}{ENDING}" if folder else None
    if fetched and fetched.is_file():
        return f"fetched: {fetched}"
    cached = cache / NETWORKS[name].cached
    return f"downloaded: {cached}" if cached.is_file() else "not here"


def _keras_cache(environ: Mapping[str, str]) -> Path:
    home = environ.get("KERAS_HOME")
    return (Path(home) if home else Path(os.path.expanduser("~"), ".keras")) / "models"


def _fetch(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    save = partial(download, engine=engine_of(Settings.from_env(environ)))
    for name in options.names:
        done = fetch_weights(name, options.to, save)
        what = "fetched" if done.is_new else "already there, checksum right"
        print(f"{done.path}: {what}, {done.size / 2**20:.1f} MiB, sha256 {done.sha256}")
    return 0
