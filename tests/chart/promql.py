"""What a query of Prometheus asks for: metrics and labels. Enough of PromQL for the chart's own."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from imageserve import metrics

#: What Prometheus and its operator put on every sample, by the chart's monitors.
TARGET_LABELS = {"namespace", "pod", "service", "container", "job", "instance"} | {
    "app_kubernetes_io_instance"
}
#: The operator's too; a metric's own label of this name is kept because monitors honour labels.
OPERATORS_OWN = {*TARGET_LABELS, "endpoint"}

_SELECTOR = re.compile(r"\b(imageserve_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
_GROUPED = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)\s*\(")
_MATCHED_ON = re.compile(r"\b(?:on|ignoring)\s*\(([^)]*)\)")

Known = Mapping[str, set[str]]
"""Name of a series -> the labels that its program gives it."""


def series() -> Known:
    """Return the series of all programs, as they are declared."""
    found: Known = {}
    for each in vars(metrics).values():
        if isinstance(each, MetricWrapperBase):
            found = {**found, **_series_of(each)}
    queues = {name: {"model", "queue"} for name in metrics._QUEUE_GAUGES}
    return {**found, **queues, **{name: {"model"} for name in metrics._AUTOSCALER_GAUGES}}


def _series_of(metric: MetricWrapperBase) -> Known:
    name, labels = metric._name, set(metric._labelnames)
    if metric._type == "histogram":
        return {f"{name}_bucket": {*labels, "le"}, f"{name}_sum": labels, f"{name}_count": labels}
    return {f"{name}_total" if metric._type == "counter" else name: labels}


def problems(query: str, legend: str = "", known: Known | None = None) -> list[str]:
    """Say what a query asks for that no program has; ``legend`` is how Grafana names its lines."""
    known = known or series()
    asked = list(_asked(query))
    unknown = [f"no metric {name}" for name, _ in asked if name not in known]
    lacking = [
        f"{name} has no label {label}"
        for name, labels in asked
        for label in sorted(labels - known.get(name, labels) - TARGET_LABELS)
    ]
    shown = set(re.findall(r"{{\s*(\w+)\s*}}", legend))
    groups = [_names(found) for found in _GROUPED.findall(query)]
    kept = set.union(*groups) if groups else set.union(TARGET_LABELS, *known.values())
    return unknown + lacking + [f"no label {each} is kept" for each in sorted(shown - kept)]


def _asked(query: str) -> Iterator[tuple[str, set[str]]]:
    """Yield each metric of a query with the labels that it is to have."""
    for found in _SELECTOR.finditer(query):
        yield found[1], set(_MATCHER.findall(found[2] or ""))
    for found in _GROUPED.finditer(query):
        for name in names_in(_argument(query, found.end())):
            yield name, _names(found[1])
    for found in _MATCHED_ON.finditer(query):
        for name in names_in(query):
            yield name, _names(found[1])


def names_in(query: str) -> set[str]:
    """Return the metrics of a query."""
    return {found[1] for found in _SELECTOR.finditer(query)}


def _names(listed: str) -> set[str]:
    return {each.strip() for each in listed.split(",") if each.strip()}


def _argument(query: str, start: int) -> str:
    """Return what stands between the bracket before ``start`` and the one that closes it."""
    depth = 1
    for place, letter in enumerate(query[start:], start):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if not depth:
            return query[start:place]
    raise ValueError(f"a bracket is not closed: {query}")


def expressions(value: Any) -> Iterator[tuple[str, str]]:
    """Yield each query below a value of a dashboard, with the legend of its lines."""
    if isinstance(value, dict):
        if isinstance(value.get("expr"), str):
            yield value["expr"], value.get("legendFormat", "")
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from expressions(inner)
