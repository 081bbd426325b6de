"""``imageserve autoscaler``: sizes the model Deployments; ``explain`` and ``simulate``."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from imageserve.autoscaler.foresight import foresight_of
from imageserve.autoscaler.lease import Election, Leadership
from imageserve.autoscaler.loop import Autoscaler, SizedModel
from imageserve.autoscaler.scaler import ModelScaler
from imageserve.autoscaler.scaling_file import Scaling, read_scaling_file
from imageserve.autoscaler.shared_budget import shared_budget
from imageserve.cli.extras import add_cluster_options, extra_command, note_if_missing
from imageserve.config.settings import Settings
from imageserve.logger import setup_logging
from imageserve.probes import ProbeServer
from imageserve.queue.monitor import FirstJobWaiter, Monitor
from imageserve.queue.redis.connection import RedisAccess
from imageserve.stop_signals import end_process, on_stop_signal

if TYPE_CHECKING:
    from imageserve.autoscaler.kubernetes import KubernetesCluster

log = logging.getLogger(__name__)

SIMULATE = "autoscaler-simulate"
"""Entry point of ``simulate``, which is part of imageserve-loadtest."""


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
    parser = argparse.ArgumentParser(
        prog="imageserve autoscaler",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Keep as many pods of each model as its queue needs. Runs until SIGTERM, in a "
        "pod\nor with a kubeconfig. SCALING_FILE names the models and their limits.",
        epilog="commands:\n  explain    print what the autoscaler would decide now, and why\n"
        "  simulate   compare it with KEDA and with fixed fleets on recorded load, without a "
        f"cluster{note_if_missing(SIMULATE)}\n\nSettings come from the environment: SCALING_FILE, "
        "REDIS_URL, POD_NAME, POD_NAMESPACE, METRICS_PORT, ...\n'imageserve settings' lists them.",
    )
    add_cluster_options(parser)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="change nothing: events and logs say what would be done",
    )
    return parser


def _run(settings: Settings, options: argparse.Namespace) -> int:
    from imageserve.autoscaler.kubernetes import connect

    scaling = read_scaling_file(settings.scaling_file)
    namespace = options.namespace or settings.pod_namespace
    cluster = connect(namespace, settings.pod_name or "", options.kubeconfig)
    autoscaler = _autoscaler(settings, scaling, cluster, scaling.dry_run or options.dry_run)
    on_stop_signal(autoscaler.stop)
    if settings.metrics_port:
        ProbeServer(settings.metrics_port, autoscaler.answers()).start()
    log.info(
        "sizing",
        extra={"fields": {"models": list(scaling.models), "namespace": cluster.namespace}},
    )
    autoscaler.run()
    log.info("stopped")
    end_process()


def _autoscaler(
    settings: Settings, scaling: Scaling, cluster: "KubernetesCluster", dry_run: bool
) -> Autoscaler:
    access = RedisAccess.from_settings(settings)
    leadership = _leadership(settings, scaling, cluster)
    interval_s = scaling.interval_s
    models = []
    for model in scaling.models.values():
        monitor = Monitor(access, [model.queue])
        scaler = ModelScaler(model, cluster, leadership, interval_s=interval_s, dry_run=dry_run)
        scaler.foresight = foresight_of(model.policy, model.queue, monitor)
        wakes = model.policy.min_replicas == 0
        first_job = FirstJobWaiter(access, model.queue) if wakes else None
        models.append(SizedModel(scaler, monitor, first_job))
    budget = shared_budget(scaling)
    return Autoscaler(models, leadership, interval_s=interval_s, budget=budget)


def _leadership(settings: Settings, scaling: Scaling, cluster: "KubernetesCluster") -> Leadership:
    if scaling.lease is None:
        return Leadership()
    if settings.pod_name is None:
        log.warning("no POD_NAME: the Lease is not used, this must be the only autoscaler")
        return Leadership()
    return Election(cluster, scaling.lease, settings.pod_name, scaling.timing)
