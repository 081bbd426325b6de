"""``imageserve models``: what can be done with models before they are served."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from imageserve.models.fetch import FETCHABLE, fetch_weights


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    del environ
    options = _parser().parse_args(arguments)
    status: int = options.action(options)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imageserve models", description="Get models ready to be served."
    )
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    _add_fetch(actions)
    return parser


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
    fetch.add_argument("names", nargs="+", metavar="NAME", choices=FETCHABLE, help=_choice())
    fetch.add_argument("--to", required=True, type=Path, metavar="DIR", help="the folder")
    fetch.set_defaults(action=_fetch)


def _choice() -> str:
    return f"one or more of {', '.join(FETCHABLE)}"


def _fetch(options: argparse.Namespace) -> int:
    for name in options.names:
        done = fetch_weights(name, options.to)
        what = "fetched" if done.is_new else "already there, checksum right"
        print(f"{done.path}: {what}, {done.size / 2**20:.1f} MiB, sha256 {done.sha256}")
    return 0
