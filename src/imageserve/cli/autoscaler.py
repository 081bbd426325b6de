"""``imageserve autoscaler``: sizes the model Deployments; ``explain`` and ``simulate``."""

import argparse
import logging
import signal
from collections.abc import Mapping, Sequence

from imageserve.autoscaler.autoscaler import Autoscaler
from imageserve.autoscaler.cluster import Cluster
from imageserve.autoscaler.lease import Election, Leadership
from imageserve.autoscaler.model_scaler import ModelScaler
from imageserve.autoscaler.scaling_file import Scaling, read_scaling_file
from imageserve.cli.access import redis_access
from imageserve.cli.extras import extra_command, note_if_missing
from imageserve.config.settings import Settings
from imageserve.errors import SettingsError
from imageserve.logger import setup_logging
from imageserve.probes import ProbeServer
from imageserve.queue.observations import JobLook, QueueReader

log = logging.getLogger(__name__)

SIMULATE = "autoscaler-simulate"
"""Entry point of ``simulate``, which is part of imageserve-loadtest."""

SUBCOMMANDS = {
    "explain": "print what the autoscaler sees right now, and what follows from it",
    "simulate": "compare it with KEDA and with fixed fleets on recorded load, without a cluster",
}


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    if arguments[:1] == ["explain"]:
        from imageserve.cli import autoscaler_explain

        return autoscaler_explain.main(arguments[1:], environ)
    if arguments[:1] == ["simulate"]:
        return extra_command(SIMULATE)(arguments[1:], environ)
    options = _parser().parse_args(arguments)
    settings = Settings.from_env(environ)
    setup_logging(settings.log_level, settings.log_format)
    return _run(settings, options)


def _parser() -> argparse.ArgumentParser:
    texts = {**SUBCOMMANDS, "simulate": SUBCOMMANDS["simulate"] + note_if_missing(SIMULATE)}
    listing = "\n".join(f"  {name:<10} {text}" for name, text in texts.items())
    parser = argparse.ArgumentParser(
        prog="imageserve autoscaler",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Keep as many pods of each model as its queue needs. Runs until SIGTERM, in a "
        "pod\nor with a kubeconfig. SCALING_FILE says which models, and within which limits.",
        epilog=f"commands:\n{listing}\n\nSettings come from the environment: SCALING_FILE, "
        "REDIS_URL, POD_NAME, POD_NAMESPACE, METRICS_PORT, ...\n'imageserve settings' lists them.",
    )
    add_cluster_options(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what would be done, by events and logs"
    )
    return parser


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the cluster is."""
    parser.add_argument("--namespace", help="namespace of the Deployments (default POD_NAMESPACE)")
    parser.add_argument(
        "--kubeconfig", help="where the cluster is (default: the pod's own, or KUBECONFIG)"
    )


def scaling_of(settings: Settings) -> Scaling:
    """Read SCALING_FILE. Raises SettingsError where there is none."""
    if settings.scaling_file is None:
        raise SettingsError("SCALING_FILE: must name the file that says which models to size")
    return read_scaling_file(settings.scaling_file)


def _run(settings: Settings, options: argparse.Namespace) -> int:
    from imageserve.autoscaler.kubernetes_cluster import connect

    scaling = scaling_of(settings)
    namespace = options.namespace or settings.pod_namespace
    cluster = connect(namespace, settings.pod_name or "", options.kubeconfig)
    autoscaler = _assembled(settings, scaling, cluster, scaling.dry_run or options.dry_run)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: autoscaler.stop())
    if settings.metrics_port:
        ProbeServer(settings.metrics_port, autoscaler.answers()).start()
    log.info(
        "sizing",
        extra={"fields": {"models": list(scaling.models), "namespace": cluster.namespace}},
    )
    autoscaler.run()
    log.info("stopped")
    return 0


def _assembled(settings: Settings, scaling: Scaling, cluster: Cluster, dry_run: bool) -> Autoscaler:
    access = redis_access(settings)
    models = scaling.models.values()
    leadership = _leadership(settings, scaling, cluster)
    return Autoscaler(
        QueueReader(access, [model.queue for model in models]),
        [
            ModelScaler(model, cluster, leadership, interval_s=scaling.interval_s, dry_run=dry_run)
            for model in models
        ],
        leadership,
        {
            model.name: JobLook(access, model.queue)
            for model in models
            if model.policy.min_replicas == 0
        },
        interval_s=scaling.interval_s,
    )


def _leadership(settings: Settings, scaling: Scaling, cluster: Cluster) -> Leadership:
    if scaling.lease is None:
        return Leadership()
    if settings.pod_name is None:
        log.warning("no POD_NAME: working without the lease, as if this were the only autoscaler")
        return Leadership()
    return Election(cluster, scaling.lease, settings.pod_name, scaling.timing)
