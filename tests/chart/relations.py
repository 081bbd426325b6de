"""Rules between the objects of one release. Each function returns the violations."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from tests.chart.helm import Object
from tests.chart.objects import (
    PodTemplate,
    named_ports,
    of_kind,
    pod_templates,
    selects,
    title,
    walk,
)


def selector_problems(objects: list[Object]) -> list[str]:
    """Find workloads that do not select their own pods, or select those of others."""
    pods = pod_templates(objects)
    return [
        f"{title(owner)} selects {', '.join(found) or 'no pods'}"
        for owner in of_kind(objects, "Deployment", "StatefulSet", "DaemonSet")
        if (found := _selected(owner["spec"]["selector"], pods)) != [title(owner)]
    ]


def _selected(selector: Object, pods: Iterable[PodTemplate]) -> list[str]:
    return [str(pod) for pod in pods if selects(selector, pod.labels)]


def service_problems(objects: list[Object]) -> list[str]:
    """Find services without pods, with pods of two workloads, or with ports that pods lack."""
    return [p for each in of_kind(objects, "Service") for p in _of_service(each, objects)]


def _of_service(service: Object, objects: list[Object]) -> Iterator[str]:
    pods = _pods_behind(service, objects)
    if len(pods) != 1:
        yield f"{title(service)} selects {', '.join(map(str, pods)) or 'no pods'}"
    for port in service["spec"]["ports"]:
        target = port.get("targetPort", port["port"])
        for pod in pods:
            if not any(_has_port(c, target) for c in pod.spec["containers"]):
                yield f"{title(service)}: {pod} has no port {target}"


def _pods_behind(service: Object, objects: list[Object]) -> list[PodTemplate]:
    labels = {"matchLabels": service["spec"]["selector"]}
    return [pod for pod in pod_templates(objects) if selects(labels, pod.labels)]


def _has_port(container: Object, port: str | int) -> bool:
    named = named_ports(container)
    numbers = [each["containerPort"] for each in container.get("ports", [])]
    return port in named if isinstance(port, str) else port in numbers


def probe_problems(objects: list[Object]) -> list[str]:
    """Find probes and hooks on a port that their container does not have."""
    return [
        f"{pod}: {container['name']} has no port {port}"
        for pod in pod_templates(objects)
        for container in pod.containers
        for port in _asked_ports(container)
        if not _has_port(container, port)
    ]


def _asked_ports(container: Object) -> Iterator[str | int]:
    for path, value in walk(container):
        if path and path[-1] in ("httpGet", "tcpSocket", "grpc"):
            yield value["port"]


def reference_problems(objects: list[Object], outside: Collection[str] = ()) -> list[str]:
    """Find references to names that are neither in the release nor in ``outside``.

    ``outside`` lists what the user has made: "Secret/name" or, for one of its keys,
    "Secret/name:key".
    """
    known = set(outside) | set(_known(objects))
    return [f"{where} names {name}" for where, name in _references(objects) if name not in known]


def _known(objects: Iterable[Object]) -> Iterator[str]:
    for each in objects:
        yield title(each)
        for part in ("data", "stringData", "binaryData"):
            yield from (f"{title(each)}:{key}" for key in each.get(part) or {})
        if each["kind"] == "Service":
            for port in each["spec"]["ports"]:
                yield f"{title(each)}:{port['port']}"
                yield f"{title(each)}:{port.get('name')}"


def _references(objects: Iterable[Object]) -> Iterator[tuple[str, str]]:
    for each in objects:
        for name in (*_references_of(each), *_references_of_scaling(each)):
            yield title(each), name
    for pod in pod_templates(objects):
        for name in _references_of_pod(pod):
            yield str(pod), name


def _references_of(obj: Object) -> Iterator[str]:
    for path, value in walk(obj):
        last = path[-1] if path else ""
        if last == "service" and isinstance(value, dict) and obj["kind"] == "Ingress":
            port = value["port"]
            yield f"Service/{value['name']}:{port.get('name', port.get('number'))}"
        if (
            obj["kind"] in ("HTTPRoute", "GRPCRoute")
            and len(path) > 1
            and path[-2] == "backendRefs"
        ):
            yield f"Service/{value['name']}:{value['port']}"
        if obj["kind"] == "Ingress" and last == "secretName":
            yield f"Secret/{value}"


def _references_of_scaling(obj: Object) -> Iterator[str]:
    """Yield the names in a role's binding and in KEDA's objects."""
    if obj["kind"] == "RoleBinding":
        yield f"Role/{obj['roleRef']['name']}"
        yield from (f"ServiceAccount/{each['name']}" for each in obj["subjects"])
    elif obj["kind"] == "TriggerAuthentication":
        secrets = obj["spec"]["secretTargetRef"]
        yield from (f"Secret/{each['name']}:{each['key']}" for each in secrets)
    elif obj["kind"] == "ScaledObject":
        for trigger in obj["spec"]["triggers"]:
            if "authenticationRef" in trigger:
                yield f"TriggerAuthentication/{trigger['authenticationRef']['name']}"


def _references_of_pod(pod: PodTemplate) -> Iterator[str]:
    account = pod.spec.get("serviceAccountName")
    if account is not None:
        yield f"ServiceAccount/{account}"
    for container in pod.containers:
        yield from _references_of_env(container)
    for volume in pod.spec.get("volumes", []):
        yield from _references_of_volume(volume)


def _references_of_env(container: Object) -> Iterator[str]:
    for variable in container.get("env", []):
        source = variable.get("valueFrom", {})
        for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
            if key in source:
                yield f"{kind}/{source[key]['name']}:{source[key]['key']}"
    for source in container.get("envFrom", []):
        for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if key in source:
                yield f"{kind}/{source[key]['name']}"


def _references_of_volume(volume: Object) -> Iterator[str]:
    for source in [volume, *volume.get("projected", {}).get("sources", [])]:
        if "secret" in source:
            yield from _with_items("Secret", source["secret"], "secretName")
        if "configMap" in source:
            yield from _with_items("ConfigMap", source["configMap"], "name")
    if "persistentVolumeClaim" in volume:
        yield f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}"


def _with_items(kind: str, source: Object, name_key: str) -> Iterator[str]:
    name = source.get(name_key) or source["name"]
    yield f"{kind}/{name}"
    for item in source.get("items", []):
        yield f"{kind}/{name}:{item['key']}"


def duplicate_problems(objects: list[Object]) -> list[str]:
    """Find duplicates of objects, variables, ports, volumes and mounts."""
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    return [
        *(f"{kind}/{name} twice" for kind, name in _twice(names)),
        *(f"{pod}: {each}" for pod in pod_templates(objects) for each in _twice_in_pod(pod)),
    ]


def _twice(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _twice_in_pod(pod: PodTemplate) -> Iterator[str]:
    yield from _said("container", (c["name"] for c in pod.containers))
    yield from _said("volume", (v["name"] for v in pod.spec.get("volumes", [])))
    ports = [p for c in pod.spec["containers"] for p in c.get("ports", [])]
    yield from _said("port name", (p["name"] for p in ports if "name" in p))
    yield from _said("port", ((p["containerPort"], p.get("protocol", "TCP")) for p in ports))
    for container in pod.containers:
        yield from _said("variable", (e["name"] for e in container.get("env", [])))
        yield from _said("mount path", (m["mountPath"] for m in container.get("volumeMounts", [])))


def _said(what: str, values: Iterable[Any]) -> list[str]:
    return [f"{what} {value} twice" for value in _twice(values)]


def mount_problems(objects: list[Object]) -> list[str]:
    """Find mounts without a volume, and volumes that nothing mounts."""
    return [f"{pod}: {problem}" for pod in pod_templates(objects) for problem in _mounts_of(pod)]


def _mounts_of(pod: PodTemplate) -> Iterator[str]:
    volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
    if pod.owner["kind"] == "StatefulSet":
        claims = pod.owner["spec"].get("volumeClaimTemplates", [])
        volumes |= {claim["metadata"]["name"] for claim in claims}
    mounted = {m["name"] for c in pod.containers for m in c.get("volumeMounts", [])}
    yield from (f"mounts {name}, which is no volume" for name in sorted(mounted - volumes))
    yield from (f"does not mount its volume {name}" for name in sorted(volumes - mounted))


def monitor_problems(objects: list[Object]) -> list[str]:
    """Find monitors that watch nothing, or a port that does not exist."""
    return [*_service_monitor_problems(objects), *_pod_monitor_problems(objects)]


def _service_monitor_problems(objects: list[Object]) -> Iterator[str]:
    for monitor in of_kind(objects, "ServiceMonitor"):
        watched = [
            service
            for service in of_kind(objects, "Service")
            if selects(monitor["spec"]["selector"], service["metadata"]["labels"])
        ]
        ports = [{port.get("name") for port in service["spec"]["ports"]} for service in watched]
        yield from _unwatched(monitor, "endpoints", ports)


def _pod_monitor_problems(objects: list[Object]) -> Iterator[str]:
    for monitor in of_kind(objects, "PodMonitor"):
        watched = [
            pod
            for pod in pod_templates(objects)
            if selects(monitor["spec"]["selector"], pod.labels)
        ]
        ports = [{name for c in pod.containers for name in named_ports(c)} for pod in watched]
        yield from _unwatched(monitor, "podMetricsEndpoints", ports)


def _unwatched(monitor: Object, key: str, ports: list[Any]) -> Iterator[str]:
    if not ports:
        yield f"{title(monitor)} selects nothing"
    for endpoint in monitor["spec"][key]:
        if not all(endpoint["port"] in each for each in ports):
            yield f"{title(monitor)}: something it selects has no port {endpoint['port']}"


def disruption_problems(objects: list[Object]) -> list[str]:
    """Find budgets that protect nothing, or that block every drain of a node."""
    pods = [pod for pod in pod_templates(objects) if pod.serves]
    problems = []
    for budget in of_kind(objects, "PodDisruptionBudget"):
        found = [pod for pod in pods if selects(budget["spec"]["selector"], pod.labels)]
        if len(found) != 1:
            problems.append(f"{title(budget)} protects {', '.join(map(str, found)) or 'nothing'}")
        problems += [
            f"{title(budget)} lets no pod of {pod} go" for pod in found if _is_stuck(budget, pod)
        ]
    return problems


def _is_stuck(budget: Object, pod: PodTemplate) -> bool:
    spec = budget["spec"]
    at_least = spec.get("minAvailable")
    if at_least is None:
        return spec.get("maxUnavailable") in (0, "0%")
    replicas = pod.owner["spec"].get("replicas")
    return at_least == "100%" or (
        isinstance(at_least, int) and replicas is not None and at_least >= replicas
    )


def autoscaler_problems(objects: list[Object]) -> list[str]:
    """Find autoscalers without a target, or whose target also sets replicas.

    Helm 4 applies on the server: with ``replicas`` in the template, the next upgrade is a conflict.
    """
    problems = []
    for hpa in of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        ref = hpa["spec"]["scaleTargetRef"]
        targets = [o for o in of_kind(objects, ref["kind"]) if _is_named(o, ref["name"])]
        if not targets:
            problems.append(f"{title(hpa)} has no target {ref['kind']}/{ref['name']}")
        problems += [
            f"{title(t)} has replicas and an HPA" for t in targets if "replicas" in t["spec"]
        ]
        problems += [
            f"{title(t)}: {name} requests no {name_of}"
            for t in targets
            for name, name_of in _unrequested(hpa, t)
        ]
    return problems


def _is_named(obj: Object, name: str) -> bool:
    return bool(obj["metadata"]["name"] == name)


def _unrequested(hpa: Object, target: Object) -> Iterator[tuple[str, str]]:
    """Find containers without the resource request that a utilisation refers to."""
    for metric in hpa["spec"].get("metrics", []):
        if metric["type"] == "Resource" and metric["resource"]["target"]["type"] == "Utilization":
            name = metric["resource"]["name"]
            for container in target["spec"]["template"]["spec"]["containers"]:
                if name not in container.get("resources", {}).get("requests", {}):
                    yield container["name"], name


def overlap_problems(one: list[Object], other: list[Object]) -> list[str]:
    """Find names that two releases share, and selectors of one that catch pods of the other."""
    names = {title(each) for each in one} & {title(each) for each in other}
    pods = pod_templates(other)
    services = of_kind(other, "Service")
    caught = []
    for each in one:
        found = [
            str(pod)
            for selector in _selectors(each)
            for pod in pods
            if selects(selector, pod.labels)
        ]
        if each["kind"] == "ServiceMonitor":
            selector = each["spec"]["selector"]
            found = [title(s) for s in services if selects(selector, s["metadata"]["labels"])]
        caught += [f"{title(each)} selects {name} of the other release" for name in found]
    return [*(f"both have {name}" for name in sorted(names)), *caught]


def _selectors(obj: Object) -> Iterator[Object]:
    """Yield every selector of pods in an object, except those for other namespaces."""
    spec = obj.get("spec", {})
    if obj["kind"] == "Service":
        yield {"matchLabels": spec["selector"]}
    elif obj["kind"] != "ServiceMonitor" and "selector" in spec:
        yield spec["selector"]
    for _, value in walk(spec):
        if isinstance(value, dict) and "namespaceSelector" not in value:
            yield from (value[key] for key in ("podSelector", "labelSelector") if key in value)


#: Every kind that the chart may render; all of them live in a namespace.
NAMESPACED = {
    "ConfigMap",
    "Deployment",
    "GRPCRoute",
    "HTTPRoute",
    "HorizontalPodAutoscaler",
    "Ingress",
    "Job",
    "Lease",
    "NetworkPolicy",
    "PersistentVolumeClaim",
    "Pod",
    "PodDisruptionBudget",
    "PodMonitor",
    "PrometheusRule",
    "Role",
    "RoleBinding",
    "ScaledObject",
    "Secret",
    "Service",
    "ServiceAccount",
    "ServiceMonitor",
    "StatefulSet",
    "TriggerAuthentication",
}


def cluster_scope_problems(objects: list[Object]) -> list[str]:
    """Find objects that need rights on the whole cluster, or live in another namespace."""
    return [title(each) for each in objects if each["kind"] not in NAMESPACED]
