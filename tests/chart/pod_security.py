"""The Pod Security standard "restricted" of Kubernetes, as far as it can be read off a pod.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from collections.abc import Iterator
from typing import Any

from tests.chart.helm import Object

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
}
_SELINUX_TYPES = {
    None,
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
}
_PROFILES = {"RuntimeDefault", "Localhost"}


def violations(spec: Object) -> list[str]:
    """Return the parts of a pod's spec that the standard forbids."""
    return [*_of_pod(spec), *(v for c in _containers(spec) for v in _of_container(c, spec))]


def _containers(spec: Object) -> list[Object]:
    kinds = ("initContainers", "containers", "ephemeralContainers")
    return [container for kind in kinds for container in spec.get(kind, [])]


def _of_pod(spec: Object) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield f"{key} is on"
    for volume in spec.get("volumes", []):
        for kind in volume.keys() - _VOLUMES - {"name"}:
            yield f"volume {volume['name']} is a {kind}"
    context = spec.get("securityContext", {})
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    yield from _of_both(context, "the pod")


def _of_container(container: Object, spec: Object) -> Iterator[str]:
    name, own = container["name"], container.get("securityContext", {})
    yield from _of_both(own, name)
    yield from _of_privileges(own, name)
    # A container's own setting stands before the pod's.
    both = {**spec.get("securityContext", {}), **own}
    if both.get("runAsNonRoot") is not True:
        yield f"{name}: runAsNonRoot is not true"
    if both.get("seccompProfile", {}).get("type") not in _PROFILES:
        yield f"{name}: no seccomp profile"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{name}: a port of the host"
    if any(action.get("host") for action in _http_actions(container)):
        yield f"{name}: a probe or hook names a host"


def _of_both(context: dict[str, Any], name: str) -> Iterator[str]:
    """Find settings that are forbidden for pods and containers alike."""
    if context.get("runAsUser") == 0:
        yield f"{name}: runs as uid 0"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{name}: is a process of the host"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in _PROFILES:
        yield f"{name}: AppArmor is off"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type") not in _SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield f"{name}: SELinux options"


def _of_privileges(context: dict[str, Any], name: str) -> Iterator[str]:
    if context.get("privileged"):
        yield f"{name}: is privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation is not false"
    if context.get("procMount", "Default") != "Default":
        yield f"{name}: procMount"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"{name}: does not drop ALL capabilities"
    for added in set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{name}: adds capability {added}"


def _http_actions(container: Object) -> Iterator[dict[str, Any]]:
    hooks = container.get("lifecycle", {})
    probes = [container.get(f"{kind}Probe", {}) for kind in ("startup", "readiness", "liveness")]
    for action in [*probes, hooks.get("preStop", {}), hooks.get("postStart", {})]:
        yield from (action[kind] for kind in ("httpGet", "tcpSocket") if kind in action)
