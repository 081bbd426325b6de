"""The cluster that a run uses: its namespace, what the clients need in it, and the clients."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.chart.helm import ROOT
from tests.e2e.answers import Answer, BrokenLogError, Report, answers_in, report_of
from tests.e2e.commands import CommandError, Helm, Kubectl, eventually
from tests.e2e.manifests import (
    FILES,
    LISTENER_PORT,
    OURS,
    PICTURES,
    client_labels,
    closed_to_all,
    config_map,
    pod,
)
from tests.e2e.options import Options, Values
from tests.e2e.release import Release, labelled
from tests.e2e.state import is_ready
from tests.e2e.stress import StressJob

SAMPLES = ROOT / "loadtest" / "images"
PROGRAMS = Path(__file__).parent / "in_cluster"

WARM_UP = 40
"""Requests that must be answered before the release is changed."""

AFTER_S = 5.0
"""How long the clients continue after the change."""

STILL_S = 2.0
THREADS = 8

NEEDED = """\
These tests install the chart on a real cluster, and none can be reached:

{error}

They need
- a cluster of Kubernetes 1.29 or later: KUBECONFIG, and E2E_CONTEXT if it is not the current one,
- kubectl and helm on PATH,
- the images imageserve/web and imageserve/model on its nodes, or where the nodes can pull them.
tests/e2e/README.md lists what can be set.
"""


class Load:
    """A pod whose clients post pictures until they are told to stop."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self._kubectl = kubectl
        self._name = name
        self._report: Report | None = None

    @property
    def report(self) -> Report:
        assert self._report is not None, "the clients have not been stopped"
        return self._report

    def answers(self) -> list[Answer]:
        return answers_in(self._kubectl("logs", self._name))

    def now_s(self) -> float:
        """Return the time on the clients' own clock, or a little less."""
        return max(each.at for each in self.answers())

    def wait_for(self, count: int, since_s: float = 0.0) -> None:
        """Wait for ``count`` right answers to requests that began after ``since_s``."""

        def enough() -> bool:
            return sum(each.is_right for each in self.answers() if each.at >= since_s) >= count

        eventually(enough, f"{count} right answers")

    def go_on(self, seconds: float) -> None:
        end = self.now_s() + seconds
        eventually(lambda: self.now_s() >= end, f"{seconds:g} more seconds of requests")

    def stop(self) -> None:
        self._kubectl.exec(self._name, "touch", "/tmp/stop")
        self._report = report_of(finished_log(self._kubectl, self._name))


def finished_log(kubectl: Kubectl, name: str) -> str:
    """Wait for the end of a pod's command, and return its output."""

    def ended() -> bool:
        phase = kubectl.json("get", "pod", name)["status"]["phase"]
        return phase in ("Succeeded", "Failed")

    eventually(ended, f"pod {name} has ended")
    return kubectl("logs", name)


@dataclass
class Cluster:
    """A namespace of a real cluster, and what this run has put there."""

    kubectl: Kubectl
    helm: Helm
    options: Options
    run: str
    """Part of all names."""
    _pods: int = field(default=0, repr=False)

    def check(self) -> None:
        """Raise CommandError with the requirements if the cluster does not answer."""
        try:
            self.kubectl("version", "--request-timeout=15s", "--output=json")
        except CommandError as error:
            raise CommandError(NEEDED.format(error=error)) from error

    def prepare(self) -> None:
        """Put the files of the clients there."""
        samples = sorted(each for each in SAMPLES.iterdir() if each.is_file())
        self.kubectl.create(
            config_map(self._files, self.run, sorted(PROGRAMS.glob("*.py"))),
            config_map(self._pictures, self.run, samples),
        )

    def tidy(self) -> None:
        """Delete everything that this run has created."""
        for kind in ("pods", "networkpolicies", "services", "configmaps"):
            self.kubectl("delete", kind, f"--selector={OURS}={self.run}", "--ignore-not-found")

    def release(self, name: str, *more: Values) -> Release:
        layers = [*self.options.layers(), *more]
        return Release(f"{name}-{self.run}", self.kubectl, self.helm, layers)

    def everything(self) -> set[str]:
        """List all objects of the namespace."""
        return set(labelled(self.kubectl, ""))

    def at_rest(self) -> set[str]:
        """List them, or nothing while the cluster is still filling a new namespace."""
        first = self.everything()
        time.sleep(STILL_S)
        still = first == self.everything() and "serviceaccount/default" in first
        return first if still else set()

    # -- clients ------------------------------------------------------------------------------

    @contextmanager
    def classifying(self, release: Release, *arguments: str) -> Iterator[Load]:
        """Classify without a pause while the caller changes the release.

        The clients continue for a while after the change; then the report is complete.
        """
        threads = f"--threads={THREADS}"
        with self._client(release, threads, *arguments) as name:
            load = Load(self.kubectl, name)
            try:
                load.wait_for(WARM_UP)
                yield load
                load.go_on(AFTER_S)
                load.stop()
            except BaseException as error:
                with suppress(CommandError, BrokenLogError):
                    error.add_note(f"the clients until then: {Report(tuple(load.answers()))}")
                raise

    def classify(self, release: Release, *arguments: str) -> Report:
        """Classify every sample once."""
        with self._client(release, "--once", *arguments) as name:
            return report_of(finished_log(self.kubectl, name))

    @contextmanager
    def _client(self, release: Release, *arguments: str) -> Iterator[str]:
        url = f"http://{release.address}/predict"
        command = ["python3", f"{FILES}/client.py", url, f"--pictures={PICTURES}", *arguments]
        labels = client_labels(release.workload("deployment", "web"), self.run)
        with self.running(release, labels, command) as name:
            yield name

    @contextmanager
    def running(
        self, release: Release, labels: dict[str, str], command: Sequence[str]
    ) -> Iterator[str]:
        """Run a command in a pod with these labels; yield the pod's name."""
        self._pods += 1
        name = f"e2e-{self.run}-{self._pods}"
        web = release.workload("deployment", "web")
        self.kubectl.create(pod(name, web, labels, (self._files, self._pictures), *command))
        try:
            yield name
        finally:
            self.kubectl.delete("pod", name)

    # -- the load test ------------------------------------------------------------------------

    @contextmanager
    def stressing(self, release: Release, **load: object) -> Iterator[StressJob]:
        """Run the chart's own load test on a release; ``load`` are values of ``loadtest``."""
        text = release.rendered("loadtest.yaml", {"loadtest": {"enabled": True, **load}})
        self.kubectl.create_from(text)
        try:
            yield StressJob.of(text, self.kubectl)
        finally:
            self.kubectl.delete_from(text)

    # -- the network --------------------------------------------------------------------------

    def reach(self, release: Release, address: str, expected: str, seconds: int) -> str:
        """Return whether an address is ``open`` or ``closed`` to a pod without a release's labels.

        It tries again for some seconds until the result is as expected.
        """
        host, _, port = address.rpartition(":")
        command = ["python3", f"{FILES}/probe.py", host, port, expected, str(seconds)]
        with self.running(release, {OURS: self.run}, command) as name:
            return finished_log(self.kubectl, name).strip()

    def enforces_policies(self, release: Release) -> bool:
        """Return whether the network enforces NetworkPolicies, tried on a pod of its own."""
        labels = {OURS: self.run, f"{OURS}-part": "listener"}
        command = ["python3", "-m", "http.server", str(LISTENER_PORT), "--directory=/tmp"]
        with self.running(release, labels, command) as name:
            ip = eventually(lambda: self._ip_of(name), f"pod {name} is ready")
            address = f"{ip}:{LISTENER_PORT}"
            found = self.reach(release, address, "open", 60)
            assert found == "open", f"pods cannot reach each other at all: {found}"
            self.kubectl.create(closed_to_all(name, labels))
            try:
                return self.reach(release, address, "closed", 60).startswith("closed")
            finally:
                self.kubectl.delete("networkpolicy", name)

    def _ip_of(self, name: str) -> str:
        found = self.kubectl.json("get", "pod", name)
        return str(found["status"]["podIP"]) if is_ready(found) else ""

    # -- evidence for failed tests ------------------------------------------------------------

    def evidence(self) -> Iterator[tuple[str, str]]:
        """Return what helps to explain a failed test: objects, events and logs."""
        asked = {
            "pods": ("get", "pods", "--output=wide"),
            "events": ("get", "events", "--sort-by=.lastTimestamp"),
        }
        for title, arguments in asked.items():
            with suppress(CommandError):
                yield title, self.kubectl(*arguments)[-6000:]
        with suppress(CommandError):
            for name in self.kubectl("get", "pods", "--output=name").split():
                yield f"log of {name}", self._log_of(name)

    def _log_of(self, name: str) -> str:
        logs = []
        for options in (["--previous"], []):
            with suppress(CommandError):
                logs.append(self.kubectl("logs", name, "--tail=60", *options))
        return re.sub(r"\n+", "\n", "\n".join(logs))[-6000:]

    @property
    def _files(self) -> str:
        return f"e2e-{self.run}-client"

    @property
    def _pictures(self) -> str:
        return f"e2e-{self.run}-pictures"
