"""Real kubectl and helm accept the command lines, tried without a cluster."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.chart.helm import Helm as Chart
from tests.e2e.cluster import Cluster
from tests.e2e.commands import CommandError, Helm, Kubectl, call, eventually, located
from tests.e2e.options import Options
from tests.e2e.release import labelled
from tests.e2e.stress import StressJob

RENDERED = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"
UNREACHABLE = r"connection refused|unreachable|was refused"


@pytest.fixture
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeconfig with a context ``nowhere``, where no server listens."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "contexts": [{"name": "nowhere", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(path))


@pytest.fixture
def kubectl(no_cluster: None, tmp_path: Path) -> Kubectl:
    try:
        return Kubectl(located("kubectl", tmp_path), "nowhere", "pictures")
    except CommandError as error:
        pytest.skip(str(error))


CALLS: dict[str, Callable[[Kubectl], object]] = {
    "create": lambda k: k.create({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}),
    "get one": lambda k: k.json("get", "pod", "p"),
    "get by label": lambda k: k.objects("deployments,statefulsets", "a=b,c=d"),
    "get names": lambda k: k("get", "pods", "--output=name", "--ignore-not-found"),
    "delete": lambda k: k.delete("pod", "p"),
    "delete at once": lambda k: k.delete("pod", "p", wait=False, force=True),
    "delete by label": lambda k: k("delete", "pods", "--selector=a=b", "--ignore-not-found"),
    "exec": lambda k: k.exec("p", "test", "!", "-e", "/file"),
    "logs": lambda k: k("logs", "pod/p", "--tail=60", "--previous"),
    "restart": lambda k: k("rollout", "restart", "deployment", "--selector=a=b"),
    "events": lambda k: k("get", "events", "--sort-by=.lastTimestamp"),
    "wide": lambda k: k("get", "pods", "--output=wide"),
    "create from a file": lambda k: k.create_from(RENDERED),
    "delete from a file": lambda k: k.delete_from(RENDERED),
    "logs of all": lambda k: StressJob("j", 2, k).logs(),
    "events about one": lambda k: k.json("get", "events", "--field-selector=involvedObject.name=d"),
    "kinds": lambda k: labelled(k, "a=b"),
    "version": lambda k: k("version", "--request-timeout=15s", "--output=json"),
}


@pytest.mark.parametrize("name", CALLS)
def test_kubectl_accepts_the_command_line(kubectl: Kubectl, name: str) -> None:
    with pytest.raises(CommandError, match=UNREACHABLE):
        CALLS[name](kubectl)


@pytest.mark.usefixtures("no_cluster")
def test_helm_accepts_the_command_lines(helm_program: Path) -> None:
    helm = Helm(str(helm_program), "pictures", "nowhere", timeout_s=5)
    for ask in (helm.test, helm.uninstall, helm.has, lambda name: helm.upgrade(name, [{"a": 1}])):
        with pytest.raises(CommandError, match=UNREACHABLE):
            ask("release")


def test_a_missing_cluster_is_named_with_the_requirements(kubectl: Kubectl) -> None:
    cluster = Cluster(kubectl, Helm("helm", "pictures"), Options(), "run")

    with pytest.raises(CommandError, match=r"(?s)none can be reached.*127\.0\.0\.1:1.*They need"):
        cluster.check()


def test_the_chart_accepts_the_values_of_all_options(chart: Chart) -> None:
    options = Options(
        registry="reg.test",
        web_repository="a/web",
        model_repository="a/model",
        tag="1.2",
        pull_policy="Never",
        redis_image="reg.test/redis:8",
        autoscaler_repository="a/scale",
        loadtest_repository="a/load",
    )
    whole = {"autoscaling": {"mode": "builtin"}, "loadtest": {"enabled": True}}
    text = chart.text(*options.layers(), whole)

    ours = [f"reg.test/a/{name}:1.2" for name in ("web", "model", "scale", "load")]
    for image in (*ours, "reg.test/redis:8"):
        assert f'image: "{image}"' in text
    assert "imagePullPolicy: IfNotPresent" not in text


def test_programs_are_found_on_path_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kubectl").write_text("#!/bin/sh\n")
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert located("kubectl", tmp_path / "unused") == str(tmp_path / "kubectl")


@pytest.mark.parametrize(("name", "verb"), [("kubectl", "version"), ("helm", "version")])
def test_without_programs_on_path_those_in_the_wheel_are_used(
    chart: Chart, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, verb: str
) -> None:
    del chart  # It skips where there is no wheel.
    monkeypatch.setenv("PATH", "")
    program = located(name, tmp_path)

    assert program == str(tmp_path / name)
    assert "v" in call([program, verb, *(["--client"] if name == "kubectl" else [])])


def test_the_error_of_a_failed_command_has_its_output() -> None:
    with pytest.raises(CommandError, match=r"(?s)sh -c.*out.*err"):
        call(["sh", "-c", "echo out; echo err >&2; exit 3"])
    with pytest.raises(CommandError, match=r"no end after 0\.1 s"):
        call(["sleep", "5"], timeout_s=0.1)
    assert call(["cat"], stdin="in") == "in"


def test_waiting_outlasts_failures_and_ends_with_the_last_one() -> None:
    tries = iter(["fail", "", "there"])

    def find() -> str:
        found = next(tries)
        return fail() if found == "fail" else found

    def fail() -> str:
        raise CommandError("the reason")

    assert eventually(find, "something") == "there"
    with pytest.raises(pytest.fail.Exception, match=r"(?s)not within 0 s: something.*the reason"):
        eventually(fail, "something", 0)
