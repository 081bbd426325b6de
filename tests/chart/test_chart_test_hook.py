"""``helm test``: its program runs for real, against a server that answers right or wrong."""

import json
import os
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.chart.helm import ROOT, Helm, Object
from tests.chart.objects import PodTemplate, of_kind, pod_templates, the
from tests.chart.situations import KEYS, PASSWORD

STAR = (ROOT / "loadtest" / "images" / "star-1.jpg").read_bytes()


@dataclass
class Server:
    """Gives every request the same answer, after some failures, and records the requests."""

    url: str = ""
    status: int = 200
    label: str = "star"
    failures: int = 0
    bodies: list[bytes] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def answer(self) -> tuple[int, Any]:
        if len(self.bodies) <= self.failures:
            return 503, {"success": False, "error": {"code": "redis_unavailable"}}
        if self.status != 200:
            return self.status, {"success": False, "error": {"code": "forbidden"}}
        labels = [self.label, "cross"]
        found = [{"label": each, "probability": 0.5} for each in labels if each]
        return 200, {"success": True, "predictions": found}


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            state.keys.append(self.headers.get("X-API-Key"))
            status, content = state.answer()
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/predict"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@dataclass
class Hook:
    """The test pod of a release, its files laid out below a directory."""

    pod: PodTemplate
    directory: Path

    def run(self, url: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run the container's command as the kubelet would, on this machine's Python."""
        container = self.pod.spec["containers"][0]
        own = {each["name"]: each["value"] for each in container["env"]}
        own = {k: self._here(v) if v.startswith("/") else v for k, v in own.items()}
        program, *arguments = container["command"]
        assert program == "python3"
        return subprocess.run(
            [sys.executable, *map(self._here, arguments)],
            env={"PATH": os.defpath, **own, "URL": url, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _here(self, path: str) -> str:
        return f"{self.directory}{path}"


def hook_of(helm: Helm, directory: Path, *values: Any) -> Hook:
    objects = helm.render(*values, PASSWORD)
    (pod,) = [pod for pod in pod_templates(objects) if pod.is_hook]
    for mount in pod.spec["containers"][0]["volumeMounts"]:
        volume = next(v for v in pod.spec["volumes"] if v["name"] == mount["name"])
        place = Path(f"{directory}{mount['mountPath']}")
        place.mkdir(parents=True)
        for name, content in _files(volume, objects).items():
            (place / name).write_bytes(content)
    return Hook(pod, directory)


def _files(volume: Object, objects: list[Object]) -> dict[str, bytes]:
    if "configMap" in volume:
        config = the(objects, "ConfigMap", volume["configMap"]["name"])
        plain = {name: text.encode() for name, text in config["data"].items()}
        return plain | {k: b64decode(v) for k, v in config.get("binaryData", {}).items()}
    secret = the(objects, "Secret", volume["secret"]["secretName"])
    return {name: b64decode(content) for name, content in secret["data"].items()}


def test_the_right_label_is_a_success(helm4: Helm, server: Server, tmp_path: Path) -> None:
    done = hook_of(helm4, tmp_path).run(server.url)

    assert done.returncode == 0, done.stderr
    assert "star" in done.stdout
    assert server.bodies == [STAR]


@pytest.mark.parametrize("label", ["heart", ""], ids=["another", "none"])
def test_a_wrong_label_is_a_failure(
    helm4: Helm, server: Server, tmp_path: Path, label: str
) -> None:
    server.label = label
    done = hook_of(helm4, tmp_path).run(server.url)

    # Without its label the answer has another one in front.
    assert done.returncode == 1
    assert "'star' was expected" in done.stderr


def test_it_tries_again_while_the_release_starts(
    helm4: Helm, server: Server, tmp_path: Path
) -> None:
    server.failures = 1

    assert hook_of(helm4, tmp_path).run(server.url).returncode == 0
    assert len(server.bodies) == 2


def test_it_gives_up_when_its_time_is_over(helm4: Helm, server: Server, tmp_path: Path) -> None:
    server.failures = 1000
    done = hook_of(helm4, tmp_path).run(server.url, TIMEOUT_S="1")

    assert done.returncode == 1
    assert "redis_unavailable" in done.stdout
    assert "no answer in time" in done.stderr


def test_a_server_that_is_not_there_is_a_failure(helm4: Helm, tmp_path: Path) -> None:
    done = hook_of(helm4, tmp_path).run("http://127.0.0.1:1/predict", TIMEOUT_S="1")

    assert done.returncode == 1


def test_a_refusal_ends_it_at_once(helm4: Helm, server: Server, tmp_path: Path) -> None:
    server.status = 403
    done = hook_of(helm4, tmp_path).run(server.url)

    assert done.returncode == 1
    assert "403" in done.stderr
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ("", KEYS[0]),
        (" priority=background", KEYS[0]),
        (" name=team-a rate=50 burst=100 models=resnet50,shapes", KEYS[0]),
        (" models=resnet50 name=team-a", KEYS[1]),
    ],
    ids=["alone", "with a priority", "for this model too", "for another model"],
)
def test_it_has_the_first_key_that_may_ask_for_the_model(
    helm4: Helm, server: Server, tmp_path: Path, options: str, key: str
) -> None:
    keys = {"apiKeys": {"enabled": True, "keys": [f"{KEYS[0]}{options}", KEYS[1]]}}

    assert hook_of(helm4, tmp_path, keys).run(server.url).returncode == 0
    assert server.keys == [key]


def test_without_a_key_for_the_model_it_says_so(
    helm4: Helm, server: Server, tmp_path: Path
) -> None:
    keys = {"apiKeys": {"enabled": True, "keys": [f"{KEYS[0]} models=resnet50"]}}
    done = hook_of(helm4, tmp_path, keys).run(server.url)

    assert done.returncode == 1
    assert "no key is for the model shapes" in done.stderr
    assert KEYS[0] not in done.stderr


def test_a_key_whose_quota_is_used_up_is_tried_again(
    helm4: Helm, server: Server, tmp_path: Path
) -> None:
    server.status = 429
    done = hook_of(helm4, tmp_path).run(server.url, TIMEOUT_S="3")

    assert "no answer in time" in done.stderr
    assert len(server.bodies) == 2


def test_a_model_with_other_labels_may_answer_with_any(
    helm4: Helm, server: Server, tmp_path: Path
) -> None:
    server.label = "tabby"
    values = {"models": {"shapes": {"network": "resnet50"}}}

    assert hook_of(helm4, tmp_path, values).run(server.url).returncode == 0


def test_it_asks_the_web_service(helm4: Helm) -> None:
    objects = helm4.render({"web": {"service": {"port": 8080}}}, PASSWORD)
    (pod,) = [pod for pod in pod_templates(objects) if pod.is_hook]
    env = {each["name"]: each["value"] for each in pod.spec["containers"][0]["env"]}
    host, _, port = env["URL"].removeprefix("http://").removesuffix("/predict").partition(":")
    service = the(objects, "Service", host)

    assert int(port) == 8080 == service["spec"]["ports"][0]["port"]
    assert "component': 'web'" in str(service["spec"]["selector"])


def test_it_ends_by_itself_and_is_tried_once(helm4: Helm) -> None:
    (pod,) = [pod for pod in pod_templates(helm4.render(PASSWORD)) if pod.is_hook]
    env = {each["name"]: each["value"] for each in pod.spec["containers"][0]["env"]}

    assert pod.spec["restartPolicy"] == "Never"
    assert pod.spec["activeDeadlineSeconds"] > float(env["TIMEOUT_S"])
    # helm test itself waits five minutes.
    assert pod.spec["activeDeadlineSeconds"] < 300


def test_plain_manifests_have_no_hook(helm4: Helm) -> None:
    objects = helm4.render({"manifests": True}, PASSWORD)

    assert not [pod for pod in pod_templates(objects) if pod.is_hook]
    assert "helm.sh/hook" not in str(objects)
    assert of_kind(objects, "Deployment")
