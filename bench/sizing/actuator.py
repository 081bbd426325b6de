"""A cluster of one machine: its pods are ``imageserve worker`` processes that are started here.

It has the methods of `KubernetesCluster` that sizing calls, so the autoscaler's own threads run
against it unchanged.
"""

import itertools
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from urllib.error import URLError
from urllib.request import urlopen

from tests.redis_server import free_port
from tests.system.stack import Program, Stack

from imageserve.autoscaler.cluster import Deployment, Pod
from imageserve.autoscaler.pod_start import StartStamps

LOOK_S = 0.05
"""How often it looks after its pods."""

_PROBE_TIMEOUT_S = 1.0


@dataclass(slots=True, eq=False)
class LocalPod:
    """One worker, from its creation to the end of its process."""

    name: str
    stamps: StartStamps
    port: int
    program: Program | None = None
    """None until its image is there."""
    is_leaving: bool = False
    ended_s: float | None = None

    @property
    def is_ready(self) -> bool:
        return self.stamps.ready_s is not None and not self.is_leaving

    def seconds(self, start_s: float, end_s: float) -> float:
        """Return how much of this time it existed: what one pays for."""
        ended_s = end_s if self.ended_s is None else min(self.ended_s, end_s)
        return max(0.0, ended_s - max(start_s, self.stamps.created_s))


@dataclass(slots=True)
class LocalCluster:
    """A Deployment and what looks after its pods, in a thread of its own."""

    stack: Stack
    name: str
    image_s: float
    """How long a pod takes until its container runs, beside what its worker takes by itself."""
    pods_ever: list[LocalPod] = field(default_factory=list)
    changes: list[tuple[float, int]] = field(default_factory=list)
    """When the replicas were set, and to how many."""
    failure: str = ""
    """Why a pod ended by itself; "" where none did."""
    _replicas: int = 0
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def start(self, replicas: int) -> None:
        """Begin with so many pods, which need not wait for their image."""
        with self._lock:
            for _ in range(replicas):
                self._launch(self._create())
            self._replicas = replicas
        threading.Thread(target=self._run, name="kubelet", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()

    # -- what the autoscaler calls ------------------------------------------------------------

    def deployment(self, name: str) -> Deployment:
        with self._lock:
            return Deployment(name, "uid", "1", self._replicas, self.ready)

    def scale(self, name: str) -> int:
        del name
        return self._replicas

    def set_replicas(self, deployment: Deployment, replicas: int, *, dry_run: bool = False) -> None:
        del deployment
        if not dry_run:
            with self._lock:
                self._replicas = replicas
                self.changes.append((time.time(), replicas))
                self._reconcile()

    def pods(self, selector: str) -> list[Pod]:
        del selector
        with self._lock:
            return [
                Pod(pod.name, pod.name, pod.stamps, False, 0, leaving=pod.is_leaving)
                for pod in self._existing
            ]

    def set_deletion_cost(self, pod: str, cost: int) -> None:
        """Ignore it: the newest pod goes."""

    def event(self, about: Deployment, reason: str, message: str, *, warning: bool) -> None:
        """Ignore it: it is in the autoscaler's log too."""

    # -- pods ---------------------------------------------------------------------------------

    @property
    def ready(self) -> int:
        return sum(pod.is_ready for pod in self._existing)

    @property
    def _existing(self) -> Sequence[LocalPod]:
        return [pod for pod in self.pods_ever if pod.ended_s is None]

    def _reconcile(self) -> None:
        live = [pod for pod in self._existing if not pod.is_leaving]
        for _ in range(len(live), self._replicas):
            self._create()
        # As a ReplicaSet does: pods that do not serve first, then the newest.
        live.sort(key=lambda pod: (pod.is_ready, -pod.stamps.created_s))
        for pod in live[: max(0, len(live) - self._replicas)]:
            pod.is_leaving = True
            if pod.program is None:
                pod.ended_s = time.time()
            else:
                with suppress(ProcessLookupError):
                    pod.program.send(signal.SIGTERM)

    def _create(self) -> LocalPod:
        now_s = time.time()
        pod = LocalPod(f"pod-{next(self._numbers)}", StartStamps(now_s, now_s), free_port())
        self.pods_ever.append(pod)
        return pod

    def _launch(self, pod: LocalPod) -> None:
        pod.program = self.stack.run(pod.name, "worker", METRICS_PORT=str(pod.port))
        pod.stamps = replace(pod.stamps, running_s=time.time())

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            with self._lock:
                due_s = time.time() - self.image_s
                for pod in self._existing:
                    if pod.program is None and pod.stamps.created_s <= due_s:
                        self._launch(pod)
            # A probe may take its time, and must not keep the autoscaler waiting.
            for pod in self._existing:
                self._look_after(pod)

    def _look_after(self, pod: LocalPod) -> None:
        if pod.program is None:
            return
        if not pod.program.alive:
            pod.ended_s = time.time()
            if not pod.is_leaving:
                self.failure = f"{pod.name} has ended: {pod.program.output()[-2000:]}"
        elif pod.stamps.ready_s is None and _answers(pod.port):
            pod.stamps = replace(pod.stamps, ready_s=time.time())


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=_PROBE_TIMEOUT_S):
            return True
    except (URLError, OSError):
        return False
