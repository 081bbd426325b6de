#!/usr/bin/env python3
"""Runs built images as a cluster would: read-only, unprivileged, the program as process 1.

usage: images/check.py [--engine docker|buildah] [--repository NAME] [--tag TAG] [--lean]

It checks their contents, starts a redis-server on loopback with web and model image beside it,
sends a picture through, has the load test image send more, and stops them with SIGTERM. The
autoscaler image must say that it lacks a cluster. No other image may contain the load test. --lean
has the model image serve the stand-in instead of the bundled model. buildah, which starts no
containers itself, needs root.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "loadtest/images/star-1.jpg"
UID = 65532
START_WITHIN_S = 180
STOP_WITHIN_S = 60

# Makes a container by hand: a root of its own that cannot be written to, an empty /tmp,
# process ids of its own. Arguments: root, "ro" or "rw", user, folder, environment, command.
CONTAINER = """
set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --bind /dev "$1/dev"
mount -t tmpfs -o mode=1777 tmp "$1/tmp"
mount -t tmpfs -o mode=1777,size=64m shm "$1/dev/shm"
[ "$2" = rw ] || mount -o remount,bind,ro "$1"
root=$1; user=$3; folder=$4; shift 4
exec chroot --userspec="$user:$user" "$root" /usr/bin/env -i -C "$folder" "$@"
"""


class Failed(Exception):
    """An image is not as it should be."""


class Docker:
    """Containers as docker runs them."""

    def __init__(self, image: str) -> None:
        self.image = image

    def close(self) -> None:
        """Nothing is kept."""

    def start(self, *args: str, env: Mapping[str, str], entrypoint: str = "") -> Any:
        """Start the image's own command with these arguments."""
        return subprocess.Popen([*self._run(env, entrypoint), self.image, *args])

    def output(self, script: str, user: int = UID) -> str:
        """Run a shell script in a container that may be written to."""
        command = ["docker", "run", "--rm", "--user", str(user), "--entrypoint", "sh"]
        return _output([*command, self.image, "-c", script])

    def stop(self, process: Any) -> int:
        process.terminate()  # The client hands the signal on, and ends with the program's status.
        return int(process.wait(STOP_WITHIN_S))

    def facts(self) -> dict[str, Any]:
        return dict(json.loads(_output(["docker", "image", "inspect", self.image]))[0]["Config"])

    def _run(self, env: Mapping[str, str], entrypoint: str) -> list[str]:
        strict = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]  # noqa: S108 - in there
        more = [part for name, value in env.items() for part in ("--env", f"{name}={value}")]
        if entrypoint:
            more += ["--entrypoint", entrypoint]
        return ["docker", "run", "--rm", "--network", "host", *strict, *more]


class Buildah:
    """The same with buildah's images and util-linux: namespaces for mounts and process ids."""

    def __init__(self, image: str) -> None:
        self.image = image
        self._container = _output(["buildah", "from", "--pull-never", image]).strip()
        self._root = _output(["buildah", "mount", self._container]).strip()

    def close(self) -> None:
        _output(["buildah", "rm", self._container])

    def start(self, *args: str, env: Mapping[str, str], entrypoint: str = "") -> Any:
        facts = self.facts()
        command = [entrypoint] if entrypoint else facts["Entrypoint"]
        own = [*facts["Env"], *(f"{name}={value}" for name, value in env.items())]
        inside = [facts["WorkingDir"], *own, *command, *(args or facts["Cmd"])]
        return subprocess.Popen(self._unshare("ro", UID, *inside))

    def output(self, script: str, user: int = UID) -> str:
        facts = self.facts()
        inside = [facts["WorkingDir"], *facts["Env"], "sh", "-c", script]
        return _output(self._unshare("rw", user, *inside))

    def stop(self, process: Any) -> int:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        return int(process.wait(STOP_WITHIN_S))

    def facts(self) -> dict[str, Any]:
        image = json.loads(_output(["buildah", "inspect", "--type", "image", self.image]))
        return dict(image["OCIv1"]["config"])

    def _unshare(self, mode: str, user: int, *inside: str) -> list[str]:
        begin = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", CONTAINER]
        return [*begin, "container", self._root, mode, str(user), *inside]


Engine = Docker | Buildah


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def expect(condition: object, what: str) -> None:
    if not condition:
        raise Failed(what)
    sys.stdout.write(f"ok: {what}\n")
    sys.stdout.flush()


def wait_for(condition: Callable[[], Any], what: str, process: Any) -> Any:
    deadline = time.monotonic() + START_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"it ended with {process.returncode} before {what}")
        if found := condition():
            return found
        time.sleep(0.1)
    raise Failed(f"not within {START_WITHIN_S} s: {what}")


def get(url: str, data: bytes | None = None) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, data, timeout=30) as response:  # noqa: S310 - our own
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def redis() -> Iterator[int]:
    program = shutil.which("redis-server") or str(ROOT / ".venv/bin/redis-server")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            yield port
        finally:
            process.terminate()
            process.wait()


TENSORFLOW = "tensorflow keras numpy"
WEB = "flask gunicorn gevent"
#: What an image must not have, as names that Python could import.
ABSENT = {
    "web": f"{TENSORFLOW} kubernetes imageserve_loadtest pip",
    "model": f"{WEB} PIL kubernetes imageserve_loadtest pip",
    "autoscaler": f"{TENSORFLOW} {WEB} PIL imageserve_loadtest pip",
    "loadtest": f"{TENSORFLOW} {WEB} kubernetes pip",
}
FIND = "python3 -c 'import importlib.util as u, sys; print(*filter(u.find_spec, sys.argv[1:]))'"


def check_contents(engines: Mapping[str, Engine]) -> None:
    for name, engine in engines.items():
        facts = engine.facts()
        expect(facts["User"] == f"{UID}:{UID}", f"{name}: its user is {UID}:{UID}")
        labels = facts.get("Labels") or {}
        own = sorted(key for key in labels if key.startswith("org.opencontainers.image."))
        expect(len(own) >= 6, f"{name}: labels {', '.join(own)}")
        version = engine.output("imageserve --version").strip()
        expect(version.startswith("imageserve "), f"{name}: {version}")
        tools = engine.output("command -v cc gcc c++ g++ clang ld as make || true", 0).split()
        expect(not tools, f"{name}: no compiler")
        caches = "ls -d /root/.cache /tools /wheels /source /root/.keras 2>/dev/null || true"
        expect(not engine.output(caches, 0), f"{name}: no cache, no build tools")
        expect(engine.output("command -v tar"), f"{name}: tar, which skaffold needs")
        foreign = engine.output("find /opt/imageserve ! -uid 0 -o ! -type l -perm -o+w", 0)
        expect(not foreign, f"{name}: all of /opt/imageserve is root's, nobody else writes there")
        find = "find / -xdev -writable ! -type l ! -path '/proc/*' 2>/dev/null || true"
        places = sorted(set(engine.output(find).split()))
        expect(not [p for p in places if p.startswith(("/opt", "/usr", "/etc"))],
               f"{name}: the user can write to {' '.join(places)}")  # fmt: skip
        there = engine.output(f"{FIND} {ABSENT[name]}").strip()
        expect(not there, f"{name}: no {', '.join(ABSENT[name].split())}")


def check_autoscaler(autoscaler: Engine) -> None:
    """Without a cluster it ends at once, with an error that says what is missing."""
    file = "models: {m: {queue: q, deployment: d, pod_selector: a=b, batch_size: 1}}"
    script = f"echo '{file}' >/tmp/s && SCALING_FILE=/tmp/s imageserve autoscaler 2>&1 || true"
    said = autoscaler.output(script)
    expect("no cluster to talk to" in said, f"autoscaler: {said.strip()[:90]}")
    expect("explain" in autoscaler.output("imageserve autoscaler --help"), "autoscaler: --help")
    said = autoscaler.output("imageserve autoscaler simulate 2>&1 || true")
    expect("pip install imageserve-loadtest" in said, f"autoscaler: {said.strip()[:90]}")


def check_load(loadtest: Engine, address: str) -> None:
    for command, word in (("loadtest --list", "steady"), ("autoscaler simulate --help", "TRACE")):
        expect(word in loadtest.output(f"imageserve {command}"), f"loadtest: imageserve {command}")
    process = loadtest.start(
        "loadtest", address, "--clients", "2", "--duration", "3", "--quiet", env={}
    )
    expect(process.wait(STOP_WITHIN_S) == 0, "loadtest: every answer was the right one")


def check_service(engines: Mapping[str, Engine], *, lean: bool) -> None:
    web, model = engines["web"], engines["model"]
    with redis() as redis_port:
        shared = {"REDIS_URL": f"redis://127.0.0.1:{redis_port}/0"}
        if lean:
            shared |= {"MODEL": "stand-in"}
        port, metrics = free_port(), free_port()
        address = f"http://127.0.0.1:{port}"
        bound = {"WEB_HOST": "127.0.0.1", "WEB_PORT": str(port)}
        server = web.start(env=shared | bound)
        worker = model.start(env=shared | {"METRICS_PORT": str(metrics)})
        try:
            wait_for(lambda: get(f"{address}/healthz")[0] == 200, "/healthz", server)
            expect(get(f"{address}/readyz")[0] in (200, 503), "web: answers /healthz and /readyz")
            began = time.monotonic()
            ready = f"http://127.0.0.1:{metrics}/readyz"
            wait_for(lambda: get(ready)[0] == 200, "/readyz of the worker", worker)
            expect(True, f"model: ready after {time.monotonic() - began:.1f} s")
            status, answer = get(f"{address}/predict?top=1", PICTURE.read_bytes())
            label = json.loads(answer)["predictions"][0]["label"] if status == 200 else answer
            expect(lean or label == "star", f"a picture of a star is answered: {label}")
            check_load(engines["loadtest"], address)
            expect(worker.poll() is None and model.stop(worker) == 0, "model: SIGTERM, status 0")
            expect(server.poll() is None and web.stop(server) == 0, "web: SIGTERM, status 0")
        finally:
            for process in (server, worker):
                if process.poll() is None:
                    process.kill()
                    process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=["docker", "buildah"], default="docker")
    parser.add_argument("--repository", default="imageserve")
    parser.add_argument("--tag", required=True)
    parser.add_argument("--lean", action="store_true")
    options = parser.parse_args()
    make = Docker if options.engine == "docker" else Buildah
    with ExitStack() as stack:
        engines: dict[str, Engine] = {
            name: stack.enter_context(_closing(make(f"{options.repository}/{name}:{options.tag}")))
            for name in ABSENT
        }
        try:
            check_contents(engines)
            check_autoscaler(engines["autoscaler"])
            check_service(engines, lean=options.lean)
        except Failed as error:
            sys.stderr.write(f"FAILED: {error}\n")
            return 1
    return 0


@contextmanager
def _closing(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine
    finally:
        engine.close()


if __name__ == "__main__":
    sys.exit(main())
