"""A cluster small enough to live in this process, with a ``kubectl`` and a ``helm`` of its own.

It is there to try the cluster tests themselves. Workloads replace their pods and Services answer
over HTTP, but no pod runs anything except those of the clients, which are processes here. The
real helm renders the objects of a release from the real chart. ``faults`` are faults to simulate;
the tests must find each.
"""

import hashlib
import json
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.chart.helm import Helm, Object
from tests.chart.objects import annotations, of_kind
from tests.e2e.manifests import FILES, OURS, PICTURES
from tests.e2e.selfcheck.small_service import Service
from tests.e2e.state import COMPONENT, INSTANCE, is_leaving, is_ready, labels_of, name_of

START_S = 0.2
LEAVE_S = 0.5
TICK_S = 0.02
LISTENER_IP = "10.9.8.7"

#: As ``kubectl api-resources`` lists them, by kind.
PLURALS = {
    "ConfigMap": "configmaps",
    "Job": "jobs.batch",
    "Pod": "pods",
    "Secret": "secrets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "Deployment": "deployments.apps",
    "StatefulSet": "statefulsets.apps",
    "NetworkPolicy": "networkpolicies.networking.k8s.io",
    "PodDisruptionBudget": "poddisruptionbudgets.policy",
}
KINDS = {
    word: kind
    for kind, plural in PLURALS.items()
    for word in (plural, plural.partition(".")[0], kind.lower())
}
_WORKLOADS = ("Deployment", "StatefulSet")


class RefusedError(Exception):
    """What a program says on standard error before it ends with status 1."""


class SmallCluster:
    """The objects of one namespace, and the controllers that change them."""

    def __init__(self, directory: Path, helm: Helm, faults: frozenset[str] = frozenset()) -> None:
        self.directory = directory
        self.faults = faults
        self.lock = threading.RLock()
        self.services: dict[str, Service] = {}
        self._helm = helm
        self._objects: dict[tuple[str, str], Object] = {}
        self._since: dict[str, float] = {}
        self._clients: dict[str, subprocess.Popen[bytes]] = {}
        self._open_port = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self._controller = threading.Thread(target=self._control)
        self.put({"kind": "ServiceAccount", "metadata": {"name": "default"}})
        self.put({"kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}})
        self._controller.start()

    def close(self) -> None:
        self._ended.set()
        self._controller.join()
        for each in self._clients.values():
            each.kill()
            each.wait()
        for service in self.services.values():
            service.close()
        self._open_port.close()

    # -- objects ------------------------------------------------------------------------------

    def put(self, obj: Object) -> tuple[str, str]:
        """Create or replace an object, and return its key."""
        key = (obj["kind"], name_of(obj))
        with self.lock:
            old = self._objects.get(key)
            if old and obj["kind"] in _WORKLOADS:
                changed = old["spec"] != obj["spec"]
                obj["metadata"]["generation"] = old["metadata"]["generation"] + changed
            else:
                obj["metadata"] = {"generation": 1, **obj["metadata"]}
            self._objects[key] = obj
        return key

    def of(self, kind: str, chosen: str = "") -> list[Object]:
        """Return the objects of a kind (any spelling) that a selector chooses."""
        labels = dict(each.split("=") for each in chosen.split(",") if each)
        with self.lock:
            found = [each for (k, _), each in self._objects.items() if k == KINDS[kind]]
        return [each for each in found if labels.items() <= labels_of(each).items()]

    def drop(self, kind: str, name: str) -> None:
        with self.lock:
            self._objects.pop((kind, name), None)

    def wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not condition():
            if time.monotonic() > end:
                raise RefusedError("timed out waiting for the condition")
            time.sleep(TICK_S)

    # -- releases -----------------------------------------------------------------------------

    def upgrade(self, release: str, files: Sequence[Path]) -> None:
        password = self._known_password(release)
        rendered = self._helm.render(*files, *password, release=release)
        if "hooks do not run" not in self.faults:
            self._run_hooks(release, rendered)
        installed = [o for o in rendered if "helm.sh/hook" not in str(o["metadata"])]
        with self.lock:
            new = {self.put(each) for each in installed}
            for kind, name in self._of_release(release) - new:
                if kind != "Pod":
                    self.drop(kind, name)
            labels = {"owner": "helm", "name": release}
            self.put({"kind": "Secret", "metadata": {"name": record(release), "labels": labels}})
            service = self.services.setdefault(release, Service(self.faults))
        self.wait(lambda: not self._unready(release))
        service.keys = _keys(installed)

    def _run_hooks(self, release: str, rendered: list[Object]) -> None:
        """Run the Jobs before an upgrade: they fail if nothing listens at the port of Redis."""
        is_there = record(release) in map(name_of, self.of("secrets"))
        hooks = [o for o in rendered if annotations(o).get("helm.sh/hook") == "pre-upgrade"]
        for job in of_kind(hooks, "Job") if is_there else []:
            self.put(job)
            if ":1/" in str(job["spec"]):
                raise RefusedError("UPGRADE FAILED: pre-upgrade hooks failed: job failed")
            self.drop("Job", name_of(job))

    def uninstall(self, release: str) -> None:
        with self.lock:
            for kind, name in self._of_release(release):
                if kind in _WORKLOADS:
                    self.drop(kind, name)
            for pod in self.of("pods", f"{INSTANCE}={release}"):
                self.delete_pod(name_of(pod))
            for kind, name in self._of_release(release):
                if kind != "Pod":
                    self.drop(kind, name)
            self.drop("Secret", record(release))
            if "uninstall leaves an object" in self.faults:
                self._leave({INSTANCE: release})
            if "uninstall leaves an object without a label" in self.faults:
                self._leave({})
        self.wait(lambda: not self.of("pods", f"{INSTANCE}={release}"))
        self.services.pop(release).close()

    def _leave(self, labels: dict[str, str]) -> None:
        self.put({"kind": "ConfigMap", "metadata": {"name": "left", "labels": labels}})

    def _of_release(self, release: str) -> set[tuple[str, str]]:
        return {k for k, each in self._objects.items() if labels_of(each).get(INSTANCE) == release}

    def _known_password(self, release: str) -> list[Object]:
        """Return values for what the chart would look up in a real cluster."""
        known = self.of("secrets", f"{INSTANCE}={release},{COMPONENT}=redis")
        if not known or "the password changes" in self.faults:
            return []
        (value,) = known[0]["data"].values()
        return [{"redis": {"auth": {"password": b64decode(value).decode()}}}]

    def _unready(self, release: str) -> list[Object]:
        found = self.of("deployments", f"{INSTANCE}={release}")
        found += self.of("statefulsets", f"{INSTANCE}={release}")
        return [each for each in found if not self._is_complete(each)]

    def _is_complete(self, workload: Object) -> bool:
        pods = self._pods_of(workload)
        return len(pods) == workload["spec"]["replicas"] and all(
            _is_new(pod, workload) and is_ready(pod) for pod in pods
        )

    # -- pods ---------------------------------------------------------------------------------

    def delete_pod(self, name: str, *, force: bool = False) -> None:
        with self.lock:
            pod = self._objects[("Pod", name)]
            component, release = (labels_of(pod).get(key, "") for key in (COMPONENT, INSTANCE))
            if component == "web" and force:
                self.services[release].drop(8.0 if "slow endpoints" in self.faults else 0.1)
            if f"{component} pods drop requests" in self.faults:
                self.services[release].drop(0.2)
            if name in self._clients:
                self._clients[name].kill()
                self._clients.pop(name).wait()
                force = True
            if force:
                self.drop("Pod", name)
            else:
                pod["metadata"]["deletionTimestamp"] = "now"
                self._since[name] = time.monotonic()

    def _control(self) -> None:
        while not self._ended.wait(TICK_S):
            with self.lock:
                for workload in [*self.of("deployments"), *self.of("statefulsets")]:
                    self._reconcile(workload)
                for pod in self.of("pods"):
                    self._age(pod)
                for release, service in self.services.items():
                    redis = self.of("pods", f"{INSTANCE}={release},{COMPONENT}=redis")
                    service.has_redis = any(is_ready(p) and not is_leaving(p) for p in redis)

    def _reconcile(self, workload: Object) -> None:
        """Start or delete one pod: a new one starts before an old one goes, for Redis after."""
        pods = self._pods_of(workload)
        desired = workload["spec"]["replicas"]
        new = [pod for pod in pods if _is_new(pod, workload) and not is_leaving(pod)]
        old = [pod for pod in pods if not _is_new(pod, workload) and not is_leaving(pod)]
        surge = int(workload["kind"] == "Deployment")
        present = len(new) + len(old) if surge else len(pods)
        if len(new) < desired and present < desired + (surge if old else 0):
            self._start_pod(workload)
        elif old and sum(map(is_ready, new + old)) > desired - (1 - surge):
            self.delete_pod(name_of(old[0]))
        elif len(new) > desired:
            self.delete_pod(name_of(new[-1]))
        status = {"observedGeneration": workload["metadata"]["generation"]}
        workload["status"] = {**status, "updatedReplicas": len(new)}

    def _pods_of(self, workload: Object) -> list[Object]:
        labels = workload["spec"]["selector"]["matchLabels"]
        return [pod for pod in self.of("pods") if labels.items() <= labels_of(pod).items()]

    def _start_pod(self, workload: Object) -> None:
        name = f"{name_of(workload)}-{secrets.token_hex(3)}"
        template = workload["spec"]["template"]
        labels = {**template["metadata"]["labels"], "pod-template-hash": _hash(workload)}
        self._since[name] = time.monotonic()
        metadata = {"name": name, "labels": labels, "uid": secrets.token_hex(8)}
        self.put({"kind": "Pod", "metadata": metadata, "status": _status(ready=False)})

    def _age(self, pod: Object) -> None:
        name = name_of(pod)
        age_s = time.monotonic() - self._since[name]
        if is_leaving(pod):
            if age_s > LEAVE_S:
                self.drop("Pod", name)
        elif name in self._clients:
            ended = self._clients[name].poll() is not None
            pod["status"]["phase"] = "Succeeded" if ended else "Running"
        elif age_s > START_S:
            pod["status"] = _status(ready=True)

    # -- the pods of the clients --------------------------------------------------------------

    def start_client(self, pod: Object) -> None:
        """Run the command of a pod that was created by hand, as a process of this machine."""
        name, (container,) = name_of(pod), pod["spec"]["containers"]
        place = self.directory / name
        place.mkdir()
        for mount in container["volumeMounts"]:
            self._mount(pod, mount["name"], place)
        own = {FILES: f"{place}/client", PICTURES: f"{place}/pictures"}
        command = [self._here(word, own) for word in container["command"]]
        if command[1].endswith("client.py"):
            command.append(f"--stop-file={place}/tmp/stop")
        elif command[1].endswith("probe.py"):
            command[2:] = self._probe(command[2], command[4])
        else:
            command[1:] = ["-c", "import time; time.sleep(600)"]
        self._since[name] = time.monotonic()
        pod["status"] = {**_status(ready=True), "podIP": LISTENER_IP}
        with (place / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, *command[1:]], stdout=log, stderr=log)
        self._clients[name] = process

    def _mount(self, pod: Object, name: str, place: Path) -> None:
        (place / name).mkdir()
        volume = next(each for each in pod["spec"]["volumes"] if each["name"] == name)
        if "configMap" in volume:
            files = self._objects[("ConfigMap", volume["configMap"]["name"])]["binaryData"]
            for file, content in files.items():
                (place / name / file).write_bytes(b64decode(content))

    def _here(self, word: str, own: dict[str, str]) -> str:
        """Translate a word of a command: its paths and its addresses are those of this machine."""
        for path, real in own.items():
            word = re.sub(rf"(^|=){path}(?=/|$)", rf"\1{real}", word)
        for release, service in self.services.items():
            word = word.replace(f"{self._name(release, 'web')}:80/", f"127.0.0.1:{service.port}/")
        return word

    def _probe(self, host: str, expected: str) -> list[str]:
        """Return arguments for a probe with the same result as in a real cluster."""
        port = self._open_port.getsockname()[1]
        if "policies are enforced" in self.faults and self._is_guarded(host):
            port = 1
        return ["127.0.0.1", str(port), expected, "1"]

    def _is_guarded(self, host: str) -> bool:
        if host == LISTENER_IP:
            return any(OURS in labels_of(each) for each in self.of("networkpolicies"))
        return "Redis is open" not in self.faults

    def _name(self, release: str, component: str) -> str:
        found = self.of("services", f"{INSTANCE}={release},{COMPONENT}={component}")
        return name_of(found[0]) if found else ""

    def log_of(self, name: str) -> str:
        path = self.directory / name / "log"
        return path.read_text() if path.exists() else "a line of a log\n"


def record(release: str) -> str:
    """Name the Secret in which Helm remembers a release."""
    return f"sh.helm.release.v1.{release}.v1"


def _status(*, ready: bool) -> Object:
    return {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": str(ready)}],
        "containerStatuses": [{"restartCount": 0}],
    }


def _hash(workload: Object) -> str:
    content = json.dumps(workload["spec"]["template"], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def _is_new(pod: Object, workload: Object) -> bool:
    return labels_of(pod).get("pod-template-hash") == _hash(workload)


def _keys(objects: list[Object]) -> list[str]:
    found = [o["data"]["keys"] for o in of_kind(objects, "Secret") if "keys" in o["data"]]
    return b64decode(found[0]).decode().split() if found else []
