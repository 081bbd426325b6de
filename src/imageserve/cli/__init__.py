"""The ``imageserve`` command: finds the subcommand and runs it.

Each subcommand is a module that is imported when it runs: ``imageserve worker`` must not need
Flask, nor ``imageserve web`` TensorFlow.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from imageserve import __version__
from imageserve.cli.extras import Command, extra_command, note_if_missing
from imageserve.errors import ImageserveError


def _run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    from imageserve.cli import run

    return run.main(arguments, environ)


def _web(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    from imageserve.cli import web

    return web.main(arguments, environ)


def _worker(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    from imageserve.cli import worker

    return worker.main(arguments, environ)


def _autoscaler(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    from imageserve.cli import autoscaler

    return autoscaler.main(arguments, environ)


def _classify(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    from imageserve.cli import classify

    return classify.main(arguments, environ)


def _loadtest(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    return extra_command("loadtest")(arguments, environ)


def _models(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    from imageserve.cli import models

    return models.main(arguments, environ)


def _queue(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    from imageserve.cli import queue

    return queue.main(arguments, environ)


def _drain(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    from imageserve.cli import drain

    return drain.main(arguments, environ)


def _settings(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    from imageserve.cli import settings

    return settings.main(arguments, environ)


COMMANDS: dict[str, tuple[Command, str]] = {
    "run": (_run, "start everything on this machine: Redis, web server, workers"),
    "web": (_web, "start the web server (gunicorn)"),
    "worker": (_worker, "start one model worker"),
    "autoscaler": (_autoscaler, "keep as many pods of each model as its queue needs"),
    "classify": (_classify, "send pictures to a running server and print their labels"),
    "loadtest": (_loadtest, "measure a running server and check its answers"),
    "models": (_models, "list, fetch, check, export, measure and change models"),
    "queue": (_queue, "show a queue and its dead list, or empty it"),
    "drain": (_drain, "prepare the web server on this machine for its end (preStop hook)"),
    "settings": (_settings, "print every setting, its default and its meaning"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in COMMANDS:
        parser = _parser()
        parser.parse_args(arguments)
        parser.print_help()
        return 2
    command, _ = COMMANDS[arguments[0]]
    try:
        return int(command(arguments[1:], os.environ))
    except ImageserveError as error:
        print(f"imageserve {arguments[0]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has closed it. Python would report that once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> argparse.ArgumentParser:
    texts = {name: text for name, (_, text) in COMMANDS.items()}
    texts["loadtest"] += note_if_missing("loadtest")
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
