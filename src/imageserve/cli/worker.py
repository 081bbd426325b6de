"""``imageserve worker``: one model worker, until SIGTERM."""

import argparse
from collections.abc import Mapping, Sequence

from imageserve.config.settings import Settings
from imageserve.logger import setup_logging


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        prog="imageserve worker",
        description="Take batches from the queue, run the model on them, store and publish the "
        "results. Stops on SIGTERM: finishes the batch in hand and gives the rest back.",
        epilog="Settings come from the environment: MODEL, REDIS_URL, BATCH_SIZE, ... "
        "'imageserve settings' lists them.",
    )
    parser.parse_args(arguments)
    settings = Settings.from_env(environ)
    setup_logging(settings.log_level, settings.log_format)
    # Imported here: --help needs no numpy.
    from imageserve.worker.process import WorkerProcess

    WorkerProcess(settings).run()
