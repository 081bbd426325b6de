"""Alerts and the dashboard ask for metrics that the programs have."""

import json
import re
from typing import Any

import pytest
import yaml
from tests.chart import promql
from tests.chart.helm import Helm, Object
from tests.chart.objects import of_kind
from tests.chart.situations import EVERYTHING, MODES, PASSWORD

Query = tuple[str, str]
"""An expression, and how Grafana names its lines."""


def alerts(objects: list[Object]) -> list[Query]:
    rules = [
        r
        for o in of_kind(objects, "PrometheusRule")
        for g in o["spec"]["groups"]
        for r in g["rules"]
    ]
    # `$labels.model` in what an alert says is a label that its expression must keep.
    return [(r["expr"], json.dumps(r["annotations"]).replace("$labels.", "")) for r in rules]


def dashboards(objects: list[Object]) -> list[Any]:
    found = [
        o for o in of_kind(objects, "ConfigMap") if "grafana_dashboard" in o["metadata"]["labels"]
    ]
    return [json.loads(text) for each in found for text in each["data"].values()]


def queries(objects: list[Object]) -> list[Query]:
    """Return the queries of all panels and variables of the dashboard."""
    found = [q for each in dashboards(objects) for q in promql.expressions(each)]
    variables = [v for each in dashboards(objects) for v in each["templating"]["list"]]
    return found + [(v["query"]["query"], "") for v in variables if v["type"] == "query"]


def test_alerts_ask_for_metrics_and_labels_that_exist(helm4: Helm) -> None:
    asked = alerts(EVERYTHING.render(helm4))

    assert len(asked) > 10
    assert [p for each in asked for p in promql.problems(*each)] == []


def test_the_dashboard_asks_for_metrics_and_labels_that_exist(helm4: Helm) -> None:
    objects = EVERYTHING.render(helm4)
    (dashboard,) = dashboards(objects)
    asked = queries(objects)

    assert len(asked) > 30
    assert [p for each in asked for p in promql.problems(*each)] == []
    assert all(promql.names_in(query) for query, _ in asked)
    assert dashboard["title"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


@pytest.mark.parametrize(
    ("query", "legend", "problem"),
    [
        ("imageserve_request_total", "", "no metric imageserve_request_total"),
        ("imageserve_requests", "", "no metric imageserve_requests"),
        ("imageserve_redis_up_bucket", "", "no metric imageserve_redis_up_bucket"),
        (
            'imageserve_workers{network=~"a"}',
            "",
            "imageserve_workers has no label network",
        ),
        (
            "sum by (queue) (rate(imageserve_jobs_total[5m]))",
            "",
            "imageserve_jobs_total has no label queue",
        ),
        (
            "imageserve_workers > on (version) imageserve_queue_length",
            "",
            "imageserve_workers has no label version",
        ),
        ("sum by (model) (imageserve_workers)", "{{queue}}", "no label queue is kept"),
    ],
)
def test_what_does_not_exist_would_be_found(query: str, legend: str, problem: str) -> None:
    assert problem in promql.problems(query, legend)


def test_no_label_of_a_metric_is_hidden_by_one_of_the_operator(helm4: Helm) -> None:
    """Without `honorLabels` Prometheus renames ours, and alerts that ask for it never fire."""
    objects = EVERYTHING.render(helm4)
    monitors = of_kind(objects, "ServiceMonitor", "PodMonitor")
    hidden = {n: both for n, own in promql.series().items() if (both := own & promql.OPERATORS_OWN)}

    assert hidden == {"imageserve_requests_total": {"endpoint"}}
    for each in monitors:
        ports = each["spec"].get("endpoints") or each["spec"]["podMetricsEndpoints"]
        assert [port["honorLabels"] for port in ports] == [True]


def test_every_alert_says_what_is_wrong_and_how_bad(helm4: Helm) -> None:
    (rule,) = of_kind(EVERYTHING.render(helm4), "PrometheusRule")
    found = [alert for group in rule["spec"]["groups"] for alert in group["rules"]]

    assert len({alert["alert"] for alert in found}) == len(found)
    for alert in found:
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert {"summary", "description"} <= alert["annotations"].keys()
        assert alert["labels"]["team"] == "vision"


def test_alerts_of_two_releases_ask_for_their_own(helm4: Helm) -> None:
    for expression, _ in alerts(EVERYTHING.render(helm4, release="mine")):
        for matchers in re.findall(r"imageserve_\w+(\{[^}]*\})?", expression):
            assert 'namespace="pictures"' in matchers
            assert 'app_kubernetes_io_instance="mine"' in matchers


def test_the_label_of_the_release_is_put_on_every_sample(helm4: Helm) -> None:
    objects = EVERYTHING.render(helm4)
    (services,), pods = of_kind(objects, "ServiceMonitor"), of_kind(objects, "PodMonitor")

    assert services["spec"]["targetLabels"] == ["app.kubernetes.io/instance"]
    assert len(pods) == 3, "model, autoscaler and the gRPC of web pods"
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
    assert "> 120 or" in slow["ImageserveAutoscalerStuck"]


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
