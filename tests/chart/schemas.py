"""Whether a cluster would take an object: strict schemas, for one version of Kubernetes.

Kinds of Kubernetes itself come from the package kubernetes-validate, which holds every version's.
The kinds that the chart can render for other people's controllers are in ``schemas``.
"""

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from kubernetes_validate import utils
from tests.chart.helm import Object
from tests.chart.objects import title

SCHEMAS = Path(__file__).parent / "schemas"
NEWEST = kubernetes_validate.latest_version()
_CUSTOM = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): "servicemonitor",
    ("monitoring.coreos.com/v1", "PodMonitor"): "podmonitor",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "prometheusrule",
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): "httproute",
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): "grpcroute",
    ("keda.sh/v1alpha1", "ScaledObject"): "scaledobject",
    ("keda.sh/v1alpha1", "TriggerAuthentication"): "triggerauthentication",
}


def schema_problems(obj: Object, kube_version: str) -> list[str]:
    """Return the parts of an object that a cluster of this version refuses."""
    return [f"{title(obj)}: {each}" for each in _problems(json.dumps(obj), kube_version)]


# Most objects are the same in many situations.
@functools.cache
def _problems(content: str, kube_version: str) -> list[str]:
    obj = json.loads(content)
    custom = _CUSTOM.get((obj["apiVersion"], obj["kind"]))
    return _built_in(obj, kube_version) if custom is None else _by_schema(obj, custom)


def _built_in(obj: Object, kube_version: str) -> list[str]:
    try:
        kubernetes_validate.validate(obj, kube_version, strict=True)
    except kubernetes_validate.SchemaNotFoundError as error:
        return [f"{error.message}; custom kinds need a schema in {SCHEMAS.name}"]
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}"]
    return []


def _by_schema(obj: Object, name: str) -> list[str]:
    validator = jsonschema.Draft202012Validator(read_schema(name))
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for error in validator.iter_errors(obj)
    ]


@functools.cache
def read_schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.json").read_text())


# It reads 1.5 MB of definitions again for every object.
utils.schema_contents = functools.cache(utils.schema_contents)
