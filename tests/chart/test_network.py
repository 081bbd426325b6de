"""The evaluator of NetworkPolicies, on the rules that its readers get wrong most often."""

from typing import Any

import pytest
from tests.chart.network import Flow, Peer, allowed

NS = "shop"
WEB = Peer("10.1.0.1", NS, {"app": "web"}, {"http": 8000})
REDIS = Peer("10.1.0.2", NS, {"app": "redis"}, {"redis": 6379})
OTHER_NAMESPACE = Peer("10.1.0.3", "other", {"app": "web"})
OUTSIDE = Peer("203.0.113.9")


def policy(target: str | None, **spec: Any) -> dict[str, Any]:
    selector = {"matchLabels": {"app": target}} if target else {}
    return {"kind": "NetworkPolicy", "spec": {"podSelector": selector, **spec}}


def from_app(app: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"app": app}}}


DENY = policy(None, policyTypes=["Ingress", "Egress"])
FROM_WEB = policy("redis", ingress=[{"from": [from_app("web")], "ports": [{"port": "redis"}]}])
TO_REDIS = policy(
    "web", policyTypes=["Egress"], egress=[{"to": [from_app("redis")], "ports": [{"port": 6379}]}]
)
NAMESPACE_OTHER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}}
WEB_TO_REDIS = Flow(WEB, REDIS, 6379)

CASES = [
    pytest.param([], WEB_TO_REDIS, True, id="no policy lets everything through"),
    pytest.param([DENY], WEB_TO_REDIS, False, id="default deny"),
    pytest.param([DENY, FROM_WEB], WEB_TO_REDIS, False, id="one end alone is not enough"),
    pytest.param([DENY, FROM_WEB, TO_REDIS], WEB_TO_REDIS, True, id="both ends agree"),
    pytest.param([FROM_WEB], WEB_TO_REDIS, True, id="a named port of the target"),
    pytest.param([FROM_WEB], Flow(WEB, REDIS, 6380), False, id="another port"),
    pytest.param([FROM_WEB], Flow(WEB, REDIS, 6379, "UDP"), False, id="another protocol"),
    pytest.param([FROM_WEB], Flow(OTHER_NAMESPACE, REDIS, 6379), False, id="same labels elsewhere"),
    pytest.param([FROM_WEB], Flow(OUTSIDE, REDIS, 6379), False, id="not from outside"),
    pytest.param([FROM_WEB], Flow(REDIS, WEB, 8000), True, id="others are untouched"),
    pytest.param(
        [policy("redis", ingress=[{}])], Flow(OUTSIDE, REDIS, 1), True, id="an empty rule is all"
    ),
    pytest.param([policy("redis", ingress=[])], WEB_TO_REDIS, False, id="no rule is none"),
    pytest.param(
        [policy("redis", ingress=[{"from": [NAMESPACE_OTHER]}])],
        Flow(OTHER_NAMESPACE, REDIS, 6379),
        True,
        id="a namespace by its name",
    ),
    pytest.param(
        [policy("redis", ingress=[{"from": [{**NAMESPACE_OTHER, **from_app("web")}]}])],
        WEB_TO_REDIS,
        False,
        id="namespace and pod in one entry are both needed",
    ),
    pytest.param(
        [policy("redis", ingress=[{"from": [NAMESPACE_OTHER, from_app("web")]}])],
        WEB_TO_REDIS,
        True,
        id="in two entries either is enough",
    ),
    pytest.param(
        [policy("web", egress=[{"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}])],
        Flow(WEB, OUTSIDE, 443),
        True,
        id="an address block",
    ),
    pytest.param(
        [
            policy(
                "web",
                egress=[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["203.0.113.0/24"]}}]}],
            )
        ],
        Flow(WEB, OUTSIDE, 443),
        False,
        id="an exception of an address block",
    ),
    pytest.param(
        [policy("web", egress=[{"ports": [{"port": 1000, "endPort": 2000}]}])],
        Flow(WEB, OUTSIDE, 1500),
        True,
        id="a range of ports",
    ),
    pytest.param(
        [policy("web", egress=[])], Flow(WEB, OUTSIDE, 1), True, id="no type is ingress alone"
    ),
]


@pytest.mark.parametrize(("policies", "flow", "expected"), CASES)
def test_a_connection_is_decided_as_a_cluster_would(
    policies: list[dict[str, Any]], flow: Flow, expected: bool
) -> None:
    assert allowed(policies, NS, flow) is expected
