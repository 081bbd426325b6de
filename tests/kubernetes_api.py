"""The part of the Kubernetes API that the autoscaler uses, over real HTTP on loopback.

It enforces the rules of a Role, refuses writes with an old resourceVersion, records every request
with its user and time, and fails on demand: with any status, by hanging, by resetting the
connection, by answering slowly.
"""

import copy
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]
NAMESPACE = "default"
PATCH_TYPES = {"application/strategic-merge-patch+json", "application/merge-patch+json"}

_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/v1)/namespaces/(?P<namespace>[^/]+)"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?"
)


@dataclass(frozen=True)
class Request:
    """One request."""

    verb: str
    group: str
    resource: str
    """With its subresource: ``deployments/scale``."""
    name: str
    user: str
    at_s: float
    """Of ``time.monotonic``."""
    query: Mapping[str, list[str]] = field(default_factory=dict)
    body: Any = None
    agent: str = ""
    content_type: str = ""
    holder: str = ""
    """Who held the lease when it was carried out."""

    @property
    def dry_run(self) -> bool:
        return self.query.get("dryRun") == ["All"]


@dataclass
class Fault:
    """A failure of some requests."""

    verb: str
    resource: str
    status: int = 0
    how: str = "status"
    """``status``, ``hang``, ``reset``, ``slow``, or ``lost``: done, and the answer is lost."""
    headers: Mapping[str, str] = field(default_factory=dict)
    times: float = float("inf")
    name: str = ""

    def hits(self, request: Request) -> bool:
        fits = (self.verb, self.resource) == (request.verb, request.resource)
        return self.times > 0 and fits and self.name in ("", request.name)


class StatusError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


class KubernetesApi:
    """The state of the cluster and its requests. Safe to use from tests while it serves."""

    def __init__(self, rules: Sequence[Object]) -> None:
        self.rules = copy.deepcopy(list(rules))
        self.requests: list[Request] = []
        self._scalings: list[Request] = []
        self.faults: list[Fault] = []
        self.released = threading.Event()
        self.lock = threading.RLock()
        self._version = 100
        self._objects: dict[tuple[str, str], Object] = {}
        self.port = 0

    # -- for tests -----------------------------------------------------------------------------

    def add_deployment(self, name: str, replicas: int, ready: int | None = None) -> None:
        ready = replicas if ready is None else ready
        spec = {"replicas": replicas}
        self._add("deployments", name, {"spec": spec, "status": {"readyReplicas": ready}})

    def add_lease(self, name: str) -> None:
        self._add("leases", name, {})

    def add_pod(self, name: str, **labels: str) -> Object:
        """Add a pod that is not ready yet; the returned object may be changed."""
        status: Object = {"phase": "Pending", "conditions": []}
        return self._add("pods", name, {"status": status}, labels)

    def _add(
        self, resource: str, name: str, content: Object, labels: Mapping[str, str] | None = None
    ) -> Object:
        with self.lock:
            found: Object = {
                "metadata": {
                    "name": name,
                    "namespace": NAMESPACE,
                    "uid": f"uid-of-{name}",
                    "creationTimestamp": "2026-01-31T12:00:00Z",
                    "labels": dict(labels or {}),
                },
                **content,
            }
            self._objects[resource, name] = found
            self._touch(found)
            return found

    def remove(self, resource: str, name: str) -> None:
        with self.lock:
            del self._objects[resource, name]

    def get(self, resource: str, name: str) -> Object:
        with self.lock:
            return self._objects[resource, name]

    def replicas(self, name: str) -> int:
        return int(self.get("deployments", name)["spec"]["replicas"])

    def set_replicas(self, name: str, replicas: int) -> None:
        """Scale as another client would."""
        spec = self.get("deployments", name)["spec"]
        self._change(name, spec={**spec, "replicas": replicas})

    def set_ready(self, name: str, ready: int) -> None:
        self._change(name, status={"readyReplicas": ready})

    def set_status(self, name: str, status: Object) -> None:
        """Write the status of a Deployment, as its controller does."""
        self._change(name, status=status)

    def annotate(self, name: str, **annotations: str) -> None:
        """Annotate a Deployment: ``a_b`` becomes ``imageserve.dev/a-b``."""
        named = {f"imageserve.dev/{k.replace('_', '-')}": v for k, v in annotations.items()}
        with self.lock:
            self.get("deployments", name)["metadata"]["annotations"] = named
            self._touch(self.get("deployments", name))

    def _change(self, name: str, **parts: Object) -> None:
        with self.lock:
            self.get("deployments", name).update(parts)
            self._touch(self.get("deployments", name))

    def fail(self, verb: str, resource: str, status: int = 0, **more: Any) -> Fault:
        """Let requests fail until ``recover``; ``more`` are fields of Fault."""
        fault = Fault(verb, resource, status, **more)
        with self.lock:
            self.faults.append(fault)
        return fault

    def recover(self) -> None:
        with self.lock:
            self.faults.clear()
        self.released.set()
        self.released = threading.Event()

    def asked(self, verb: str, resource: str) -> list[Request]:
        with self.lock:
            found = list(self.requests)
        return [each for each in found if (each.verb, each.resource) == (verb, resource)]

    def scalings(self) -> list[Request]:
        """Return all writes of replicas that were carried out, oldest first."""
        with self.lock:
            return list(self._scalings)

    def events(self) -> list[tuple[str, str]]:
        """Return reason and message of all events, oldest first."""
        with self.lock:
            found = [each for (kind, _), each in self._objects.items() if kind == "events"]
            return [(each["reason"], each.get("message") or each["note"]) for each in found]

    def reasons(self) -> list[str]:
        return [reason for reason, _ in self.events()]

    def kubeconfig(self, directory: Path, user: str) -> Path:
        """Write a kubeconfig whose requests are ``user``'s."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {"token": user}}],
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
        }
        path = directory / f"kubeconfig-{user}.json"
        path.write_text(json.dumps(config))
        return path

    # -- answering ----------------------------------------------------------------------------

    def answer(self, request: Request) -> Object:
        with self.lock:
            self.requests.append(request)
            self._check_rights(request)
            if request.verb == "list":
                return self._list(request)
            if request.verb == "create":
                return self._create(request)
            found = self._objects.get((request.resource.partition("/")[0], request.name))
            if found is None:
                raise StatusError(404, f"{request.resource} {request.name!r} not found")
            if request.verb == "patch":
                found = self._patch(request, found)
            return copy.deepcopy(_scale_of(found) if request.resource.endswith("scale") else found)

    def _check_rights(self, request: Request) -> None:
        if not any(_allows(rule, request) for rule in self.rules):
            raise StatusError(
                403,
                f'{request.resource} "{request.name}" is forbidden: User "{request.user}" cannot '
                f'{request.verb} resource "{request.resource}" in API group "{request.group}"',
            )

    def _list(self, request: Request) -> Object:
        selector = request.query.get("labelSelector", [""])[0]
        required = dict(each.split("=") for each in selector.split(",") if each)
        found = [
            copy.deepcopy(each)
            for (kind, _), each in self._objects.items()
            if kind == request.resource and required.items() <= each["metadata"]["labels"].items()
        ]
        return {"kind": "List", "items": found}

    def _create(self, request: Request) -> Object:
        name = request.body["metadata"]["name"]
        if (request.resource, name) in self._objects:
            raise StatusError(409, f"{name!r} already exists")
        self._objects[request.resource, name] = copy.deepcopy(request.body)
        self._touch(self._objects[request.resource, name])
        return copy.deepcopy(self._objects[request.resource, name])

    def _patch(self, request: Request, found: Object) -> Object:
        version = request.body.get("metadata", {}).get("resourceVersion")
        if version not in (None, "", found["metadata"]["resourceVersion"]):
            raise StatusError(409, "the object has been modified; please apply your changes again")
        changed = copy.deepcopy(found) if request.dry_run else found
        _merge(changed, request.body)
        if not request.dry_run:
            self._touch(changed)
            self._note_scaling(request)
        return changed

    def _note_scaling(self, request: Request) -> None:
        if request.resource == "deployments/scale":
            leases = [each for (kind, _), each in self._objects.items() if kind == "leases"]
            holders = [each.get("spec", {}).get("holderIdentity", "") for each in leases]
            self._scalings.append(replace(request, holder="".join(holders)))

    def _touch(self, found: Object) -> None:
        self._version += 1
        found["metadata"]["resourceVersion"] = str(self._version)

    def fault_for(self, request: Request) -> Fault | None:
        with self.lock:
            fault = next((each for each in self.faults if each.hits(request)), None)
            if fault:
                fault.times -= 1
            return fault


def _allows(rule: Object, request: Request) -> bool:
    """Whether a rule of a Role allows a request."""
    names = rule.get("resourceNames")
    named = not names or (request.verb not in ("list", "create") and request.name in names)
    fits = request.group in rule["apiGroups"] and request.resource in rule["resources"]
    return fits and request.verb in rule["verbs"] and named


def _merge(target: Object, patch: Object) -> None:
    for key, value in patch.items():
        if isinstance(value, dict):
            _merge(target.setdefault(key, {}), value)
        elif key != "resourceVersion":
            target[key] = value


def _scale_of(deployment: Object) -> Object:
    metadata = deployment["metadata"]
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in ("name", "uid", "resourceVersion")},
        "spec": {"replicas": deployment["spec"]["replicas"]},
        "status": {"replicas": deployment["spec"]["replicas"]},
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: KubernetesApi


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve("get")

    def do_POST(self) -> None:
        self._serve("create")

    def do_PATCH(self) -> None:
        self._serve("patch")

    def do_PUT(self) -> None:
        self._serve("update")

    def do_DELETE(self) -> None:
        self._serve("delete")

    def _serve(self, verb: str) -> None:
        try:
            request = self._request(verb)
            fault = self.server.api.fault_for(request)
            if fault is not None and not self._apply(fault, request):
                return
            self._reply(200, self.server.api.answer(request))
        except StatusError as error:
            body = {"kind": "Status", "message": str(error), "code": error.status}
            self._reply(error.status, body, error.headers)

    def _request(self, verb: str) -> Request:
        address = urlsplit(self.path)
        parts = _PATH.fullmatch(address.path)
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length)
        if len(text) < length:
            raise OSError("the client was killed while it asked")
        if parts is None or parts["namespace"] != NAMESPACE:
            raise StatusError(404, f"the server could not find {self.path}")
        if verb == "patch" and self.headers.get("Content-Type") not in PATCH_TYPES:
            raise StatusError(415, f"not a patch: {self.headers.get('Content-Type')}")
        resource = parts["resource"] + (f"/{parts['sub']}" if parts["sub"] else "")
        return Request(
            verb="list" if verb == "get" and not parts["name"] else verb,
            group=parts["group"] or "",
            resource=resource,
            name=parts["name"] or "",
            user=self.headers.get("Authorization", "").removeprefix("Bearer "),
            at_s=time.monotonic(),
            query=parse_qs(address.query),
            body=json.loads(text) if text else None,
            agent=self.headers.get("User-Agent", ""),
            content_type=self.headers.get("Content-Type", ""),
        )

    def _apply(self, fault: Fault, request: Request) -> bool:
        """Apply the failure; returns whether the request is still to be answered."""
        if fault.how == "status":
            api = self.server.api
            with api.lock:
                api.requests.append(request)
            raise StatusError(fault.status, "on demand", fault.headers)
        if fault.how == "lost":
            self.server.api.answer(request)
        if fault.how in ("reset", "lost"):
            # Closed with zero linger, a connection is reset.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            return False
        self.server.api.released.wait(0.2 if fault.how == "slow" else 30)
        self.close_connection = fault.how == "hang"
        return fault.how == "slow"

    def _reply(self, status: int, body: Object, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        try:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True  # Its client has given up or was killed.

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True


@contextmanager
def serving(api: KubernetesApi, tls: ssl.SSLContext | None = None) -> Iterator[KubernetesApi]:
    """Serve ``api`` on a free port until the block ends, with ``tls`` by HTTPS."""
    server = _Server(("127.0.0.1", 0), _Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.api = api
    api.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        api.recover()
        server.shutdown()
        server.server_close()
        thread.join()


def rules_of(objects: Sequence[Object], name: str) -> list[Object]:
    """Return the rules of a Role among rendered objects."""
    role = next(o for o in objects if o["kind"] == "Role" and o["metadata"]["name"] == name)
    rules: list[Object] = role["rules"]
    return rules
