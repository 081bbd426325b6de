"""The notes after an installation: their commands fit the objects that were installed."""

import re
import shlex
import subprocess
from typing import Any

import pytest
from tests.chart.helm import Helm
from tests.chart.objects import of_kind, title
from tests.chart.situations import (
    KEYS,
    PASSWORD,
    SHIPPED,
    SITUATIONS,
    Situation,
    each_situation,
    external_redis,
)

ON = {"enabled": True}
HOST = {"enabled": True, "hosts": ["pictures.test"]}
TLS = {**HOST, "tls": [{"hosts": ["pictures.test"], "secretName": "s"}]}
ROUTE = {"enabled": True, "parentRefs": [{"name": "g"}], "hostnames": ["route.test"]}

SAID: list[Any] = [
    pytest.param(
        {},
        ["port-forward", "http://localhost:8080", "helm test"],
        ["X-API-Key", "browser", "gRPC"],
        id="default",
    ),
    pytest.param({"web": {"page": ON}}, ["Or open $URL in a browser"], [], id="the page"),
    pytest.param({"web": {"grpc": ON}}, ["-web.pictures:8001"], ["browser"], id="gRPC"),
    pytest.param({"ingress": HOST}, ["URL=http://pictures.test"], ["port-forward"], id="ingress"),
    pytest.param({"ingress": TLS}, ["URL=https://pictures.test"], ["port-forward"], id="with TLS"),
    pytest.param({"ingress": ON}, ["kubectl get ingress"], ["port-forward"], id="any host"),
    pytest.param(
        {"httpRoute": ROUTE, "checkApis": False}, ["://route.test"], ["port-forward"], id="route"
    ),
    pytest.param(
        {"ingress": HOST, "httpRoute": ROUTE, "checkApis": False},
        ["URL=http://pictures.test"],
        ["port-forward"],
        id="plain ingress beside a route",
    ),
    pytest.param(
        {"web": {"service": {"type": "NodePort"}}}, ["nodePort"], ["port-forward"], id="node port"
    ),
    pytest.param(
        {"web": {"service": {"type": "LoadBalancer", "port": 8080}}},
        ["loadBalancer", ":8080"],
        ["port-forward"],
        id="load balancer",
    ),
    pytest.param(
        {"apiKeys": {"enabled": True, "keys": KEYS}},
        ["X-API-Key", "get secret"],
        KEYS,
        id="api keys",
    ),
    pytest.param(
        {"apiKeys": {"enabled": True, "existingSecret": "own"}}, [" own "], [], id="own api keys"
    ),
    pytest.param(
        {"models": {"shapes": {"network": "resnet50"}}},
        ["downloads its weights"],
        [],
        id="download",
    ),
    pytest.param(
        {
            "models": {"other": {"network": "stand-in"}},
            "defaultModel": "other",
            "limits": {"queueBytesLimit": "64Mi"},
        },
        ["serves other, shapes", "?model="],
        [],
        id="several models",
    ),
    pytest.param({"tests": {"enabled": False}}, ["curl"], ["helm test"], id="no test hook"),
]


@pytest.mark.parametrize(("values", "present", "absent"), SAID)
def test_the_notes_fit_what_was_installed(
    helm4: Helm, values: Any, present: list[str], absent: list[str]
) -> None:
    # Helm 3 shows no notes without a cluster.
    notes = helm4.notes(values, PASSWORD, namespace="pictures")

    assert [each for each in present if each not in notes] == []
    assert [each for each in absent if each in notes] == []


def test_an_external_redis_needs_no_advice_on_its_volume(helm4: Helm) -> None:
    assert "redis.persistence" in helm4.notes(PASSWORD)
    assert "redis.persistence" not in helm4.notes(external_redis())
    assert "redis.persistence" not in helm4.notes({"redis": {"persistence": ON}}, PASSWORD)


def commands(notes: str) -> list[str]:
    """Return the lines that the user should type."""
    return [line.strip() for line in notes.splitlines() if line.startswith("   ") and line.strip()]


def test_the_key_of_the_example_is_sent_without_its_options(helm4: Helm) -> None:
    keys = [f"{KEYS[0]} name=team-a rate=0.5 models=shapes priority=background", KEYS[1]]
    notes = helm4.notes({"apiKeys": {"enabled": True, "keys": keys}}, PASSWORD)
    (filters,) = re.findall(r"base64 -d \| (.*?)\)", notes)

    found = subprocess.run(
        ["/bin/sh", "-c", filters],
        input="\n".join(["# ours", *keys]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == f"{KEYS[0]}\n"


# An installation takes no --api-versions.
NOTED = [s for s in SITUATIONS if s.release != "r" * 53 and s.name != "a GPU by resource claim"]


@each_situation(NOTED)
def test_every_command_is_one_that_a_shell_takes(helm4: Helm, situation: Situation) -> None:
    notes = helm4.notes(*situation.values, {"checkApis": False}, **situation.named())

    typed = [line for line in commands(notes) if re.match(r"kubectl|curl|URL=|helm", line)]
    assert len(typed) >= 3
    assert all(shlex.split(line) for line in typed)
    assert "<no value>" not in notes
    assert "://*" not in notes, "a wildcard is no address to call"
    assert not re.search(r"\n\n\n", notes)


@each_situation([each for each in NOTED if each not in SHIPPED])
def test_every_object_that_a_command_names_is_installed(helm4: Helm, situation: Situation) -> None:
    notes = helm4.notes(*situation.values, {"checkApis": False}, **situation.named())
    objects = situation.render(helm4)
    names = {title(each).lower() for each in objects} | {each.lower() for each in situation.outside}

    for kind, name in re.findall(r"kubectl get (\w+) --namespace \S+ ([\w.-]+)", notes):
        assert f"{kind}/{name}" in names
    for name in re.findall(r"(service/[\w.-]+)", notes):
        assert name in names


def test_every_command_says_the_namespace_and_the_wait_finds_the_pods(helm4: Helm) -> None:
    notes = helm4.notes(PASSWORD, namespace="pictures", release="two")
    typed = [line for line in commands(notes) if "kubectl" in line]
    (wait,) = [line for line in typed if "kubectl wait" in line]
    labels = dict(each.split("=") for each in wait.split("--selector ")[1].split(","))

    assert all("--namespace pictures" in line for line in typed)
    for each in of_kind(helm4.render(PASSWORD, release="two"), "Deployment"):
        assert labels.items() <= each["metadata"]["labels"].items()
