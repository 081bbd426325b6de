"""What commands share: options, the extras that they need, and commands of another distribution.

``imageserve-loadtest`` has the load test and the autoscaler's simulator, found by their entry
points. Serving images do not contain it.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from imageserve.config.reader import EnvText, Parser
from imageserve.errors import ImageserveError, SettingsError

T = TypeVar("T")

GROUP = "imageserve.commands"

Command = Callable[[Sequence[str], Mapping[str, str]], int]

EXTRAS = {
    "run": "local",
    "web": "web",
    "grpc": "web,grpc",
    "worker": "worker",
    "autoscaler": "autoscaler",
    "classify": "client",
    "models": "worker",
}
"""The extras of the distribution that a command needs; the others need none."""


def chosen(models: Mapping[str, T], name: str | None) -> list[T]:
    """Return the model of ``--model``, or all. Raises SettingsError where it is unknown."""
    if name is None:
        return list(models.values())
    if name not in models:
        raise SettingsError(f"no model {name!r}; there are {', '.join(models)}")
    return [models[name]]


def argument(parse: Parser[T]) -> Callable[[str], T]:
    """Return a type of argparse: the value of an option, by a parser of settings."""

    def read(text: str) -> T:
        try:
            return parse(EnvText(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error} (it is {text!r})") from error

    return read


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the connection to the cluster."""
    parser.add_argument("--namespace", help="namespace of the Deployments (default POD_NAMESPACE)")
    parser.add_argument(
        "--kubeconfig", help="path of a kubeconfig (default: the pod's own access, or KUBECONFIG)"
    )


def sentence(about: str) -> str:
    """Return the beginning of a description, from the words of a list; names keep their letters."""
    return about[0].upper() + about[1:]


def missing(command: str, error: ModuleNotFoundError) -> ImageserveError:
    """Return what to say where a library of a command is not installed.

    Raises the error itself where a module of ours is missing: that is a bug.
    """
    library = (error.name or "").partition(".")[0]
    if library in ("", "imageserve"):
        raise error
    extras = EXTRAS.get(command)
    distribution = f"'imageserve[{extras}]'" if extras else "imageserve"
    only_onnx = ", or 'imageserve[onnx]' for ONNX models alone" if extras == "worker" else ""
    return ImageserveError(
        f"{library} is not installed; install it with: pip install {distribution}{only_onnx}"
    )


def note_if_missing(name: str) -> str:
    """Return what the help says behind a command: nothing where it is installed."""
    return "" if _entry_point(name) else " (not installed)"


def extra_command(name: str) -> Command:
    """Import a command of another distribution.

    Raises ImageserveError that says how to install it where it is missing.
    """
    found = _entry_point(name)
    if found is None:
        raise ImageserveError(
            "this command is not installed; install it with: pip install imageserve-loadtest"
        )
    command: Command = found.load()
    return command


def _entry_point(name: str) -> EntryPoint | None:
    return next(iter(entry_points(group=GROUP, name=name)), None)
