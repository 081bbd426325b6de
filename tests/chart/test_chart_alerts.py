"""Prometheus's own tool: every alert fires when it should and only then, every query can be read.

And what an alert tells leads to its section of the runbook.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart import promql
from tests.chart.alert_cases import CASES, RELEASE, Case, times
from tests.chart.helm import ROOT, Helm
from tests.chart.objects import of_kind
from tests.chart.situations import EVERYTHING, PASSWORD
from tests.promtool import promtool

Rules = Mapping[str, Any]


def rules_of(helm: Helm, *values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rules of the alerts, by name."""
    objects = helm.render(*EVERYTHING.values, *values, PASSWORD, **EVERYTHING.how())
    (rule,) = of_kind(objects, "PrometheusRule")
    return {each["alert"]: each for group in rule["spec"]["groups"] for each in group["rules"]}


@pytest.fixture
def rules(helm4: Helm) -> dict[str, dict[str, Any]]:
    return rules_of(helm4)


def judge(rules: Rules, cases: tuple[Case, ...], directory: Path) -> str:
    """Have promtool judge the cases; an AssertionError says which alerts are wrong."""
    # What an alert says in one line is compared; the rest of its annotations is plain text.
    kept = [
        {**rule, "annotations": {"summary": rule["annotations"]["summary"]}}
        for rule in rules.values()
    ]
    (directory / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "a", "rules": kept}]})
    )
    tests = [_as_test(rules[case.alert], case) for case in cases]
    asked = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (directory / "cases.yaml").write_text(yaml.safe_dump(asked))
    return promtool("test", "rules", directory / "cases.yaml")


def _as_test(rule: Mapping[str, Any], case: Case) -> dict[str, Any]:
    series = [{"series": _of_release(name), "values": v} for name, v in case.series.items()]
    fires = {
        "exp_labels": {**rule["labels"], **case.labels},
        "exp_annotations": {"summary": case.summary},
    }
    expected = {
        "eval_time": f"{case.minute}m",
        "alertname": case.alert,
        "exp_alerts": [fires] if case.summary else [],
    }
    return {"interval": "1m", "input_series": series, "alert_rule_test": [expected]}


def _of_release(series: str) -> str:
    name, _, labels = series.removesuffix("}").partition("{")
    own = [f'{label}="{value}"' for label, value in RELEASE.items()]
    return f"{name}{{{','.join([*own, *filter(None, [labels])])}}}"


def test_every_alert_fires_when_it_should_and_only_then(rules: Rules, tmp_path: Path) -> None:
    judge(rules, CASES, tmp_path)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(
    rules: Rules,
) -> None:
    assert {case.alert for case in CASES if case.summary} == rules.keys()
    assert {case.alert for case in CASES if not case.summary} == rules.keys()


def test_no_alert_is_silent_only_because_its_metrics_are_missing(rules: Rules) -> None:
    for case in CASES:
        asked = promql.names_in(rules[case.alert]["expr"])
        assert case.summary or any(s.partition("{")[0] in asked for s in case.series), case


@pytest.mark.parametrize("case", [CASES[0], CASES[1]], ids=["fires", "silent"])
def test_a_wrong_expectation_would_be_found(rules: Rules, case: Case, tmp_path: Path) -> None:
    summary = "" if case.summary else "Model shapes has no live worker"
    wrong = replace(case, summary=summary, labels={"model": "shapes"})

    with pytest.raises(AssertionError, match="FAILED"):
        judge(rules, (wrong,), tmp_path)


def test_a_long_timeout_leaves_the_alert_on_slow_requests_able_to_fire(
    helm4: Helm, tmp_path: Path
) -> None:
    slow = rules_of(helm4, {"limits": {"requestTimeoutSeconds": 3600}})
    series = {**times(0, 0), 'imageserve_request_seconds_bucket{le="300.0"}': "0+10x30"}

    judge(slow, (Case("ImageserveSlow", series, 16, _SLOWEST),), tmp_path)


_SLOWEST = "One request in twenty takes longer than 5m 0s"


# -- queries that can be read ----------------------------------------------------------------------


def test_the_queries_of_the_dashboard_can_be_read(helm4: Helm, tmp_path: Path) -> None:
    asked = [query for query, _ in dashboard_queries(helm4)]
    # What Grafana puts in: a range, and names.
    plain = [re.sub(r"\$__rate_interval", "5m", query).replace("$", "a") for query in asked]
    rules = [{"record": f"query_{number}", "expr": each} for number, each in enumerate(plain)]
    (tmp_path / "rules.yaml").write_text(
        yaml.safe_dump({"groups": [{"name": "a", "rules": rules}]})
    )

    assert f"{len(asked)} rules found" in promtool("check", "rules", tmp_path / "rules.yaml")


def dashboard_queries(helm: Helm) -> list[tuple[str, str]]:
    objects = EVERYTHING.render(helm)
    maps = [
        o for o in of_kind(objects, "ConfigMap") if o["metadata"]["name"].endswith("-dashboard")
    ]
    texts = [text for each in maps for text in each["data"].values()]
    return [found for text in texts for found in promql.expressions(yaml.safe_load(text))]


# -- the runbook -----------------------------------------------------------------------------------

RUNBOOK = ROOT / "docs" / "operations.md"
PARTS = ("**Means:**", "**Look:**", "**Do:**")


def sections() -> dict[str, str]:
    """Return the sections of the runbook about alerts: their titles and texts."""
    parts = re.split(r"^(#+) (.*)\n", RUNBOOK.read_text(), flags=re.MULTILINE)
    titles, texts = parts[2::3], parts[3::3]
    return {t: text for t, text in zip(titles, texts, strict=True) if t.startswith("Imageserve")}


def test_every_alert_has_a_section_that_says_what_it_means_and_what_to_do(rules: Rules) -> None:
    assert sections().keys() == rules.keys()
    for title, text in sections().items():
        assert [part for part in PARTS if text.count(part) != 1] == [], title


def test_every_alert_names_the_address_of_its_section(helm4: Helm, rules: Rules) -> None:
    pages = "https://git.test/imageserve/docs/operations.md"
    elsewhere = rules_of(helm4, {"prometheusRule": {"runbook": pages}})

    for name in rules:
        # A heading's place in a page is its text in small letters.
        assert rules[name]["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
        assert elsewhere[name]["annotations"]["runbook_url"] == f"{pages}#{name.lower()}"
