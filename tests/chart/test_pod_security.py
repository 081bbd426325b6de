"""The checker of the Pod Security standard, on pods it must let pass and pods it must not."""

from copy import deepcopy
from typing import Any

import pytest
from tests.chart.pod_security import violations

GOOD: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "volumes": [{"name": "tmp", "emptyDir": {}}],
    "containers": [
        {
            "name": "web",
            "ports": [{"containerPort": 8000}],
            "readinessProbe": {"httpGet": {"port": 8000}},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good pod with one thing changed; None takes it away."""
    pod = deepcopy(GOOD)
    *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place: Any = pod
    for key in way:
        place = place[key] if isinstance(key, int) else place.setdefault(key, {})
    place[last] = value
    if value is None:
        del place[last]
    return pod


def test_a_restricted_pod_passes() -> None:
    assert violations(GOOD) == []


OWN = "containers.0.securityContext"
ALLOWED = [
    pytest.param(f"{OWN}.runAsNonRoot", True, id="non-root twice"),
    pytest.param(f"{OWN}.runAsUser", 999, id="a uid"),
    pytest.param(f"{OWN}.capabilities.add", ["NET_BIND_SERVICE"], id="low ports"),
    pytest.param("securityContext.appArmorProfile", {"type": "Localhost"}, id="own AppArmor"),
    pytest.param("volumes.0", {"name": "s", "secret": {"secretName": "s"}}, id="secret volume"),
]


@pytest.mark.parametrize(("path", "value"), ALLOWED)
def test_what_the_standard_allows_passes(path: str, value: Any) -> None:
    assert violations(changed(path, value)) == []


FORBIDDEN = [
    pytest.param("hostNetwork", True, "hostNetwork"),
    pytest.param("hostPID", True, "hostPID"),
    pytest.param("hostIPC", True, "hostIPC"),
    pytest.param("volumes.0", {"name": "v", "hostPath": {"path": "/"}}, "hostPath"),
    pytest.param("volumes.0", {"name": "v", "nfs": {"server": "s"}}, "nfs"),
    pytest.param("securityContext.runAsNonRoot", None, "runAsNonRoot"),
    pytest.param(f"{OWN}.runAsNonRoot", False, "runAsNonRoot"),
    pytest.param("securityContext.runAsUser", 0, "uid 0"),
    pytest.param(f"{OWN}.runAsUser", 0, "uid 0"),
    pytest.param("securityContext.seccompProfile", None, "seccomp"),
    pytest.param(f"{OWN}.seccompProfile", {"type": "Unconfined"}, "seccomp"),
    pytest.param("securityContext.appArmorProfile", {"type": "Unconfined"}, "AppArmor"),
    pytest.param("securityContext.seLinuxOptions", {"type": "spc_t"}, "SELinux"),
    pytest.param("securityContext.seLinuxOptions", {"user": "root"}, "SELinux"),
    pytest.param("securityContext.sysctls", [{"name": "kernel.msgmax"}], "sysctl"),
    pytest.param("securityContext.windowsOptions", {"hostProcess": True}, "process of the host"),
    pytest.param(f"{OWN}.privileged", True, "privileged"),
    pytest.param(f"{OWN}.allowPrivilegeEscalation", None, "allowPrivilegeEscalation"),
    pytest.param(f"{OWN}.procMount", "Unmasked", "procMount"),
    pytest.param(f"{OWN}.capabilities", None, "drop ALL"),
    pytest.param(f"{OWN}.capabilities.drop", ["NET_RAW"], "drop ALL"),
    pytest.param(f"{OWN}.capabilities.add", ["SYS_ADMIN"], "SYS_ADMIN"),
    pytest.param("containers.0.ports.0.hostPort", 80, "port of the host"),
    pytest.param("containers.0.readinessProbe.httpGet.host", "10.0.0.1", "names a host"),
    pytest.param("initContainers", [{"name": "early"}], "early: does not drop ALL"),
]


@pytest.mark.parametrize(("path", "value", "said"), FORBIDDEN)
def test_what_the_standard_forbids_is_found(path: str, value: Any, said: str) -> None:
    found = violations(changed(path, value))

    assert any(said in each for each in found), found
