"""The pure parts: options, the state of a cluster, the log of a client."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.chart.helm import ROOT, Object
from tests.e2e.answers import CLEAR_REFUSALS, BrokenLogError, answers_in, report_of
from tests.e2e.options import OptionError, Options, split_image
from tests.e2e.state import listed_kinds, restarts, unsettled

# -- options ----------------------------------------------------------------------------------


def test_without_options_the_chart_decides() -> None:
    options = Options.from_env({"PATH": "/bin", "KUBECONFIG": "x"})

    assert options.image_values() == {}
    assert options == Options()


def test_every_option_reaches_the_values(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch()
    options = Options.from_env(
        {
            "E2E_CONTEXT": "kind",
            "E2E_NAMESPACE": "mine",
            "E2E_IMAGE_REGISTRY": "registry.test:5000",
            "E2E_WEB_REPOSITORY": "team/web",
            "E2E_MODEL_REPOSITORY": "team/model",
            "E2E_AUTOSCALER_REPOSITORY": "team/autoscaler",
            "E2E_LOADTEST_REPOSITORY": "team/loadtest",
            "E2E_IMAGE_TAG": "1.2",
            "E2E_IMAGE_PULL_POLICY": "Never",
            "E2E_REDIS_IMAGE": "registry.test:5000/valkey/valkey:8",
            "E2E_VALUES": f"{tmp_path}/a.yaml,",
        }
    )

    assert (options.context, options.namespace) == ("kind", "mine")
    assert options.layers()[-1] == tmp_path / "a.yaml"
    assert options.image_values() == {
        "image": {"registry": "registry.test:5000", "pullPolicy": "Never"},
        "web": {"image": {"repository": "team/web", "tag": "1.2"}},
        "modelDefaults": {"image": {"repository": "team/model", "tag": "1.2"}},
        "autoscaler": {"image": {"repository": "team/autoscaler", "tag": "1.2"}},
        "loadtest": {"image": {"repository": "team/loadtest", "tag": "1.2"}},
        "redis": {"image": {"repository": "registry.test:5000/valkey/valkey", "tag": "8"}},
    }


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"E2E_TAG": "1"}, "E2E_TAG"),
        ({"E2E_VALUES": "no-such-file.yaml"}, r"no-such-file\.yaml"),
        ({"E2E_REDIS_IMAGE": "redis"}, "repository:tag"),
        ({"E2E_REDIS_IMAGE": "host:5000/redis"}, "repository:tag"),
    ],
)
def test_a_wrong_option_is_named(env: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Options.from_env(env)


def test_an_image_is_split_at_its_tag() -> None:
    assert split_image("redis:8") == ("redis", "8")
    assert split_image("") == ("", "")


# -- the state of a cluster -------------------------------------------------------------------


def deployment(replicas: int = 1, *, updated: int = 1, seen: int = 1) -> Object:
    return {
        "kind": "Deployment",
        "metadata": {"name": "web", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}},
        "status": {"observedGeneration": seen, "updatedReplicas": updated},
    }


def pod(*, ready: bool = True, leaving: bool = False, app: str = "web") -> Object:
    metadata: dict[str, Any] = {"name": "pod", "labels": {"app": app}}
    if leaving:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"kind": "Pod", "metadata": metadata, "status": {"conditions": conditions}}


def test_a_release_with_all_pods_ready_waits_for_nothing() -> None:
    assert unsettled([deployment()], [pod(), pod(app="other", ready=False)]) == []


@pytest.mark.parametrize(
    ("workload", "pods", "said"),
    [
        (deployment(), [], "0 of 1 pods are ready"),
        (deployment(), [pod(ready=False)], "0 of 1 pods are ready"),
        (deployment(), [pod(), pod(leaving=True, ready=False)], "leaving"),
        (deployment(), [pod(), pod()], "2 of 1 pods are ready"),
        (deployment(seen=0), [pod()], "has not been observed yet"),
        (deployment(updated=0), [pod()], "0 of 1 pods are new"),
        (deployment(2, updated=2), [pod()], "1 of 2 pods are ready"),
    ],
)
def test_the_reasons_why_a_release_is_unsettled(
    workload: Object, pods: list[Object], said: str
) -> None:
    (reason,) = unsettled([workload], pods)

    assert said in reason


def test_a_new_workload_has_no_status() -> None:
    fresh = {**deployment(), "status": {}}

    assert len(unsettled([fresh], [])) == 3


def test_pods_that_were_started_again_are_counted() -> None:
    pods = [
        {"metadata": {"name": name}, "status": {"containerStatuses": [{"restartCount": count}]}}
        for name, count in [("calm", 0), ("restless", 2)]
    ]

    assert restarts(pods) == {"restless": 2}


def test_objects_that_the_cluster_writes_by_itself_are_not_listed() -> None:
    text = "configmaps\nevents\nevents.events.k8s.io\npods.metrics.k8s.io\ningresses.x.io\n\n"

    assert listed_kinds(text) == ["configmaps", "ingresses.x.io"]


# -- the log of a client ----------------------------------------------------------------------


def line(**more: Any) -> str:
    usual = {
        "thread": 0,
        "at": 1.0,
        "seconds": 0.5,
        "status": 200,
        "labels": ["star"],
        "expected": ["star"],
        "files": ["star-1.jpg"],
        "reused": True,
        "retry_after": None,
    }
    return json.dumps({**usual, **more}) + "\n"


def summary(requests: int) -> str:
    return json.dumps({"summary": {"requests": requests, "right": requests, "seconds": 1.0}}) + "\n"


def test_a_report_tells_right_from_failed() -> None:
    report = report_of(line() + line(status=503, at=7.0, code="busy", message="m") + summary(2))

    assert [each.status for each in report.failed] == [503]
    assert report.last_failure_s == 7.5
    assert str(report).startswith("2 requests: 1 503 busy, 1 right\n  at 7.0 s, for 0.5 s, kept")


def test_a_log_is_read_while_it_grows() -> None:
    assert len(answers_in(line() + line() + line()[:20])) == 2
    assert answers_in("") == []


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (line(), "no summary"),
        (line() + summary(2), "cut"),
        (line() + "Traceback (most recent call last):\n", "Traceback"),
        ("3\n", "has written: 3"),
    ],
)
def test_an_incomplete_log_is_an_error(log: str, said: str) -> None:
    with pytest.raises(BrokenLogError, match=said):
        report_of(log)


@pytest.mark.parametrize(
    ("more", "is_clear"),
    [
        ({"retry_after": "2"}, True),
        ({"retry_after": None}, False),
        ({"retry_after": "0"}, False),
        ({"retry_after": "soon"}, False),
        ({"retry_after": "2", "code": "internal"}, False),
        ({"retry_after": "2", "message": ""}, False),
        ({"retry_after": "2", "status": 500}, False),
    ],
)
def test_a_refusal_is_clear_when_it_says_why_and_when_to_come_back(
    more: dict[str, Any], is_clear: bool
) -> None:
    usual = {"status": 503, "code": "busy", "message": "too much", "labels": []}
    (answer,) = answers_in(line(**{**usual, **more}))

    assert answer.is_clear_refusal == is_clear


def test_every_refusal_that_is_documented_is_known() -> None:
    text = (ROOT / "docs" / "http-api.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| 503 |")]
    documented = {code for row in rows for code in re.findall(r"`(\w+)`", row.split("|")[2])}

    assert CLEAR_REFUSALS == documented >= {"busy", "redis_unavailable"}


def test_a_timeout_is_explained_when_it_says_so() -> None:
    (explained, bare) = answers_in(
        line(status=504, code="timed_out", message="no result") + line(status=504)
    )

    assert explained.is_explained_timeout
    assert not bare.is_explained_timeout
