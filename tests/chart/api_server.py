"""The part of a cluster's API that helm uses while it renders: the list of kinds, and some objects.

It answers over HTTP on loopback and changes nothing. Everything else is not found.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.chart.helm import Object

#: The kinds that the chart renders by default, by API.
_KINDS = {
    "v1": ["ConfigMap", "PersistentVolumeClaim", "Pod", "Secret", "Service", "ServiceAccount"],
    "apps/v1": ["Deployment", "StatefulSet"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "policy/v1": ["PodDisruptionBudget"],
    "rbac.authorization.k8s.io/v1": ["Role", "RoleBinding"],
    "coordination.k8s.io/v1": ["Lease"],
}
_NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "reason": "NotFound", "code": 404}


@contextmanager
def cluster(directory: Path, objects: list[Object]) -> Iterator[Path]:
    """Serve a cluster that holds these objects; yield the path of its kubeconfig."""
    known = {**_discovery(), **{_path_of(each): each for each in objects}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = known.get(self.path.partition("?")[0])
            body = json.dumps(found or _NOT_FOUND).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield _kubeconfig(directory, server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _path_of(thing: Object) -> str:
    metadata, version = thing["metadata"], thing["apiVersion"]
    group = f"/{'apis' if '/' in version else 'api'}/{version}"
    return f"{group}/namespaces/{metadata['namespace']}/{_plural(thing['kind'])}/{metadata['name']}"


def _discovery() -> dict[str, Any]:
    groups = [_group(each) for each in _KINDS if "/" in each]
    return {
        "/version": {"major": "1", "minor": "31", "gitVersion": "v1.31.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
        **{f"/{'apis' if '/' in v else 'api'}/{v}": _resources(v) for v in _KINDS},
    }


def _group(version: str) -> Any:
    name, _, short = version.partition("/")
    served = {"groupVersion": version, "version": short}
    return {"name": name, "versions": [served], "preferredVersion": served}


def _resources(version: str) -> Any:
    named = [
        {
            "name": _plural(kind),
            "singularName": kind.lower(),
            "namespaced": True,
            "kind": kind,
            "verbs": ["get"],
        }
        for kind in _KINDS[version]
    ]
    return {"kind": "APIResourceList", "groupVersion": version, "resources": named}


def _plural(kind: str) -> str:
    lower = kind.lower()
    return f"{lower[:-1]}ies" if lower.endswith("y") else f"{lower}s"


def _kubeconfig(directory: Path, port: int) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {}}],
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
    }
    path = directory / "kubeconfig.json"
    path.write_text(json.dumps(config))
    return path
