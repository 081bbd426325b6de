"""``imageserve web``: checks the settings and Redis, then becomes gunicorn's master process.

And ``imageserve drain``, which tells that process that it will stop soon.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence

from imageserve.cli.extras import argument
from imageserve.config.reader import number
from imageserve.config.settings import Settings
from imageserve.errors import QueueError, QueueForbidden, SettingsError
from imageserve.logger import setup_logging
from imageserve.web.api_keys import read_api_keys
from imageserve.web.lifecycle import (
    DrainFlag,
    check_redis,
    create_metrics_dir,
    queue_names,
    run_dir,
)

EARLY_S = 5.0


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve HTTP until SIGTERM. The process id stays the same, so gunicorn gets the signals."""
    parser = argparse.ArgumentParser(
        prog="imageserve web",
        description="Serve HTTP: read pictures, queue them, wait for the workers, answer. "
        "Stops on SIGTERM, after answering the requests in progress.",
        epilog="Settings come from the environment: WEB_PORT, WEB_PROCESSES, WEB_SLOTS, "
        "REDIS_URL, ... 'imageserve settings' lists them.",
    )
    parser.add_argument("--prepared", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    settings = Settings.from_env(environ)
    setup_logging(settings.log_level, settings.log_format)
    if options.prepared:
        # Imported here: it loads prometheus_client, which needs the variables that are set below.
        from imageserve.web.server import WebServer

        WebServer(settings).run()
        return 0
    if settings.traces_endpoint:
        # Imported here, too: it loads prometheus_client, which this process does not need.
        from imageserve.tracing import check_tracing

        check_tracing(settings)
    check_keys(settings)
    refuse_early(settings)
    metrics_dir = create_metrics_dir(run_dir(settings))
    # prometheus_client needs a directory that all web processes share.
    restart_prepared("web", {**environ, "PROMETHEUS_MULTIPROC_DIR": str(metrics_dir)})
    return 0


def check_keys(settings: Settings) -> None:
    """Raise SettingsError where the API keys cannot be used; warn of models not served here."""
    if keys := read_api_keys(settings.api_keys_file):
        # Imported here: without keys this process needs no models.
        from imageserve.models.entries import model_entries

        keys.warn_of_models(model_entries(settings))


def refuse_early(settings: Settings) -> None:
    """End here, with a message, where Redis forbids what is needed.

    Anything else is left to the web processes, which keep trying: /readyz tells. So is what a slow
    Redis leaves no time for: until they run, no probe is answered.
    """
    until = time.monotonic() + EARLY_S
    for queue in queue_names(settings):
        try:
            check_redis(settings, queue)
        except QueueForbidden:
            raise
        except QueueError:
            return
        if time.monotonic() > until:
            return


def restart_prepared(command: str, environ: Mapping[str, str]) -> None:
    """Start a command again, with variables that are read only when a process starts.

    With these limits glibc frees decoded pictures above 1 MiB at once (it would raise this limit by
    itself, and keep hundreds of MB after a large one), and keeps 16 MiB of the rest (to take it
    again costs page faults).
    """
    limits = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**24)}
    os.execvpe(  # noqa: S606 - our own interpreter
        sys.executable,
        [sys.executable, "-m", "imageserve", command, "--prepared"],
        {**limits, **environ},
    )


def drain(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Make the web server of this machine unready, for the preStop hook of a web pod."""
    parser = argparse.ArgumentParser(
        prog="imageserve drain",
        description="Make the web server of this machine unready (/readyz answers 503) and have "
        "it close connections after each answer, while it goes on serving; then wait, so that "
        "load balancers notice before SIGTERM comes.",
    )
    parser.add_argument(
        "--wait",
        type=argument(number(0, 86_400)),
        metavar="SECONDS",
        help="how long to wait (default: DRAIN_S)",
    )
    options = parser.parse_args(arguments)
    settings = Settings.from_env(environ)
    directory = run_dir(settings)
    try:
        DrainFlag(directory).set()
    except OSError as error:
        raise SettingsError(f"no web server runs here: {directory}: {error}") from error
    time.sleep(settings.drain_s if options.wait is None else options.wait)
    return 0
