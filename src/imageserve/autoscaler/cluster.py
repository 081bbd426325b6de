"""What the autoscaler asks of a cluster: the interface, and the values that cross it.

``KubernetesCluster`` fulfils it. Every call ends within its timeout, and raises a ClusterError
where it did not do what was asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

PAUSED = "imageserve.dev/autoscaler-paused"
PAUSED_REPLICAS = "imageserve.dev/paused-replicas"


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model's Deployment as it was read."""

    name: str
    uid: str
    version: str
    """Its resourceVersion: a write that names it is refused once anything has changed."""
    replicas: int
    """What it asks for."""
    ready: int
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a Deployment. Times are seconds since the epoch, by the cluster's clock."""

    name: str
    uid: str
    created_s: float
    ready_s: float | None
    """When it became ready; None where it is not, or where that was not the first time."""
    unschedulable: bool
    """The scheduler has found no node for it."""
    deletion_cost: int
    """Of two pods alike otherwise, the one with the lower cost goes first; 0 where none is set."""


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What a Lease says. Only its holder writes it while it is held."""

    version: str
    """Its resourceVersion; "" in one that is to be written."""
    holder: str = ""
    duration_s: int | None = None
    """How long others wait after the last renewal they saw; None in a Lease never held."""
    acquired: str | None = None
    renewed: str | None = None
    transitions: int = 0


class Cluster(Protocol):
    """The Kubernetes API, as far as the autoscaler needs it."""

    def deployment(self, name: str) -> Deployment:
        """Read a Deployment."""

    def scale(self, name: str) -> int:
        """Read what a Deployment asks for, through its scale subresource."""

    def set_replicas(self, deployment: Deployment, replicas: int, *, dry_run: bool = False) -> None:
        """Ask for so many pods; refused with ClusterConflict where it changed since it was read.

        ``dry_run``: the API checks everything and changes nothing.
        """

    def pods(self, selector: str) -> Sequence[Pod]:
        """List the pods with these labels that are not about to end."""

    def set_deletion_cost(self, pod: str, cost: int) -> None:
        """Say how much a pod's end would cost."""

    def event(self, about: Deployment, reason: str, message: str, *, warning: bool) -> None:
        """Write an event that ``kubectl describe deployment`` shows."""

    def lease(self, name: str) -> LeaseRecord:
        """Read a Lease."""

    def write_lease(self, name: str, record: LeaseRecord, version: str) -> LeaseRecord:
        """Write a Lease; refused with ClusterConflict where it is no longer at ``version``."""
