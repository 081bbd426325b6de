"""The chart as real helm programs render it: ``helm`` is each in turn, ``helm4`` the newer."""

from pathlib import Path

import pytest
from tests.chart.helm import PROGRAMS, Helm, Program

_Made = dict[str, Helm]


@pytest.fixture(scope="session")
def _unpacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs are unpacked: kept from run to run, as 60 MB take their time."""
    cache = getattr(request.config, "cache", None)
    return cache.mkdir("helm") if cache else tmp_path_factory.mktemp("helm-programs")


@pytest.fixture(scope="session")
def _helms() -> _Made:
    return {}


@pytest.fixture
def helm4(_helms: _Made, _unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return _helm(PROGRAMS[0], _helms, _unpacked, tmp_path_factory)


@pytest.fixture(params=PROGRAMS, ids=str)
def helm(
    request: pytest.FixtureRequest,
    _helms: _Made,
    _unpacked: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Helm:
    return _helm(request.param, _helms, _unpacked, tmp_path_factory)


def _helm(
    program: Program, made: _Made, unpacked: Path, directories: pytest.TempPathFactory
) -> Helm:
    if program.name not in made:
        path = program.unpacked(unpacked)
        made[program.name] = Helm(path, directories.mktemp(program.name))
    return made[program.name]
