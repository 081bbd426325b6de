"""Alerts and the dashboard ask for metrics that the programs have."""

import json
import re
from typing import Any

import prometheus_client
import pytest
import yaml
from tests.chart.helm import Helm, Object
from tests.chart.objects import of_kind
from tests.chart.situations import EVERYTHING, MODES, PASSWORD

from imageserve import metrics

#: What Prometheus adds to the name of a counter or a histogram.
SUFFIXES = ("", "_bucket", "_sum", "_count", "_created")


def known() -> set[str]:
    registered = {f.name for f in prometheus_client.REGISTRY.collect()}
    families = {name for name in registered if name.startswith("imageserve_")}
    counters = {f"{name}_total" for name in families}
    gauges = set(re.findall(r'"(imageserve_\w+)"', _source()))
    return {f"{n}{suffix}" for n in families | counters | gauges for suffix in SUFFIXES}


def _source() -> str:
    assert metrics.__file__ is not None
    with open(metrics.__file__) as file:
        return file.read()


def expressions(objects: list[Object]) -> list[str]:
    rules = [
        r
        for o in of_kind(objects, "PrometheusRule")
        for g in o["spec"]["groups"]
        for r in g["rules"]
    ]
    return [rule["expr"] for rule in rules]


def dashboards(objects: list[Object]) -> list[Any]:
    found = [
        o for o in of_kind(objects, "ConfigMap") if "grafana_dashboard" in o["metadata"]["labels"]
    ]
    return [json.loads(text) for each in found for text in each["data"].values()]


def queries(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["expr"]] if isinstance(value.get("expr"), str) else []
        return own + [q for inner in value.values() for q in queries(inner)]
    return [q for inner in value for q in queries(inner)] if isinstance(value, list) else []


def test_alerts_ask_for_metrics_that_exist(helm4: Helm) -> None:
    asked = set(re.findall(r"imageserve_\w+", " ".join(expressions(EVERYTHING.render(helm4)))))

    assert asked
    assert asked - known() - {"imageserve_instance"} == set()


def test_the_dashboard_asks_for_metrics_that_exist(helm4: Helm) -> None:
    (dashboard,) = dashboards(EVERYTHING.render(helm4))
    asked = set(re.findall(r"imageserve_\w+", " ".join(queries(dashboard))))

    assert len(asked) > 5
    assert asked - known() == set()
    assert dashboard["title"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_a_metric_that_does_not_exist_would_be_found() -> None:
    assert "imageserve_requests_total" in known()
    assert "imageserve_request_total" not in known()


def test_every_alert_says_what_is_wrong_and_how_bad(helm4: Helm) -> None:
    (rule,) = of_kind(EVERYTHING.render(helm4), "PrometheusRule")
    alerts = [alert for group in rule["spec"]["groups"] for alert in group["rules"]]

    assert len({alert["alert"] for alert in alerts}) == len(alerts)
    for alert in alerts:
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert {"summary", "description"} <= alert["annotations"].keys()
        assert alert["labels"]["team"] == "vision"


@pytest.mark.parametrize("pair", ["()", "{}", "[]"])
def test_the_brackets_of_every_expression_match(helm4: Helm, pair: str) -> None:
    objects = EVERYTHING.render(helm4)
    found = expressions(objects) + [q for d in dashboards(objects) for q in queries(d)]

    assert [q for q in found if q.count(pair[0]) != q.count(pair[1])] == []


def test_alerts_of_two_releases_ask_for_their_own(helm4: Helm) -> None:
    for expression in expressions(EVERYTHING.render(helm4, release="mine")):
        for matchers in re.findall(r"imageserve_\w+(\{[^}]*\})?", expression):
            assert 'namespace="pictures"' in matchers
            assert 'app_kubernetes_io_instance="mine"' in matchers


def test_the_label_of_the_release_is_put_on_every_sample(helm4: Helm) -> None:
    objects = EVERYTHING.render(helm4)
    (services,), pods = of_kind(objects, "ServiceMonitor"), of_kind(objects, "PodMonitor")

    assert services["spec"]["targetLabels"] == ["app.kubernetes.io/instance"]
    assert len(pods) == 2, "model and autoscaler"
    for each in pods:
        assert each["spec"]["podTargetLabels"] == ["app.kubernetes.io/instance"]


def alerts_of(helm: Helm, *values: Any) -> dict[str, str]:
    """Return the expressions of the alerts by name."""
    rules = {"prometheusRule": {"enabled": True}, "checkApis": False}
    (rule,) = of_kind(helm.render(*values, PASSWORD, rules), "PrometheusRule")
    return {r["alert"]: r["expr"] for g in rule["spec"]["groups"] for r in g["rules"]}


def test_the_autoscaler_has_alerts_of_its_own_where_there_is_one(helm4: Helm) -> None:
    own = {"ImageserveAutoscalerStuck", "ImageserveAutoscalerAway", "ImageserveUnschedulable"}
    slow = alerts_of(helm4, {"autoscaler": {"intervalSeconds": 10}})

    assert own <= alerts_of(helm4).keys()
    assert not own & alerts_of(helm4, MODES["none"]).keys()
    # A dozen decisions in a row have failed.
    assert slow["ImageserveAutoscalerStuck"].endswith("> 120")


def test_a_model_that_may_scale_to_zero_lacks_workers_only_while_jobs_wait(helm4: Helm) -> None:
    scaling = {"minReplicas": 0, "allowColdTimeouts": True}
    sleepy = {"models": {"shapes": {"scaling": scaling}, "other": {"network": "stand-in"}}}
    more = {"defaultModel": "shapes", "limits": {"queueBytesLimit": "8Mi"}}

    awake = alerts_of(helm4)["ImageserveNoWorkers"]
    mixed = alerts_of(helm4, sleepy, more)["ImageserveNoWorkers"]
    unscaled = alerts_of(helm4, sleepy, more, MODES["none"])["ImageserveNoWorkers"]

    assert "imageserve_queue_length" not in awake + unscaled
    always, when_asked = mixed.split(" or ")
    assert 'model!~"shapes"' in always
    assert 'model=~"shapes"' in when_asked
    assert "imageserve_queue_length" in when_asked


def test_without_monitors_nothing_of_prometheus_is_rendered(helm4: Helm) -> None:
    assert "monitoring.coreos.com" not in yaml.safe_dump(helm4.render(PASSWORD))
