"""From a store to an answer: what the chart's init container runs, and a worker that serves it."""

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.helm import PROGRAMS, Helm, Object
from tests.chart.objects import of_kind, pod_templates
from tests.chart.situations import PASSWORD
from tests.model_server import (
    S3_CREDENTIALS,
    ModelServer,
    make_certificates,
    model_server,
    s3_put,
    s3_server,
    serve_hub,
)
from tests.onnx_files import write_onnx
from tests.pictures import jpeg
from tests.system.conftest import MakeStack
from tests.system.stack import clean_environment

from imageserve.models.files import sha256_of


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    with model_server(make_certificates(tmp_path_factory.mktemp("web"))) as server:
        yield server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as url:
        yield url


@pytest.fixture
def helm4(request: pytest.FixtureRequest, tmp_path: Path) -> Helm:
    cache = getattr(request.config, "cache", None)
    unpacked = cache.mkdir("helm") if cache else tmp_path
    return Helm(PROGRAMS[0].unpacked(unpacked), tmp_path)


def files_of(version: str, folder: Path) -> dict[str, bytes]:
    """Return the files of a model whose labels name its version."""
    labels = "".join(f"{version} {each}\n" for each in ("circle", "square", "cross"))
    return {
        "model.onnx": write_onnx(folder / "model.onnx").read_bytes(),
        "labels.txt": labels.encode(),
        "imageserve.yaml": f"version: '{version}'\n".encode(),
    }


def archive_of(files: dict[str, bytes], path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"flowers/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def rendered(helm: Helm, **fetch: Any) -> list[Object]:
    flowers = {
        "inputSize": 8,
        "queue": "image_queue",
        "versions": {"dir": "/models", "existingClaim": "versions"},
        "fetch": fetch,
    }
    values = {"models": {"shapes": {"enabled": False}, "flowers": flowers}}
    return helm.render(values, PASSWORD)


def init_container(objects: list[Object]) -> Object:
    (pod,) = [pod for pod in pod_templates(objects) if "initContainers" in pod.spec]
    (container,) = pod.spec["initContainers"]
    found: Object = container
    return found


def run_as_in_a_pod(container: Object, models: Path, **env: str) -> Object:
    """Run an init container's command, with the folder ``models`` for its volume of that name.

    Returns the last line of its log.
    """
    (mount,) = [each["mountPath"] for each in container["volumeMounts"]]
    assert mount == "/models"
    arguments = [each.replace("/models/", f"{models}/", 1) for each in container["args"][3:]]
    own = {each["name"]: each["value"] for each in container["env"]}
    ended = subprocess.run(
        [sys.executable, "-m", "imageserve", *container["args"][:3], *arguments],
        env={**clean_environment(), **own, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    said: Object = json.loads(ended.stderr.splitlines()[-1])
    return said


def test_models_from_three_places_are_served_one_after_the_other(
    helm4: Helm, web: ModelServer, s3: str, tmp_path: Path, make_stack: MakeStack
) -> None:
    models = tmp_path / "models"
    archive = archive_of(files_of("1", tmp_path), tmp_path / "flowers.tar.gz")
    web.files["/flowers.tar.gz"] = archive.read_bytes()
    s3_put(s3, "models", {f"flowers/2/{k}": v for k, v in files_of("2", tmp_path).items()})
    serve_hub(web, web, "owner/flowers", files_of("3", tmp_path), "main")

    trusted = {"SSL_CERT_FILE": str(web.authority), "HF_ENDPOINT": web.url, "NO_PROXY": "*"}
    store = {**S3_CREDENTIALS, "AWS_ENDPOINT_URL": s3}
    sha256 = sha256_of(archive)
    objects = rendered(
        helm4, source=f"{web.url}/flowers.tar.gz", sha256=sha256, version="1", existingSecret="s"
    )
    for _ in range(2):  # The pods of a model share the claim: the second finds it there.
        said = run_as_in_a_pod(init_container(objects), models, **trusted)
    assert (said["message"], said["files"]) == ("already there, checksums right", 3)
    for version, source in (("2", "s3://models/flowers/2"), ("3", "hf://owner/flowers")):
        other = init_container(rendered(helm4, source=source, version=version))
        run_as_in_a_pod(other, models, **trusted, **store)

    stack = make_stack(
        MODELS_FILE=str(models_file(objects, models, tmp_path)),
        MODEL="flowers",
        MODELS_DIR=str(models),
        WEB_PROCESSES="1",
    )
    for version in "123":
        if version > "1":
            use = stack.run("use", "models", "use", f"flowers@{version}", "--wait", "60")
            assert use.wait() == 0, use.output()
        reply = stack.http.predict(jpeg())
        assert (reply.status, reply.headers["x-model-version"]) == (200, version)
        assert {label.split()[0] for label in reply.labels} == {version}


def models_file(objects: list[Object], models: Path, folder: Path) -> Path:
    """Write the chart's MODELS_FILE, with the folder ``models`` for the volume."""
    (text,) = [
        each["data"]["models.yaml"]
        for each in of_kind(objects, "ConfigMap")
        if "models.yaml" in each["data"]
    ]
    entries = yaml.safe_load(text)
    assert entries["flowers"]["network"] == "/models/flowers/1"
    path = folder / "models.yaml"
    path.write_text(text.replace("/models/", f"{models}/"))
    return path
