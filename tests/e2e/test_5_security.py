"""What pods may not do, and that other pods cannot reach Redis."""

import pytest
from tests.e2e.cluster import Cluster
from tests.e2e.commands import CommandError, Kubectl
from tests.e2e.release import Release
from tests.e2e.state import name_of

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"
PING = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as connection:
    connection.sendall(b"PING\\r\\n")
    print(connection.recv(100).decode())
"""


@pytest.fixture(params=["web", "model", "redis"])
def pod(request: pytest.FixtureRequest, release: Release) -> str:
    return name_of(release.pods(request.param)[0])


@pytest.fixture
def kubectl(cluster: Cluster) -> Kubectl:
    return cluster.kubectl


def test_a_pod_does_not_run_as_root(kubectl: Kubectl, pod: str) -> None:
    assert int(kubectl.exec(pod, "id", "-u")) != 0


def test_a_pod_cannot_write_to_its_root(kubectl: Kubectl, pod: str) -> None:
    with pytest.raises(CommandError, match="Read-only file system"):
        kubectl.exec(pod, "touch", "/written-by-e2e")


def test_a_pod_has_no_token_for_the_cluster(kubectl: Kubectl, pod: str) -> None:
    kubectl.exec(pod, "test", "!", "-e", TOKEN)


def test_redis_refuses_clients_without_the_password(kubectl: Kubectl, release: Release) -> None:
    web = name_of(release.pods("web")[0])
    host, port = release.service_address("redis").split(":")

    assert kubectl.exec(web, "python3", "-c", PING, host, port).startswith("-NOAUTH")


def test_redis_cannot_be_reached_from_other_pods(cluster: Cluster, release: Release) -> None:
    if not cluster.enforces_policies(release):
        pytest.skip("the network of this cluster does not enforce NetworkPolicies")
    found = cluster.reach(release, release.service_address("redis"), "open", 10)

    assert found.startswith("closed"), found
