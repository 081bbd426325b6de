"""``imageserve doctor``: looks at everything that can be reached, and says what is wrong."""

import argparse
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from http.client import HTTPException
from typing import TypeVar
from urllib.request import ProxyHandler, build_opener

from imageserve.cli.extras import add_cluster_options, argument, missing
from imageserve.config.reader import matching
from imageserve.config.settings import Settings
from imageserve.doctor.advice import ADVICE, in_order
from imageserve.doctor.cluster_rules import cluster_findings
from imageserve.doctor.facts import Facts, Object, WebFacts
from imageserve.doctor.rules import queue_findings, redis_findings, web_findings
from imageserve.errors import ClusterError, QueueError, SettingsError
from imageserve.models.entries import model_entries
from imageserve.queue.monitor import Monitor
from imageserve.queue.redis.connection import RedisAccess, by_node
from imageserve.web.api_keys import read_api_keys

T = TypeVar("T")
RULES = (redis_findings, web_findings, cluster_findings, queue_findings)
STATUS = {"critical": 3, "warning": 2}
ASK_TIMEOUT_S = 5.0
DEAD_READ = 100


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser().parse_args(arguments)
    look = _Look(Settings.from_env(environ), options)
    facts = look.facts()
    found = in_order(each for rule in RULES for each in rule(facts))
    told = [{"name": name, "what": what, **ADVICE[name]} for name, what in found]
    if options.json:
        print(json.dumps({"findings": told, "unseen": look.unseen}))
    else:
        _print(told, look.unseen)
    return max((STATUS.get(each["severity"], 0) for each in told), default=0)


def _print(findings: Iterable[Mapping[str, str]], unseen: Sequence[str]) -> None:
    for each in findings:
        print(f"{each['severity']}: {each['what']}")
        print(f"  do: {each['do']}\n  see: {each['page']} ({each['name']})")
    for what in unseen:
        print(f"not looked at: {what}")
    if not findings:
        print("nothing is wrong with what could be looked at")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imageserve doctor",
        description="Look at Redis, queues, workers, the web server and, with a kubeconfig, at "
        "Deployments and pods; say what is wrong, the worst first, and what to do. Change nothing.",
        epilog="Exit status: 0 nothing or notes only, 1 it could not look, 2 warnings, 3 something "
        "critical. Settings come from the environment; give it those of the web server.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--url",
        type=argument(matching(r"https?://\S+", "an address that begins with http:// or https://")),
        help="the web server (default: one on this machine, if it runs)",
    )
    parser.add_argument("--release", default="imageserve", help="release (default imageserve)")
    add_cluster_options(parser)
    return parser


class _Look:
    """Collects facts; notes what it could not look at."""

    def __init__(self, settings: Settings, options: argparse.Namespace) -> None:
        self._settings, self._options = settings, options
        self.unseen: list[str] = []

    def _try(self, what: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except (QueueError, ClusterError, SettingsError) as error:
            self.unseen.append(f"{what}: {error}")
        except ModuleNotFoundError as error:
            self.unseen.append(f"{what}: {missing('autoscaler', error)}")
        return None

    def facts(self) -> Facts:
        access, entries = RedisAccess.from_settings(self._settings), model_entries(self._settings)
        queues = {entry.queue: name for name, entry in entries.items()}
        before_ns = time.time_ns()
        with closing(Monitor(access, [*queues])) as monitor:
            snapshots = monitor.snapshots()
            now_ms = (before_ns + time.time_ns()) // 2_000_000
            seen = [queue for queue, each in snapshots.items() if not isinstance(each, QueueError)]
            nodes = [group[0] for group in by_node(access, seen) if group]
            infos = [self._try("Redis", partial(monitor.server, node)) for node in nodes]
            read_others = [partial(monitor.queues_with_workers, node) for node in nodes]
            others = {q for read in read_others for q in self._try("other queues", read) or ()}
            read_dead = {queue: partial(monitor.dead, queue, DEAD_READ) for queue in seen}
            dead = {queues[q]: self._try("the dead list", read_dead[q]) or [] for q in seen}
        deployments, pods = self._try("the cluster", self._cluster) or ((), ())
        return Facts(
            now_ms=now_ms,
            settings=self._settings,
            queues={name: snapshots[queue] for queue, name in queues.items()},
            dead=dead,
            infos=tuple(filter(None, infos)),
            other_queues=tuple(sorted(others - queues.keys())),
            keys_problem=self._keys(),
            web=self._web(),
            deployments=deployments,
            pods=pods,
        )

    def _keys(self) -> str:
        try:
            read_api_keys(self._settings.api_keys_file)
        except SettingsError as error:
            return str(error)
        return ""

    def _web(self) -> WebFacts | None:
        url = self._options.url or f"http://127.0.0.1:{self._settings.web_port}"
        try:
            return WebFacts(url, json.loads(_get(url, "/status")), _get(url, "/metrics"))
        except (OSError, HTTPException, ValueError) as error:
            if self._options.url:
                return WebFacts(url, {}, "", problem=str(error))
            self.unseen.append(f"the web server: {url}: {error} (--url names another)")
            return None

    def _cluster(self) -> tuple[tuple[Object, ...], tuple[Object, ...]]:
        from imageserve.autoscaler.kubernetes import connect

        options, settings = self._options, self._settings
        cluster = connect(
            options.namespace or settings.pod_namespace, kubeconfig=options.kubeconfig
        )
        selector = f"app.kubernetes.io/instance={options.release}"
        if not (deployments := cluster.listed("deployments", selector)):
            raise ClusterError(f"no Deployment has the label {selector} (--release, --namespace)")
        return tuple(deployments), tuple(cluster.listed("pods", selector))


def _get(url: str, path: str) -> str:
    direct = build_opener(ProxyHandler({}))
    with direct.open(url.rstrip("/") + path, timeout=ASK_TIMEOUT_S) as response:
        return str(response.read().decode())
