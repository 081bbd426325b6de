"""docs/upgrading.md names every setting, value and metric that is not as it was in 0.1.0."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart import values_file
from tests.chart.helm import CHART, ROOT

from imageserve.config.settings import table, variables

PAGE = (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")
CODE = set(re.findall(r"`([^`\n]+)`", PAGE))
SETTINGS: dict[str, str] = json.loads(
    Path(__file__).with_name("settings_of_0_1_0.json").read_text(encoding="utf-8")
)
VALUES = yaml.safe_load((ROOT / "tests" / "chart" / "values_of_0_1_0.yaml").read_text("utf-8"))
GONE = object()


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def defaults(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", text, re.MULTILINE))


def at(values: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        values = values.get(key, GONE) if isinstance(values, dict) else GONE
    return values


def leaves(values: Any, path: tuple[str, ...] = ()) -> "dict[tuple[str, ...], Any]":
    if not isinstance(values, dict) or not values:
        return {path: values}
    return {p: v for key in values for p, v in leaves(values[key], (*path, key)).items()}


def is_named(path: tuple[str, ...]) -> bool:
    """Whether the page names a value, or what it is part of and what is new as a whole."""
    wholes = [path[:n] for n in range(1, len(path)) if at(VALUES, path[:n]) is GONE]
    return any(".".join(each) in CODE for each in (*wholes, path))


def test_each_setting_that_is_gone_or_has_another_default_is_named() -> None:
    now = defaults(table())

    changed = {name for name in SETTINGS if now.get(name) != SETTINGS[name]}

    assert changed - CODE == set()


def test_the_new_settings_are_those_of_the_table() -> None:
    assert set(defaults(section("Settings"))) == set(variables()) - set(SETTINGS)


def test_each_value_that_is_new_or_gone_or_has_another_default_is_named() -> None:
    old, new = leaves(VALUES), leaves(values_file.values())
    changed = [path for path in {**old, **new} if old.get(path, GONE) != new.get(path, GONE)]

    assert changed
    assert [".".join(path) for path in changed if not is_named(path)] == []


@pytest.mark.parametrize("title", ["Settings", "Values of the chart"])
def test_the_values_that_are_named_exist(title: str) -> None:
    named = re.findall(r"`([a-z]\w+(?:\.\w+)+)`", section(title))
    paths = [tuple(each.split(".")) for each in named if not each.endswith((".yaml", ".md"))]

    assert paths
    assert [path for path in paths if at(values_file.values(), path) is GONE] == []


def found(pattern: str, *files: Path) -> set[str]:
    """Return what stands in one of two files alone: that of 0.1.0, and the one of today."""
    old, new = (set(re.findall(pattern, each.read_text(encoding="utf-8"))) for each in files)
    assert old
    return old ^ new


def test_each_metric_and_error_code_that_is_new_or_gone_is_named(old_source: Path) -> None:
    named = {*CODE, *(f"imageserve_autoscaler{each[1:]}" for each in CODE if each[0] == "…")}
    metrics, errors = (
        (old_source / "imageserve" / name, ROOT / "src" / "imageserve" / name)
        for name in ("metrics.py", "errors.py")
    )

    changed = found(r'"(imageserve_[a-z_]+)"', *metrics) | found(r'code = "(\w+)"', *errors)

    assert changed - named == set()


def test_each_alert_that_is_new_or_gone_is_named(old_chart: Path) -> None:
    rules = Path("templates", "prometheusrule.yaml")

    changed = found(r'"alert" "(\w+)"', old_chart / rules, CHART / rules)

    assert changed - CODE == set()
