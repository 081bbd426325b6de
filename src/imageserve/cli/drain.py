"""``imageserve drain``: for the preStop hook of a web pod."""

import argparse
import time
from collections.abc import Mapping, Sequence

from imageserve.config.settings import Settings
from imageserve.errors import SettingsError
from imageserve.web.lifecycle import DrainFlag, run_dir


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        prog="imageserve drain",
        description="Make the web server of this machine unready (/readyz answers 503) and have "
        "it close connections after each answer, while it goes on serving; then wait, so that "
        "load balancers notice before SIGTERM comes.",
    )
    parser.add_argument(
        "--wait", type=float, metavar="SECONDS", help="how long to wait (default: DRAIN_S)"
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
