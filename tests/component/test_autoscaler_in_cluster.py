"""How a pod finds the Kubernetes API: address, certificate, and a token that changes."""

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from kubernetes.config import incluster_config
from tests.kubernetes_api import KubernetesApi, serving

from imageserve.autoscaler.kubernetes import connect
from imageserve.errors import ClusterUnavailable, SettingsError

MAY_READ = {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]}


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1, signed by itself; gives (certificate, key)."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH")
    folder.mkdir()
    certificate, key = folder / "ca.crt", folder / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate), "-days", "2"]
    subprocess.run(
        [openssl, "req", "-x509", *curve, *names, *files], check=True, capture_output=True
    )
    return certificate, key


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls") / "own")


@pytest.fixture
def api(certificate: tuple[Path, Path]) -> Iterator[KubernetesApi]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    with serving(KubernetesApi([MAY_READ]), tls) as served:
        served.add_deployment("model", 3)
        yield served


@pytest.fixture
def account(
    api: KubernetesApi,
    certificate: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A service account's files as Kubernetes mounts them, and the variables it sets."""
    shutil.copy(certificate[0], tmp_path / "ca.crt")
    (tmp_path / "token").write_text("first")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    return tmp_path


def test_a_pod_asks_with_its_own_token_in_its_own_namespace(
    api: KubernetesApi, account: Path
) -> None:
    cluster = connect("default", "pod-1")

    assert cluster.deployment("model").replicas == 3
    assert (cluster.namespace, api.requests[0].user) == ("default", "bearer first")


def test_a_token_that_changed_is_read_again(
    api: KubernetesApi, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library reads it once a minute; here a minute is over at once.
    hasty = SimpleNamespace(datetime=datetime, timedelta=lambda minutes: timedelta(0))
    monkeypatch.setattr(incluster_config, "datetime", hasty)
    cluster = connect("default", "pod-1")
    cluster.deployment("model")

    (account / "token").write_text("second")
    cluster.deployment("model")

    assert [each.user for each in api.requests] == ["bearer first", "bearer second"]


def test_an_api_with_another_certificate_is_not_talked_to(
    api: KubernetesApi, account: Path
) -> None:
    certificate, _ = make_certificate(account / "foreign")
    shutil.copy(certificate, account / "ca.crt")

    with pytest.raises(ClusterUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        connect("default", "pod-1").deployment("model")

    assert api.requests == []


def test_a_pod_without_a_token_says_so(api: KubernetesApi, account: Path) -> None:
    (account / "token").unlink()

    with pytest.raises(SettingsError, match="not a pod with a service account's token"):
        connect("default", "pod-1")
