"""The controllers behind a Deployment, as Kubernetes runs them: rollouts, pods, nodes.

Their rules are those of ``pkg/controller/deployment/rolling.go`` and ``sync.go``: what may be
scaled up or down in one pass of a rollout, which pods of a ReplicaSet go first, and how a change of
the replicas is spread over old and new. Each node has room for one pod.
"""

from dataclasses import dataclass, field
from itertools import count
from math import ceil, floor

from tests.kubernetes_api import KubernetesApi, Object

UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T12:00:45Z"}


@dataclass
class Set:
    """The ReplicaSet of one template."""

    number: int
    replicas: int = 0
    pods: list[str] = field(default_factory=list)
    """Oldest first."""


@dataclass
class DeploymentController:
    """One Deployment of an API with a number of nodes. ``run`` brings it to rest."""

    api: KubernetesApi
    name: str
    nodes: int
    max_surge: int | str = 0
    max_unavailable: int | str = 1
    labels: dict[str, str] = field(default_factory=lambda: {"app": "shapes"})
    unfit: int | None = None
    """Number of the template whose pods fit on no node; that of the first is 0."""
    _sets: list[Set] = field(default_factory=lambda: [Set(0)])
    _asked: int = 0
    _names: "count[int]" = field(default_factory=count)

    def __post_init__(self) -> None:
        rolling = {"maxSurge": self.max_surge, "maxUnavailable": self.max_unavailable}
        strategy = {"type": "RollingUpdate", "rollingUpdate": rolling}
        self.api.get("deployments", self.name)["spec"]["strategy"] = strategy

    # -- for tests ------------------------------------------------------------------------------

    def roll_out(self) -> None:
        """Change the template."""
        self._sets.append(Set(len(self._sets)))

    @property
    def rolled_out(self) -> bool:
        """Whether no pod of an older template is left."""
        return not any(each.pods for each in self._old)

    @property
    def ready(self) -> list[str]:
        return [pod for each in self._sets for pod in each.pods if self._is_ready(pod)]

    @property
    def pending(self) -> list[str]:
        return [p for each in self._sets for p in each.pods if not self._node_of(p)]

    def run(self) -> None:
        """Let all controllers work until nothing changes any more."""
        for _ in range(1000):
            before = self._state()
            self._sync()
            self._replace_pods()
            self._schedule()
            if self._state() == before:
                self._report()
                return
        raise AssertionError(f"the controllers come to no rest: {self._state()}")

    # -- the Deployment -------------------------------------------------------------------------

    @property
    def _new(self) -> Set:
        return self._sets[-1]

    @property
    def _old(self) -> list[Set]:
        return self._sets[:-1]

    @property
    def _total(self) -> int:
        return sum(each.replicas for each in self._sets)

    def _sync(self) -> None:
        replicas = self.api.replicas(self.name)
        if replicas != self._asked:
            self._asked = replicas
            self._scale(replicas)
        elif not self._scale_up_new(replicas):
            self._scale_down_old(replicas)

    def _scale(self, replicas: int) -> None:
        """Spread a change of the replicas over the sets, in proportion to their size."""
        active = [each for each in self._sets if each.replicas]
        if len(active) <= 1:
            (active or [self._new])[0].replicas = replicas
            return
        before = self._total
        add = replicas + self._surge(replicas) - before
        # The largest first; of the same size, the newer ones grow and the older ones shrink first.
        sign = -1 if add > 0 else 1
        left = add
        for each in sorted(active, key=lambda s: (-s.replicas, sign * s.number)):
            share = round(each.replicas * add / before)
            share = max(left, share) if add < 0 else min(left, share)
            each.replicas = max(0, each.replicas + share)
            left -= share
        largest = max(active, key=lambda s: s.replicas)
        largest.replicas = max(0, largest.replicas + left)

    def _scale_up_new(self, replicas: int) -> bool:
        room = replicas + self._surge(replicas) - self._total
        more = min(room, replicas - self._new.replicas)
        if more > 0:
            self._new.replicas += more
        return more > 0

    def _scale_down_old(self, replicas: int) -> None:
        least = replicas - (self._unavailable(replicas) or int(not self._surge(replicas)))
        new_unavailable = self._new.replicas - len(self._available(self._new))
        may_go = self._total - least - new_unavailable
        for each in self._old:
            unavailable = each.replicas - len(self._available(each))
            gone = max(0, min(unavailable, may_go))
            each.replicas -= gone
            may_go -= gone
        available = sum(len(self._available(each)) for each in self._sets)
        for each in self._old:
            gone = max(0, min(each.replicas, available - least, may_go))
            each.replicas -= gone
            available -= gone
            may_go -= gone

    def _surge(self, replicas: int) -> int:
        return ceil(_resolved(self.max_surge, replicas))

    def _unavailable(self, replicas: int) -> int:
        return floor(_resolved(self.max_unavailable, replicas))

    def _available(self, found: Set) -> list[str]:
        return [pod for pod in found.pods if self._is_ready(pod)]

    # -- ReplicaSets, scheduler, kubelet --------------------------------------------------------

    def _replace_pods(self) -> None:
        for each in self._sets:
            while len(each.pods) > each.replicas:
                # Without a node first, then not ready, then the newest.
                goes = min(
                    reversed(each.pods), key=lambda p: (bool(self._node_of(p)), self._is_ready(p))
                )
                each.pods.remove(goes)
                self.api.remove("pods", goes)
            while len(each.pods) < each.replicas:
                name = f"{self.name}-{each.number}-{next(self._names)}"
                self.api.add_pod(name, **self.labels)["spec"] = {}
                each.pods.append(name)

    def _schedule(self) -> None:
        pods = [pod for each in self._sets for pod in each.pods]
        unfit = [pod for each in self._sets if each.number == self.unfit for pod in each.pods]
        free = self.nodes - sum(bool(self._node_of(pod)) for pod in pods)
        for pod in pods:
            found = self.api.get("pods", pod)
            if self._node_of(pod):
                found["status"]["conditions"] = [READY]
            elif free > 0 and pod not in unfit:
                free -= 1
                found["spec"]["nodeName"] = "node"
                found["status"]["conditions"] = []
            else:
                found["status"]["conditions"] = [UNSCHEDULABLE]

    def _node_of(self, pod: str) -> str:
        return str(self.api.get("pods", pod)["spec"].get("nodeName", ""))

    def _is_ready(self, pod: str) -> bool:
        return READY in self.api.get("pods", pod)["status"]["conditions"]

    # -- state ----------------------------------------------------------------------------------

    def _state(self) -> list[tuple[int, tuple[str, ...], int]]:
        return [(s.replicas, tuple(s.pods), len(self._available(s))) for s in self._sets]

    def _report(self) -> None:
        status: Object = {
            "replicas": sum(len(each.pods) for each in self._sets),
            "updatedReplicas": len(self._new.pods),
            "readyReplicas": len(self.ready),
        }
        self.api.set_status(self.name, status)


def _resolved(number: int | str, replicas: int) -> float:
    return number if isinstance(number, int) else replicas * int(number.rstrip("%")) / 100
