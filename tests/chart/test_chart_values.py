"""values.yaml, its schema, its table in the README and the templates say the same."""

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
import yaml
from tests.chart.helm import CHART, OLDEST, ROOT, Helm, HelmError
from tests.chart.situations import ALL_ON, APIS, MODES, PASSWORD, external_redis, shapes
from tests.chart.values_file import (
    Path,
    at,
    described,
    is_described,
    keys,
    leaves,
    nested,
    read_paths,
    schema,
    subschema,
    values,
)

import imageserve

README = (CHART / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_chart_is_of_the_version_of_the_package_and_says_which_kubernetes_it_takes() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert about["version"] == about["appVersion"] == imageserve.__version__
    assert about["kubeVersion"] == f">={OLDEST}-0"
    assert "dependencies" not in about


def dotted(path: Path) -> str:
    return ".".join(path)


def test_every_value_is_described() -> None:
    assert [dotted(path) for path in leaves() if not is_described(path)] == []


def test_every_description_is_in_the_readme() -> None:
    assert [dotted(p) for p in described() if f"| `{dotted(p)}` |" not in README] == []


def test_the_readme_describes_no_value_that_is_gone() -> None:
    table = README.partition("<!-- values -->")[2].partition("<!-- /values -->")[0]
    named = re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)

    assert set(named) - {dotted(path) for path in keys()} == set()


def test_the_table_in_the_readme_is_the_one_that_is_generated() -> None:
    command = [sys.executable, str(ROOT / "tools" / "chart_docs.py"), "--check"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_value_is_in_the_schema() -> None:
    assert [dotted(path) for path in keys() if subschema(path) is None] == []


def properties(of: Any, path: Path = ()) -> Iterator[Path]:
    """Yield every key that the schema knows."""
    while "$ref" in of:
        of = at(schema(), tuple(of["$ref"].removeprefix("#/").split("/")))
    for key, inner in of.get("properties", {}).items():
        yield (*path, key)
        yield from properties(inner, (*path, key))


def test_the_schema_knows_no_value_that_is_gone() -> None:
    free = {path for path in leaves() if at(values(), path) == {}}
    unknown = [
        dotted(path)
        for path in properties(schema())
        if path not in keys() and not any(path[:n] in free for n in range(1, len(path) + 1))
    ]

    assert unknown == []


def objects_with_properties(of: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(of, dict):
        if "properties" in of and "type" in of:
            yield where, of
        for key, inner in of.items():
            yield from objects_with_properties(inner, f"{where}/{key}")
    elif isinstance(of, list):
        for index, inner in enumerate(of):
            yield from objects_with_properties(inner, f"{where}/{index}")


def test_the_schema_refuses_unknown_keys_everywhere() -> None:
    loose = [
        w
        for w, o in objects_with_properties(schema())
        if o.get("additionalProperties") is not False
    ]

    assert loose == []


def test_a_model_takes_every_value_of_the_defaults() -> None:
    entry = subschema(("models", "any"))
    defaults = {path[1:] for path in keys() if path[0] == "modelDefaults" and len(path) > 1}

    assert entry is not None
    for path in defaults:
        assert subschema(("models", "any", *path)) is not None, dotted(path)


def test_every_value_that_a_template_reads_is_there() -> None:
    known = {path[:n] for path in keys() for n in range(1, len(path) + 1)}
    free = {path for path in leaves() if isinstance(at(values(), path), dict)}
    gone = {
        dotted(path): name
        for path, name in read_paths().items()
        if path not in known and not any(path[:n] in free for n in range(1, len(path)))
    }

    assert gone == {}


# A value has an effect if a change of it changes the rendering, or makes a guard refuse it.
# A search for its name would miss values that are read through a variable.
_SECRETS = {"existingSecret": "s", "tls": {"enabled": True, "caSecret": "ca"}}
_SENTINEL = {"enabled": True, "nodes": ["s:26379"], "masterName": "m", "existingSecret": "s"}
_CLUSTER = {"enabled": True, "nodes": ["n:6379"]}
_ALL_ON = (ALL_ON, PASSWORD)
#: The situation in which a value matters, by the beginning of its path; else everything is on.
WHERE: dict[str, tuple[Any, ...]] = {
    "redis.external": (external_redis(host="h", username="u", **_SECRETS),),
    "redis.external.host": (external_redis(),),
    "redis.external.sentinel": (external_redis(host="", sentinel=_SENTINEL),),
    "redis.external.sentinel.enabled": (
        external_redis(host="", sentinel={**_SENTINEL, "enabled": False}),
    ),
    "redis.external.cluster": (external_redis(host="", cluster=_CLUSTER),),
    "redis.external.cluster.enabled": (
        external_redis(host="", cluster={**_CLUSTER, "enabled": False}, sentinel=_SENTINEL),
    ),
    "networkPolicy.externalRedis": (external_redis(),),
    "networkPolicy.weights": (shapes(network="resnet50"), PASSWORD),
    "checkApis": ({"serviceMonitor": {"enabled": True}}, PASSWORD),
    "redis.persistence.size": (PASSWORD,),
    "redis.auth": (PASSWORD,),
    "apiKeys.existingSecret": (PASSWORD,),
    "web.replicas": (PASSWORD,),
    "web.image.tag": (PASSWORD,),
    "web.service.nodePort": ({"web": {"service": {"type": "NodePort"}}}, PASSWORD),
    "image.pullPolicy": (PASSWORD,),
    "modelDefaults.network": (
        {"models": {"shapes": {"enabled": False}, "resnet50": {}}},
        PASSWORD,
    ),
    "modelDefaults.gpu": (shapes(gpu={"count": 1}), PASSWORD),
    "modelDefaults.gpu.count": (PASSWORD,),
    "modelDefaults.versions": ({"modelDefaults": {"versions": {"dir": "/v"}}}, PASSWORD),
    "modelDefaults.versions.dir": (PASSWORD,),
    "modelDefaults.fetch": (
        {
            "models": {
                "shapes": {"enabled": False},
                "flowers": {"inputSize": 8, "fetch": {"source": "s3://models/flowers"}},
            }
        },
        PASSWORD,
    ),
    "modelDefaults.fetch.source": (PASSWORD,),
    "modelDefaults.scaling.replicas": (MODES["none"], PASSWORD),
    "modelDefaults.scaling.allowColdTimeouts": (
        {"modelDefaults": {"scaling": {"minReplicas": 0, "allowColdTimeouts": True}}},
        PASSWORD,
    ),
    "autoscaling.mode": (PASSWORD,),
    "autoscaling.keda": (MODES["keda"], PASSWORD),
    "autoscaling.hpa": (MODES["hpa"], PASSWORD),
    "autoscaling.hpa.scaleToZero": (
        MODES["hpa"],
        {"modelDefaults": {"scaling": {"minReplicas": 0, "allowColdTimeouts": True}}},
        PASSWORD,
    ),
    "autoscaler.replicas": (PASSWORD,),
    "autoscaler.image.tag": (PASSWORD,),
    "networkPolicy.keda": (MODES["keda"], PASSWORD),
    "loadtest.image.tag": ({"loadtest": {"enabled": True}}, PASSWORD),
}


def base_of(path: Path) -> tuple[Any, ...]:
    fitting = [each for each in WHERE if dotted(path).startswith(each)]
    return WHERE[max(fitting, key=len)] if fitting else _ALL_ON


#: Values whose type alone does not suggest another good one.
OTHERS: dict[str, Any] = {
    "global": {"imageRegistry": "mirror.test"},
    "image.pullPolicy": "Always",
    "log.level": "debug",
    "log.format": "text",
    "tracing.endpoint": "https://other.test/v1/traces",
    "tracing.share": 0.5,
    "limits.imageFormats": ["png"],
    "modelDefaults.inputSize": 96,
    "autoscaling.mode": "none",
    "autoscaling.keda.source": "recommendation",
    "modelDefaults.scaling.targetUtilization": 0.5,
    "modelDefaults.scaling.tolerance": 0.2,
    "modelDefaults.scaling.scaleDownMaxFraction": 0.25,
    "loadtest.arrivals": "constant",
    "loadtest.slo": ["p50=1s"],
    "loadtest.extraArgs": ["--seed", "7"],
    "modelDefaults.network": "stand-in",
    "models.shapes.network": "stand-in",
    "modelDefaults.interpolation": "box",
    "modelDefaults.resize": "crop",
    "modelDefaults.resizeTo": 512,
    "modelDefaults.cropRounding": "down",
    "modelDefaults.antialias": False,
    "modelDefaults.pad": 114,
    "modelDefaults.colour": "grey",
    "modelDefaults.layout": "nchw",
    "modelDefaults.pixelScaling": "torch",
    "modelDefaults.activation": "sigmoid",
    "modelDefaults.weights": "random",
    "modelDefaults.runtime": "onnx",
    "modelDefaults.backend": "jax",
    "modelDefaults.precision": "bfloat16",
    "modelDefaults.versions.dir": "/versions",
    "modelDefaults.weightsDownload": "always",
    "modelDefaults.fetch.source": "hf://owner/name",
    "modelDefaults.fetch.sha256": "unchecked",
    "networkPolicy.fetch.ports": [8443],
    "modelDefaults.gpu.resourceName": "amd.com/gpu",
    "web.corsOrigins": ["https://app.test"],
    "web.service.type": "LoadBalancer",
    "web.service.extraSpec": {"sessionAffinity": "None"},
    "web.strategy": {"type": "Recreate"},
    "modelDefaults.strategy": {"type": "Recreate"},
    "web.autoscaling.behavior": {"scaleUp": {"selectPolicy": "Min"}},
    "redis.persistence.accessModes": ["ReadWriteOncePod"],
    "redis.extraConfig": ["slowlog-max-len 64"],
    "redis.maxmemory": "1500Mi",
    "redis.external.maxmemory": "1Mi",
    "redis.external.sentinel.nodes": ["other:26379"],
    "redis.external.cluster.nodes": ["other:6379"],
    "ingress.paths": [{"path": "/", "pathType": "Prefix"}],
    "ingress.tls": [{"secretName": "other"}],
    "httpRoute.parentRefs": [{"name": "other"}],
    "httpRoute.matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
    "httpRoute.filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "h.test"}}],
    "grpcRoute.parentRefs": [{"name": "other"}],
    "grpcRoute.matches": [{"method": {"service": "other.Service"}}],
    "grpcRoute.filters": [
        {"type": "ExtensionRef", "extensionRef": {"group": "g", "kind": "K", "name": "n"}}
    ],
    "apiKeys.keys": ["another-key-of-somebody"],
    "networkPolicy.dns.ports": [5353],
    "networkPolicy.weights.ports": [8443],
    "networkPolicy.kubernetesApi.ports": [7443],
    "global.imagePullSecrets": ["other"],
}
LISTS: dict[str, Any] = {
    "from": [{"podSelector": {}}],
    "to": [{"podSelector": {}}],
    "tolerations": [{"key": "other", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "extraEnv": [{"name": "OTHER", "value": "x"}],
    "extraVolumes": [{"name": "other", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "other", "mountPath": "/other"}],
    "resourceClaims": [{"name": "other", "resourceClaimName": "other"}],
    "pullSecrets": ["other"],
    "hosts": ["other.test"],
    "hostnames": ["other.test"],
}
MAPS: dict[str, Any] = {
    "affinity": {"podAffinity": {}},
    "podSecurityContext": {"runAsUser": 12_345},
    "securityContext": {"procMount": "Default"},
    "resources": {"limits": {"memory": "64Gi"}},
}


VALIDATOR = jsonschema.Draft7Validator(schema())
STRINGS = ["other", "3Gi", "45s", "sha256:" + "f" * 64, "other-of-sixteen-or-more", "Never", "off"]


def another(path: Path) -> Any:
    """Return another value that the schema takes."""
    value = at(values(), path)
    for other in candidates(dotted(path), path[-1], value):
        if other != value and VALIDATOR.is_valid(nested(path, other)):
            return other
    pytest.fail(f"{dotted(path)}: no other value is known that the schema takes")


def candidates(name: str, key: str, value: Any) -> list[Any]:
    if name in OTHERS:
        return [OTHERS[name]]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1, value - 1]
    if isinstance(value, str):
        return STRINGS
    return [LISTS.get(key)] if isinstance(value, list) else [MAPS.get(key, {"other": "x"})]


def is_there(name: str) -> bool:
    """Whether a name with dots is one of a value, also of one below ``modelDefaults``."""
    first, *more = name.split(".")
    path = ("modelDefaults", *more[1:]) if first == "models" else (first, *more)
    return any(_leads(each) for each in (path, ("modelDefaults", *path)))


def _leads(path: Path) -> bool:
    """Whether a path ends at a value, or below a map that may hold anything."""
    known: Any = values()
    for key in path:
        if known == {}:
            return True
        if not isinstance(known, dict) or key not in known:
            return False
        known = known[key]
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_value_that_a_document_names_is_there(document: Any) -> None:
    maps = {
        key for tree in (values(), values()["modelDefaults"]) for key in tree if tree[key] != ""
    }
    named = re.findall(r"`([a-zA-Z]+)((?:\.[a-zA-Z]+)+)[`:=]", document.read_text())
    asked = {first + rest for first, rest in named if first in maps}
    files = {
        each for each in asked if each.endswith((".py", ".csv", ".txt", ".json", ".yaml", ".tar"))
    }

    assert [each for each in sorted(asked - files) if not is_there(each)] == []


def has_effect(helm: Helm, path: Path) -> bool:
    base, value = base_of(path), at(values(), path)
    # A switch that the situation has on is compared with itself off.
    before = (*base, nested(path, value)) if isinstance(value, bool) else base
    return _rendered(helm, *before) != _rendered(helm, *base, nested(path, another(path)))


def _rendered(helm: Helm, *given: Any) -> str:
    apis = () if "checkApis" in str(given) else APIS
    try:
        return helm.text(*given, api_versions=apis)
    except HelmError as refused:
        return str(refused)


@pytest.mark.timeout(300)
def test_every_value_has_an_effect(helm4: Helm) -> None:
    paths = leaves()
    with ThreadPoolExecutor(2) as pool:
        effects = pool.map(lambda path: has_effect(helm4, path), paths)

    assert [dotted(path) for path, effect in zip(paths, effects, strict=True) if not effect] == []


def test_a_value_that_nothing_reads_would_be_found(helm4: Helm) -> None:
    """``global`` may hold anything, so the test can use a key of it that nothing reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OTHERS, "global", {"nobodyReadsThis": "x"})
        assert not has_effect(helm4, ("global",))
