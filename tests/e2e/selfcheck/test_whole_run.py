"""The cluster tests themselves, on the small cluster: they pass, and each finds its fault."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.chart.helm import PROGRAMS, ROOT, Helm
from tests.e2e.selfcheck.small_cluster import SmallCluster
from tests.e2e.selfcheck.small_programs import Programs, on_path

pytestmark = pytest.mark.timeout(300)


@dataclass
class Run:
    """One run of the cluster tests."""

    code: int
    text: str
    programs: Programs

    def count(self, outcome: str) -> int:
        found = re.search(rf"(\d+) {outcome}", self.text.splitlines()[-1])
        return int(found[1]) if found else 0


RunTests = Callable[..., Run]


@pytest.fixture
def run_tests(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunTests]:
    """Run the cluster tests, all or those that ``-k`` chooses, on a cluster with these faults."""
    cache = getattr(request.config, "cache", None)
    unpacked = cache.mkdir("helm") if cache else tmp_path_factory.mktemp("helm-programs")
    helm = Helm(PROGRAMS[0].unpacked(unpacked), tmp_path_factory.mktemp("helm"))
    with ExitStack() as started:

        def run(chosen: str = "", *faults: str, **env: str) -> Run:
            cluster = SmallCluster(tmp_path, helm, frozenset(faults))
            started.callback(cluster.close)
            programs = started.enter_context(on_path(tmp_path, cluster))
            done = run_pytest(tmp_path, "-k", chosen, **env)
            return Run(done.returncode, done.stdout, programs)

        yield run


#: They need what the small cluster lacks: an autoscaler that runs, a Job that sends requests.
BEYOND = {"test_6_autoscaler", "test_7_loadtest"}


def run_pytest(path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("E2E_")}
    plugins = ["-p", "no:cacheprovider", "-p", "tests.e2e.selfcheck.quick"]
    every = sorted((ROOT / "tests" / "e2e").glob("test_*.py"))
    tests = [str(path) for path in every if path.stem not in BEYOND]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, *tests, *arguments],
        env={
            **kept,
            "PYTHONPATH": f"{ROOT}:{kept.get('PYTHONPATH', '')}",
            "PATH": str(path),
            **env,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_they_pass_on_a_cluster_without_faults(run_tests: RunTests) -> None:
    run = run_tests("", "policies are enforced")

    assert run.code == 0, run.text
    assert run.count("skipped") == 0, run.text


@pytest.mark.parametrize(
    ("chosen", "fault"),
    [
        ("every_sample", "wrong labels"),
        ("several_pictures", "wrong labels"),
        ("rollout and web", "web pods drop requests"),
        ("rollout and model", "model pods drop requests"),
        ("grace_period and web", "web pods drop requests"),
        ("model_pod_that_is_killed", "model pods drop requests"),
        ("web_pod_that_is_killed", "slow endpoints"),
        ("redis_is_replaced", "no Retry-After"),
        ("redis_is_replaced", "internal errors without Redis"),
        ("redis_is_replaced", "redis pods drop requests"),
        ("scaling", "model pods drop requests"),
        ("upgrade_with_other", "web pods drop requests"),
        ("keeps_redis", "the password changes"),
        ("before_the_old_one_goes", "hooks do not run"),
        ("as_root and web", "pods are root"),
        ("write_to_its_root and redis", "the root can be written to"),
        ("without_the_password", "Redis needs no password"),
        ("uninstalling", "uninstall leaves an object"),
        ("uninstalling", "uninstall leaves an object without a label"),
    ],
)
def test_a_fault_is_found(run_tests: RunTests, chosen: str, fault: str) -> None:
    run = run_tests(chosen, fault)

    assert run.code == 1, run.text
    assert (run.count("failed"), run.count("passed")) == (1, 0), run.text


def test_a_redis_that_is_open_to_all_is_found(run_tests: RunTests) -> None:
    run = run_tests("reached_from_other_pods", "policies are enforced", "Redis is open")

    assert (run.code, run.count("failed")) == (1, 1), run.text


def test_a_network_that_does_not_enforce_policies_is_named(run_tests: RunTests) -> None:
    run = run_tests("reached_from_other_pods")

    assert (run.code, run.count("skipped")) == (0, 1), run.text
    assert "does not enforce NetworkPolicies" in run.text


def test_without_a_cluster_there_is_one_failure_that_says_what_is_needed(tmp_path: Path) -> None:
    for name in ("kubectl", "helm"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'connection refused' >&2; exit 1\n")
        (tmp_path / name).chmod(0o755)
    done = run_pytest(tmp_path)

    assert done.returncode == 1
    assert "1 error" in done.stdout.splitlines()[-1]
    assert "connection refused" in done.stdout
    assert "They need" in done.stdout
