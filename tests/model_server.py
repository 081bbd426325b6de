"""Servers that models are fetched from, on this machine: HTTPS with faults, Hugging Face, S3."""

import hashlib
import json
import os
import shutil
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import pytest
from tests.redis_server import eventually, free_port

ROOT = Path(__file__).parents[1]
COMMIT = "5c38ec7c405ec4b44b94cc5a9bb96e735b38267a"
S3_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}


@dataclass
class Asked:
    """One request that has come."""

    path: str
    query: str
    headers: Mapping[str, str]


@dataclass
class ModelServer:
    """An HTTPS server whose certificate only ``authority`` vouches for."""

    authority: Path
    files: dict[str, bytes] = field(default_factory=dict)
    """By path, such as ``/flowers.tar.gz``."""
    answers: dict[str, list[int]] = field(default_factory=dict)
    """Statuses that a path answers with first, one after the other."""
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """So many bytes a path sends before the connection ends, one time after the other."""
    moved: dict[str, str] = field(default_factory=dict)
    """Where a path sends its clients."""
    has_ranges: bool = True
    has_lengths: bool = True
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def ranges(self, path: str) -> list[str | None]:
        return [each.headers.get("range") for each in self.asked if each.path == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ours: ClassVar[ModelServer]

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.ours.asked.append(Asked(path, parts.query, headers))
        if self.ours.answers.get(path):
            self._send(self.ours.answers[path].pop(0), b"as told")
        elif path in self.ours.moved:
            self._send(302, b"", Location=self.ours.moved[path])
        elif path in self.ours.files:
            self._send_file(path, self.ours.files[path], headers.get("range"))
        else:
            self._send(404, b"nothing here")

    def _send_file(self, path: str, content: bytes, wanted: str | None) -> None:
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        tag = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:8]}"'}
        cut = self.ours.cut_after.get(path)
        until = cut.pop(0) if cut else len(content)
        if start and self.ours.has_ranges:
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(206, content[start:], until, **tag, Content_Range=span)
        else:
            self._send(200, content, until, **tag)

    def _send(self, status: int, body: bytes, until: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if self.ours.has_lengths:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:until])
        if not self.ours.has_lengths or (until is not None and until < len(body)):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def model_server(certificates: Path) -> Iterator[ModelServer]:
    """Run a server; ``certificates`` is what `make_certificates` has written."""
    made = ModelServer(certificates / "ca.pem")
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"ours": made}))
    http.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    http.socket = context.wrap_socket(http.socket, server_side=True)
    # A client that does not trust the certificate is no error of the server.
    http.handle_error = lambda *_: None  # type: ignore[method-assign]
    made.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def make_certificates(folder: Path) -> Path:
    """Write an authority and a certificate of it for this machine."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    authority = (*key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=model authority")
    request = (*key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
    for arguments in (
        ("req", "-x509", *authority),
        ("req", *(each for each in request if each not in ("-days", "2"))),
        ("x509", "-req", "-in", "server.csr", "-out", "server.pem", *sign, "-days", "2"),
    ):
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)
    return folder


def serve_hub(
    hub: ModelServer, store: ModelServer, name: str, files: Mapping[str, bytes], revision: str
) -> None:
    """Have two servers stand in for Hugging Face: large files lie on another host."""
    siblings = []
    for path, content in files.items():
        sibling: dict[str, Any] = {"rfilename": path, "size": len(content)}
        address = f"/{name}/resolve/{COMMIT}/{path}"
        if len(content) > 1000:
            sha256 = hashlib.sha256(content).hexdigest()
            sibling["lfs"] = {"sha256": sha256, "size": len(content)}
            store.files[f"/lfs/{sha256}"] = content
            hub.moved[address] = f"{store.url}/lfs/{sha256}?signature=secret"
        else:
            hub.files[address] = content
        siblings.append(sibling)
    answer = {"id": name, "sha": COMMIT, "siblings": siblings}
    hub.files[f"/api/models/{name}/revision/{revision}"] = json.dumps(answer).encode()


def moto_server() -> str:
    """Return the program that serves S3. A missing one is a failure where ``CI=true``."""
    program = os.environ.get("MOTO_SERVER", str(ROOT / ".venv-s3" / "bin" / "moto_server"))
    if not Path(program).exists():
        missing = f"no {program}: 'make install' makes it"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    return program


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """Run a real S3 server; yields its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [moto_server(), "-H", "127.0.0.1", "-p", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        )
        try:
            eventually(lambda: _answers(url, process), "the S3 server answers", 60)
            yield url
        finally:
            process.terminate()
            process.wait(20)


def _answers(url: str, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, "the S3 server has ended"
    try:
        urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
    except OSError:
        return False
    return True


def s3_put(url: str, bucket: str, files: Mapping[str, bytes]) -> None:
    """Make a bucket with files, over S3's own interface."""
    import obstore
    from obstore.store import S3Store

    request = urllib.request.Request(f"{url}/{bucket}", method="PUT")
    request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/x")
    urllib.request.urlopen(request, timeout=10).close()
    options: Any = {"allow_http": True}
    store = S3Store(
        bucket,
        endpoint=url,
        access_key_id="key",
        secret_access_key="secret",
        region="us-east-1",
        client_options=options,
    )
    for name, content in files.items():
        obstore.put(store, name, content)
