"""Fixtures of the cluster tests: one release that all of them use, in a namespace of their own.

`make test-e2e` runs them; README.md says what they need.
"""

import os
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from tests.e2e.cluster import Cluster
from tests.e2e.commands import CommandError, Helm, Kubectl, eventually, located
from tests.e2e.manifests import namespace
from tests.e2e.options import OptionError, Options
from tests.e2e.release import Release

HERE = Path(__file__).parent
LONGEST_TEST_S = 2400

_running: list[Cluster] = []
"""The one cluster, for the evidence when a test fails."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.timeout(LONGEST_TEST_S))


@pytest.fixture(scope="session")
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """The cluster, reached and prepared, or one failure that lists the requirements."""
    with _or_give_up(request.session):
        found = _cluster(tmp_path_factory.mktemp("programs"))
        found.check()
    own = not found.options.namespace
    if own:
        found.kubectl.create(namespace(found.kubectl.namespace))
    _running.append(found)
    try:
        found.prepare()
        yield found
    finally:
        _running.clear()
        found.tidy()
        if own:
            found.kubectl.delete("namespace", found.kubectl.namespace)


def _cluster(programs: Path) -> Cluster:
    options = Options.from_env(os.environ)
    run = secrets.token_hex(3)
    where = options.namespace or f"imageserve-e2e-{run}"
    kubectl = Kubectl(located("kubectl", programs), options.context, where)
    helm = Helm(located("helm", programs), where, options.context)
    return Cluster(kubectl, helm, options, run)


@pytest.fixture(scope="session")
def before(cluster: Cluster) -> set[str]:
    """All objects of the namespace before anything was installed."""
    return eventually(cluster.at_rest, "the namespace is complete")


@pytest.fixture(scope="session")
def installed(
    request: pytest.FixtureRequest, cluster: Cluster, before: set[str]
) -> Iterator[Release]:
    """The release, installed once for all tests."""
    del before  # It must be known by now.
    release = cluster.release("pictures")
    try:
        with _or_give_up(request.session):
            release.install()
        yield release
    finally:
        if cluster.helm.has(release.name):
            release.uninstall()


@pytest.fixture
def release(installed: Release) -> Release:
    """The release, with every pod ready and none leaving."""
    installed.settle()
    return installed


class _or_give_up:  # noqa: N801 - it is used as a function
    """If this block fails, no other test can pass, so none is run."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        self._session.shouldfail = "the cluster tests cannot begin"
        if isinstance(error, CommandError | OptionError):
            pytest.fail(str(error), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show pods, events and logs when a test fails."""
    del item, call
    report = yield
    if report.failed:
        for cluster in _running:
            report.sections.extend(cluster.evidence())
    return report
