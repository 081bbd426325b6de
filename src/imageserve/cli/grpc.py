"""``imageserve grpc``: checks the settings and Redis, then serves gRPC in this process."""

import argparse
from collections.abc import Mapping, Sequence

from imageserve.cli.web import check_keys, refuse_early, restart_prepared
from imageserve.config.settings import Settings
from imageserve.errors import SettingsError
from imageserve.logger import setup_logging
from imageserve.tracing import check_tracing


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve gRPC until SIGTERM. The process id stays the same."""
    parser = argparse.ArgumentParser(
        prog="imageserve grpc",
        description="Serve the Open Inference Protocol over gRPC: read pictures, queue them, wait "
        "for the workers, answer. Stops on SIGTERM: tells health checks, serves on for DRAIN_S, "
        "and answers the requests in progress.",
        epilog="Settings come from the environment: GRPC_PORT, REDIS_URL, METRICS_PORT, those of "
        "the web server ... 'imageserve settings' lists them.",
    )
    parser.add_argument("--prepared", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    settings = Settings.from_env(environ)
    setup_logging(settings.log_level, settings.log_format)
    if settings.grpc_port == settings.metrics_port:
        raise SettingsError("METRICS_PORT must be another port than GRPC_PORT")
    # Imported here: --help needs neither grpcio nor gevent.
    from imageserve.grpc_server.process import GrpcProcess

    if options.prepared:
        GrpcProcess(settings).run()
    check_tracing(settings)
    check_keys(settings)
    refuse_early(settings)
    # One process with many threads: few arenas, or each thread keeps memory of its own.
    restart_prepared("grpc", {"MALLOC_ARENA_MAX": "2", **environ})
    return 0
