"""The ``imageserve`` command. The only place where the parts are put together.

Each command has a file of its own, imported when it runs: ``imageserve worker`` must not need
Flask, nor ``imageserve web`` TensorFlow.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from imageserve import __version__
from imageserve.errors import ImageserveError

COMMANDS = {
    "run": "start everything on this machine: Redis, web server, workers",
    "web": "start the web server (gunicorn)",
    "worker": "start one model worker",
    "autoscaler": "keep as many pods of each model as its queue needs",
    "classify": "send pictures to a running server and print their labels",
    "loadtest": "measure a running server and check its answers; merge the results of pods",
    "models": "list, fetch, check, export, measure and change models",
    "queue": "look into a queue, read its dead list, empty it",
    "drain": "prepare the web server on this machine for its end (preStop hook)",
    "settings": "print every setting, its default and its meaning",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    if not arguments or arguments[0] not in COMMANDS:
        parser.parse_args(arguments)
        parser.print_help()
        return 2
    command = importlib.import_module(f"imageserve.cli.{arguments[0]}")
    try:
        return int(command.main(arguments[1:], os.environ))
    except ImageserveError as error:
        print(f"imageserve {arguments[0]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has enough of it; Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> argparse.ArgumentParser:
    listing = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
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
