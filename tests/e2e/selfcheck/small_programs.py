"""The ``kubectl`` and ``helm`` of the small cluster: programs on PATH that ask this process."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.chart.helm import Object
from tests.e2e.selfcheck.small_cluster import KINDS, PLURALS, RefusedError, SmallCluster, record
from tests.e2e.state import name_of

PROGRAM = """#!{python} -IS
import http.client, json, sys
asked = {{"program": {name!r}, "arguments": sys.argv[1:], "stdin": ""}}
if "--filename=-" in sys.argv:
    asked["stdin"] = sys.stdin.read()
connection = http.client.HTTPConnection("127.0.0.1", {port}, timeout=120)
connection.request("POST", "/", json.dumps(asked))
answer = json.load(connection.getresponse())
sys.stdout.write(answer["stdout"])
sys.stderr.write(answer["stderr"])
sys.exit(answer["code"])
"""

CONSTANT = {
    "version": "{}",
    "api-resources": "\n".join([*PLURALS.values(), "events", "pods.metrics.k8s.io", ""]),
}


class Programs:
    """Carries out the commands of the two programs, and records them."""

    def __init__(self, cluster: SmallCluster) -> None:
        self.asked: list[list[str]] = []
        self._cluster = cluster

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        arguments = asked["arguments"]
        self.asked.append([asked["program"], *arguments])
        own, _, inner = _split(arguments)
        flags = dict(_flag(each) for each in own if each.startswith("--"))
        words = [each for each in own if not each.startswith("--")]
        try:
            if asked["program"] == "helm":
                said = self._helm(words, [e[9:] for e in own if e.startswith("--values=")])
            else:
                said = self._kubectl(words, flags, inner, asked["stdin"])
        except RefusedError as error:
            return {"stdout": "", "stderr": f"Error: {error}\n", "code": 1}
        return {"stdout": said, "stderr": "", "code": 0}

    def _helm(self, words: list[str], files: list[str]) -> str:
        release = words[1]
        match words[0]:
            case "upgrade":
                self._cluster.upgrade(release, [Path(each) for each in files])
            case "uninstall":
                self._cluster.uninstall(release)
            case "status" if record(release) not in map(name_of, self._cluster.of("secrets")):
                raise RefusedError("release: not found")
            case "test" if release not in self._cluster.services:
                raise RefusedError("release: not found")
        return ""

    def _kubectl(
        self, words: list[str], flags: dict[str, str], inner: list[str], stdin: str
    ) -> str:
        match words:
            case ["create"]:
                return self._create(json.loads(stdin)["items"])
            case ["delete", kind, *names]:
                return self._delete(kind, names, flags)
            case ["get", kinds, *names]:
                return self._get(kinds.split(","), names, flags)
            case ["exec", name]:
                return self._exec(name, inner)
            case ["rollout", "restart", "deployment"]:
                return self._restart(flags["selector"])
            case ["logs", name]:
                said = self._cluster.log_of(name.removeprefix("pod/"))
            case _:
                said = CONSTANT[words[0]]
        return said

    def _create(self, objects: list[Object]) -> str:
        for each in objects:
            if each["kind"] == "Namespace":
                continue
            with self._cluster.lock:
                if each["kind"] == "Pod":
                    self._cluster.start_client(each)
                self._cluster.put(each)
        return ""

    def _delete(self, kind: str, names: list[str], flags: dict[str, str]) -> str:
        if kind == "namespace":
            return ""
        chosen = [name_of(o) for o in self._cluster.of(kind, flags.get("selector", "="))]
        for name in names or chosen:
            if KINDS[kind] == "Pod":
                self._cluster.delete_pod(name, force="force" in flags)
            else:
                self._cluster.drop(KINDS[kind], name)
        if flags.get("wait") != "false":
            self._cluster.wait(lambda: not {*names} & {*map(name_of, self._cluster.of(kind))})
        return ""

    def _get(self, kinds: list[str], names: list[str], flags: dict[str, str]) -> str:
        if kinds == ["events"]:
            return ""
        with self._cluster.lock:
            found = [o for k in kinds for o in self._cluster.of(k, flags.get("selector", ""))]
            found = [o for o in found if not names or name_of(o) in names]
            if flags["output"] == "json":
                return json.dumps(found[0] if names else {"items": found})
        return "".join(f"{each['kind'].lower()}/{name_of(each)}\n" for each in found)

    def _exec(self, name: str, command: list[str]) -> str:
        match command:
            case ["touch", "/tmp/stop"]:
                (self._cluster.directory / name / "tmp" / "stop").touch()
                return ""
            case ["touch", path] if "the root can be written to" not in self._cluster.faults:
                raise RefusedError(f"touch: cannot touch '{path}': Read-only file system")
            case ["id", "-u"]:
                return "0\n" if "pods are root" in self._cluster.faults else "65532\n"
            case ["python3", "-c", *_]:
                return (
                    "+PONG" if "Redis needs no password" in self._cluster.faults else "-NOAUTH no\n"
                )
        return ""

    def _restart(self, chosen: str) -> str:
        for each in self._cluster.of("deployment", chosen):
            with self._cluster.lock:
                annotations = each["spec"]["template"]["metadata"].setdefault("annotations", {})
                annotations["kubectl.kubernetes.io/restartedAt"] = str(time.monotonic())
                each["metadata"]["generation"] += 1
        return ""


@contextmanager
def on_path(directory: Path, cluster: SmallCluster) -> Iterator[Programs]:
    """Put a ``kubectl`` and a ``helm`` into a directory, for the time being."""
    programs = Programs(cluster)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(programs.answer(asked)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    for name in ("kubectl", "helm"):
        path = directory / name
        path.write_text(PROGRAM.format(python=sys.executable, name=name, port=server.server_port))
        path.chmod(0o755)
    try:
        yield programs
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """Split at ``--``: what is kubectl's, and the command behind it."""
    if "--" not in arguments:
        return arguments, "", []
    place = arguments.index("--")
    return arguments[:place], "--", arguments[place + 1 :]


def _flag(argument: str) -> tuple[str, str]:
    name, _, value = argument.removeprefix("--").partition("=")
    return name, value
