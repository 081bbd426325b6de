"""Reading rendered objects: which pods they would start, what selects what."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.chart.helm import Object

Labels = Mapping[str, str]

#: Where each kind keeps its pod template.
_TEMPLATES = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    "Pod": (),
}


@dataclass(frozen=True)
class PodTemplate:
    """The pods of one object."""

    owner: Object
    labels: Labels
    spec: Object

    def __str__(self) -> str:
        return title(self.owner)

    @property
    def containers(self) -> list[Object]:
        """All its containers, those that run at the start first."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def is_hook(self) -> bool:
        return "helm.sh/hook" in annotations(self.owner)

    @property
    def serves(self) -> bool:
        """Whether its pods run until they are stopped, unlike those of a Job."""
        return self.owner["kind"] not in ("Job", "CronJob", "Pod")


def pod_templates(objects: Iterable[Object]) -> list[PodTemplate]:
    return [_pod_template(each) for each in objects if each["kind"] in _TEMPLATES]


def _pod_template(owner: Object) -> PodTemplate:
    template = owner
    for key in _TEMPLATES[owner["kind"]]:
        template = template[key]
    return PodTemplate(owner, template.get("metadata", {}).get("labels", {}), template["spec"])


def title(obj: Object) -> str:
    return f"{obj['kind']}/{obj['metadata']['name']}"


def annotations(obj: Object) -> Mapping[str, str]:
    return obj["metadata"].get("annotations") or {}


def of_kind(objects: Iterable[Object], *kinds: str) -> list[Object]:
    return [each for each in objects if each["kind"] in kinds]


def the(objects: Iterable[Object], kind: str, name: str) -> Object:
    return next(o for o in of_kind(objects, kind) if o["metadata"]["name"] == name)


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a label selector matches; the empty one matches everything."""
    required = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    return all(labels.get(k) == v for k, v in required.items()) and all(
        _holds(each, labels) for each in expressions
    )


def _holds(expression: Mapping[str, Any], labels: Labels) -> bool:
    has = expression["key"] in labels
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return has and value in expression["values"]
        case "NotIn":  # codespell:ignore notin
            return not has or value not in expression["values"]
        case "Exists":
            return has
        case _:
            return not has


def named_ports(container: Object) -> dict[str, int]:
    ports = container.get("ports", [])
    return {each["name"]: each["containerPort"] for each in ports if "name" in each}


def walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield this value and every value below it, each with its path."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, (*path, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from walk(inner, (*path, str(index)))
