"""What NetworkPolicies let through, decided as a cluster that enforces them would.

https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from tests.chart.helm import Object
from tests.chart.objects import Labels, PodTemplate, named_ports, of_kind, selects

_NAMESPACE_NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Peer:
    """One end of a connection: a pod, or with no namespace a machine outside the cluster."""

    ip: str
    namespace: str | None = None
    labels: Labels = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def namespace_labels(self) -> Labels:
        return {_NAMESPACE_NAME: self.namespace or ""}


def pod_peer(pod: PodTemplate, namespace: str) -> Peer:
    ports = {name: port for c in pod.containers for name, port in named_ports(c).items()}
    return Peer("10.42.0.7", namespace, pod.labels, ports)


@dataclass(frozen=True)
class Flow:
    """A connection that a pod or machine tries to open."""

    source: Peer
    target: Peer
    port: int
    protocol: str = "TCP"


def allowed(objects: Iterable[Object], namespace: str, flow: Flow) -> bool:
    """Whether a namespace's policies let a connection out of its source and into its target."""
    policies = [each["spec"] for each in of_kind(objects, "NetworkPolicy")]
    return _passes(policies, namespace, flow, "Egress") and _passes(
        policies, namespace, flow, "Ingress"
    )


def _passes(policies: list[Object], namespace: str, flow: Flow, direction: str) -> bool:
    end = flow.source if direction == "Egress" else flow.target
    here = [
        policy
        for policy in policies
        if end.namespace == namespace
        and selects(policy.get("podSelector", {}), end.labels)
        and direction in _directions(policy)
    ]
    if not here:
        return True
    rules = [rule for policy in here for rule in policy.get(direction.lower()) or []]
    return any(_rule_matches(rule, namespace, flow, direction) for rule in rules)


def _directions(policy: Object) -> list[str]:
    given: list[str] = policy.get("policyTypes", [])
    return given or ["Ingress", *(["Egress"] if policy.get("egress") else [])]


def _rule_matches(rule: Object, namespace: str, flow: Flow, direction: str) -> bool:
    other, key = (flow.target, "to") if direction == "Egress" else (flow.source, "from")
    peers, ports = rule.get(key) or [], rule.get("ports") or []
    # No peers are all peers, no ports all ports.
    return (not peers or any(_is_peer(each, namespace, other) for each in peers)) and (
        not ports or any(_is_port(each, flow) for each in ports)
    )


def _is_peer(rule: Mapping[str, Any], namespace: str, peer: Peer) -> bool:
    if "ipBlock" in rule:
        return _in_block(rule["ipBlock"], peer.ip)
    if peer.namespace is None:
        return False
    if "namespaceSelector" in rule:
        in_namespace = selects(rule["namespaceSelector"], peer.namespace_labels)
    else:
        in_namespace = peer.namespace == namespace
    return in_namespace and selects(rule.get("podSelector", {}), peer.labels)


def _in_block(block: Mapping[str, Any], ip: str) -> bool:
    address = ip_address(ip)
    return address in ip_network(block["cidr"]) and not any(
        address in ip_network(each) for each in block.get("except", [])
    )


def _is_port(rule: Mapping[str, Any], flow: Flow) -> bool:
    if rule.get("protocol", "TCP") != flow.protocol:
        return False
    port = rule.get("port")
    if port is None:
        return True
    if isinstance(port, str):
        return flow.target.ports.get(port) == flow.port
    return bool(port <= flow.port <= rule.get("endPort", port))
