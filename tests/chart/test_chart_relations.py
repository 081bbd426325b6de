"""The rules between the objects that the chart renders, in every situation."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.chart import relations
from tests.chart.helm import Helm, Object
from tests.chart.objects import of_kind, title
from tests.chart.situations import (
    DEFAULT,
    EVERYTHING,
    PASSWORD,
    SHIPPED,
    SITUATIONS,
    Situation,
    each_situation,
)

CHECKS: list[Callable[[list[Object]], list[str]]] = [
    relations.selector_problems,
    relations.service_problems,
    relations.probe_problems,
    relations.duplicate_problems,
    relations.mount_problems,
    relations.monitor_problems,
    relations.autoscaler_problems,
    relations.cluster_scope_problems,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@each_situation()
def test_the_rule_holds(
    helm4: Helm, situation: Situation, check: Callable[[list[Object]], list[str]]
) -> None:
    assert check(situation.render(helm4)) == []


@each_situation([each for each in SITUATIONS if each not in SHIPPED])
def test_every_name_that_is_referenced_exists(helm4: Helm, situation: Situation) -> None:
    assert relations.reference_problems(situation.render(helm4), situation.outside) == []


@each_situation(SHIPPED)
def test_a_shipped_file_names_only_secrets_that_the_user_makes(
    helm4: Helm, situation: Situation
) -> None:
    problems = relations.reference_problems(situation.render(helm4))
    described = "".join(path.read_text() for path in situation.values if isinstance(path, Path))

    for problem in problems:
        kind, _, name = problem.rpartition(" ")[2].partition("/")
        assert kind in ("Secret", "PersistentVolumeClaim"), problem
        assert name.partition(":")[0] in described, problem


@each_situation()
def test_a_node_can_be_drained(helm4: Helm, situation: Situation) -> None:
    # There is a value that protects Redis from drains; draining it by hand is then intended.
    problems = relations.disruption_problems(situation.render(helm4))

    assert [each for each in problems if "redis" not in each] == []


ANYWHERE = [
    pytest.param("imageserve", id="called as the chart"),
    pytest.param("one", id="called otherwise"),
]


@pytest.mark.parametrize("other", ANYWHERE)
@each_situation([DEFAULT, EVERYTHING])
def test_two_releases_live_side_by_side(helm4: Helm, situation: Situation, other: str) -> None:
    one = situation.render(helm4, release="two")
    another = situation.render(helm4, release=other)

    assert relations.overlap_problems(one, another) == []
    assert relations.overlap_problems(another, one) == []


@each_situation([DEFAULT, *SHIPPED, EVERYTHING])
def test_nothing_hard_codes_a_release_or_a_namespace(helm4: Helm, situation: Situation) -> None:
    # Of the same lengths, as names are cut.
    one = situation.text(helm4, release="alpha", namespace="space-one")
    other = situation.text(helm4, release="omega", namespace="space-two")

    renamed = one.replace("alpha", "omega").replace("space-one", "space-two")
    assert _without_checksums(renamed) == _without_checksums(other)


def _without_checksums(text: str) -> str:
    return re.sub(r"\b[0-9a-f]{64}\b|-[0-9a-f]{8}\b", "…", text)


@each_situation([DEFAULT, *SHIPPED, EVERYTHING])
def test_nothing_hard_codes_the_domain_of_a_cluster(helm4: Helm, situation: Situation) -> None:
    assert "cluster.local" not in situation.text(helm4)


@each_situation()
def test_no_object_names_another_namespace(helm4: Helm, situation: Situation) -> None:
    namespaces = {o["metadata"]["namespace"] for o in situation.render(helm4)}

    assert namespaces == {situation.namespace}


def test_the_default_needs_nothing_that_a_bare_cluster_lacks(helm4: Helm) -> None:
    text = helm4.text(PASSWORD)
    objects = helm4.render(PASSWORD)

    assert "nvidia.com/gpu" not in text
    assert "storageClassName" not in text
    assert not of_kind(objects, "PersistentVolumeClaim")
    # Kinds that come from custom resource definitions have a domain of their own.
    built_in = (
        "v1",
        "apps/v1",
        "policy/v1",
        "networking.k8s.io/v1",
        "coordination.k8s.io/v1",
        "rbac.authorization.k8s.io/v1",
    )
    assert [title(o) for o in objects if o["apiVersion"] not in built_in] == []
