"""The ``imageserve`` command: finds the subcommand and runs it.

Each subcommand is a module that is imported when it runs: ``imageserve worker`` must not need
Flask, nor ``imageserve web`` TensorFlow.
"""

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence

from imageserve import __version__
from imageserve.cli.extras import Command, extra_command, missing, note_if_missing
from imageserve.errors import ImageserveError
from imageserve.logger import setup_logging

log = logging.getLogger(__name__)

COMMANDS = {
    "run": "start everything on this machine: Redis, web server, workers",
    "web": "start the web server (gunicorn)",
    "grpc": "start a server of the Open Inference Protocol over gRPC",
    "worker": "start one model worker",
    "autoscaler": "keep as many pods of each model as its queue needs",
    "classify": "send pictures to a running server and print their labels",
    "loadtest": "measure a running server and check its answers",
    "models": "list, fetch, check, export, import, measure and change models",
    "plan": "reckon the pods, Redis and network that a rate of pictures takes",
    "queue": "show a queue and its dead list, or empty it",
    "doctor": "look at a running system and say what is wrong, the worst first",
    "drain": "prepare the web server on this machine for its end (preStop hook)",
    "settings": "print every setting, its default and its meaning",
}
SERVICES = ("web", "grpc", "worker", "autoscaler")


def _command(name: str) -> Command:  # noqa: C901, PLR0912 - a flat list
    """Import one of ``COMMANDS``."""
    match name:
        case "run":
            from imageserve.cli.run import main as command
        case "web":
            from imageserve.cli.web import main as command
        case "grpc":
            from imageserve.cli.grpc import main as command
        case "worker":
            from imageserve.cli.worker import main as command
        case "autoscaler":
            from imageserve.cli.autoscaler import main as command
        case "classify":
            from imageserve.cli.classify import main as command
        case "models":
            from imageserve.cli.models import main as command
        case "plan":
            from imageserve.cli.plan import main as command
        case "queue":
            from imageserve.cli.queue import main as command
        case "doctor":
            from imageserve.cli.doctor import main as command
        case "drain":
            from imageserve.cli.web import drain as command
        case "settings":
            command = print_settings
        case _:
            return extra_command(name)
    return command


def print_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    from imageserve.config.settings import table

    del environ
    parser = argparse.ArgumentParser(
        prog="imageserve settings",
        description="Print every setting as a Markdown table: variable, default, meaning.",
    )
    parser.parse_args(arguments)
    print(table())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in COMMANDS:
        parser = _parser()
        parser.parse_args(arguments)
        parser.print_help()
        return 2
    try:
        return int(_command(arguments[0])(arguments[1:], os.environ))
    except ImageserveError as error:
        _report(arguments, error)
        return 1
    except ModuleNotFoundError as error:
        _report(arguments, missing(arguments[0], error))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has closed it. Python would report that once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _report(arguments: Sequence[str], error: ImageserveError) -> None:
    """Say why a command ends. All that a pod prints is JSON, where its log is to be JSON."""
    command = arguments[0]
    runs_in_pods = command in SERVICES or list(arguments[:2]) == ["models", "fetch"]
    if runs_in_pods and os.environ.get("LOG_FORMAT") == "json":
        setup_logging("info", "json")  # It may have failed before it did so itself.
        log.critical("imageserve %s: %s", command, error)
    else:
        print(f"imageserve {command}: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    texts = {**COMMANDS, "loadtest": COMMANDS["loadtest"] + note_if_missing("loadtest")}
    listing = "\n".join(f"  {name:<10} {text}" for name, text in texts.items())
    parser = argparse.ArgumentParser(
        prog="imageserve",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Image classification: a picture in, its labels out, nothing lost.",
        epilog=f"commands:\n{listing}\n\n'imageserve COMMAND --help' tells more. "
        "Settings come from the environment: 'imageserve settings'.",
    )
    parser.add_argument("--version", action="version", version=f"imageserve {__version__}")
    parser.add_argument("command", nargs="?", choices=list(COMMANDS), metavar="COMMAND")
    return parser
