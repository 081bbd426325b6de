"""``imageserve doctor``: looks at everything that can be reached, and says what is wrong."""

import argparse
import http.client
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

from imageserve.cli.extras import add_cluster_options
from imageserve.config.settings import Settings
from imageserve.doctor.advice import ADVICE, in_order
from imageserve.doctor.cluster_rules import cluster_findings
from imageserve.doctor.facts import Facts, Object, QueueFacts, WebFacts, samples_of
from imageserve.doctor.queue_rules import queue_findings
from imageserve.doctor.redis_rules import redis_findings
from imageserve.doctor.web_rules import web_findings
from imageserve.errors import ClusterError, QueueError, QueueUnavailable, SettingsError
from imageserve.models.entries import model_entries
from imageserve.queue.monitor import Monitor
from imageserve.queue.redis.connection import RedisAccess, by_node
from imageserve.queue.snapshot import Snapshot
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
    told = [{"name": name, "what": what, **ADVICE[name]._asdict()} for name, what in found]
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
        description="Look at Redis, queues, workers, the web server and, where a kubeconfig allows "
        "it, at Deployments and pods; say what is wrong, the worst first, and what to do. It "
        "changes nothing. Exit status: 0 nothing or notes only, 1 it could not look, 2 warnings, "
        "3 something critical.",
        epilog="Settings come from the environment, best the web server's: REDIS_URL, MODEL, ...",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--url", help="the web server (default: one on this machine, if it runs)")
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
        except (QueueError, ClusterError, SettingsError, ImportError) as error:
            self.unseen.append(f"{what}: {error}")
            return None

    def facts(self) -> Facts:
        settings, entries = self._settings, model_entries(self._settings)
        queues = [entry.queue for entry in entries.values()]
        access = RedisAccess.from_settings(settings)
        monitor = Monitor(access, queues)
        snapshots, now_ms = monitor.snapshots(), time.time_ns() // 1_000_000
        read = {name for name, each in snapshots.items() if isinstance(each, Snapshot)}
        nodes = [group[0] for group in by_node(access, queues) if group[0] in read]
        deployments, pods = self._try("the cluster", self._cluster) or ((), ())
        facts = Facts(
            now_ms=now_ms,
            settings=settings,
            queues={
                name: self._queue(monitor, entry.queue, snapshots[entry.queue])
                for name, entry in entries.items()
            },
            servers=tuple(monitor.server(queue) for queue in nodes),
            other_queues=self._try("other queues", lambda: _others(monitor, nodes, queues)) or (),
            unfit_keys=self._keys(),
            web=self._web(),
            deployments=deployments,
            pods=pods,
        )
        monitor.close()
        return facts

    def _queue(self, monitor: Monitor, queue: str, read: Snapshot | QueueError) -> QueueFacts:
        if isinstance(read, QueueError):
            is_forbidden = not isinstance(read, QueueUnavailable)
            return QueueFacts(queue, problem=str(read), is_forbidden=is_forbidden)
        dead = self._try("the dead list", lambda: monitor.dead(queue, DEAD_READ)) or ()
        return QueueFacts(queue, read, reasons=tuple(each["reason"] for each in dead))

    def _keys(self) -> tuple[str, ...]:
        try:
            read_api_keys(self._settings.api_keys_file)
        except SettingsError as error:
            return (str(error),)
        return ()

    def _web(self) -> WebFacts | None:
        url = self._options.url or f"http://127.0.0.1:{self._settings.web_port}"
        try:
            status = json.loads(_get(url, "/status"))
            return WebFacts(url, status=status, samples=samples_of(_get(url, "/metrics")))
        except (OSError, http.client.HTTPException, ValueError) as error:
            if self._options.url:
                return WebFacts(url, problem=str(error))
            self.unseen.append(f"the web server: {url}: {error} (--url names another)")
            return None

    def _cluster(self) -> tuple[tuple[Object, ...], tuple[Object, ...]]:
        from imageserve.autoscaler.kubernetes import connect

        namespace = self._options.namespace or self._settings.pod_namespace
        cluster = connect(namespace, kubeconfig=self._options.kubeconfig)
        selector = f"app.kubernetes.io/instance={self._options.release}"
        found = [tuple(cluster.listed(each, selector)) for each in ("deployments", "pods")]
        return found[0], found[1]


def _others(monitor: Monitor, nodes: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    found = {each for node in nodes for each in monitor.queues_with_workers(node)}
    return tuple(sorted(found - set(own)))


def _get(url: str, path: str) -> str:
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    kind = http.client.HTTPSConnection if is_tls else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=ASK_TIMEOUT_S)
    try:
        connection.request("GET", parts.path.rstrip("/") + path)
        response = connection.getresponse()
        text = response.read().decode()
        if response.status != 200:
            raise ValueError(f"{path} is answered {response.status}")
        return text
    finally:
        connection.close()
