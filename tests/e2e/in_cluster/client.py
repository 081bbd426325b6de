"""Posts pictures to the Service, and writes one JSON line for each request, then a summary.

It runs in a pod of the web image and needs only Python, so it sees what clients in the cluster
see. It never repeats a request. Half of its threads keep their connection, half open
a new one each time. Without --once it goes on until the stop file is there.
"""

import argparse
import csv
import http.client
import itertools
import json
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESOLVE_WITHIN_S = 60.0
BOUNDARY = "imageserve-e2e"

Record = dict[str, Any]


class Picture:
    """A picture and the label that it must get first."""

    def __init__(self, path: Path, label: str) -> None:
        self.name = path.name
        self.data = path.read_bytes()
        self.label = label


def pictures_in(directory: Path) -> list[Picture]:
    with (directory / "labels.csv").open(newline="") as lines:
        return [Picture(directory / row["file"], row["label"]) for row in csv.DictReader(lines)]


class Output:
    """Lines of JSON on standard output, and what the summary counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = 0
        self._right = 0

    def write(self, record: Record) -> None:
        with self._lock:
            self._requests += 1
            self._right += record["status"] == 200 and record["labels"] == record["expected"]
            self._line(record)

    def summary(self, seconds: float) -> None:
        with self._lock:
            counts = {"requests": self._requests, "right": self._right, "seconds": seconds}
            self._line({"summary": counts})

    def _line(self, content: Record) -> None:
        sys.stdout.write(json.dumps(content) + "\n")
        sys.stdout.flush()


class Target:
    """Where to post. The name is resolved once: a slow name server is not the service's fault."""

    def __init__(self, url: str, headers: list[str], timeout_s: float) -> None:
        parts = urllib.parse.urlsplit(url)
        self._port = parts.port or 80
        self._address = resolved(parts.hostname or "", self._port)
        self._path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        self._headers = {"Host": parts.netloc}
        for each in headers:
            name, _, value = each.partition(":")
            self._headers[name.strip()] = value.strip()
        self._timeout_s = timeout_s

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._address, self._port, timeout=self._timeout_s)

    def post(self, connection: http.client.HTTPConnection, pictures: list[Picture]) -> Record:
        """Post pictures in one request; raises OSError or HTTPException where no answer came."""
        body, content_type = body_of(pictures)
        headers = {**self._headers, "Content-Type": content_type}
        try:
            connection.request("POST", self._path, body, headers)
        except ConnectionError:
            # The server may have answered before it had read everything. Without a connection
            # this raises, too.
            if connection.sock is None:
                raise
        return answer_of(connection.getresponse())


def resolved(host: str, port: int) -> str:
    end = time.monotonic() + RESOLVE_WITHIN_S
    while True:
        try:
            return str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0])
        except OSError as error:
            if time.monotonic() > end:
                sys.exit(f"the name {host} cannot be looked up: {error}")
            time.sleep(1)


def body_of(pictures: list[Picture]) -> tuple[bytes, str]:
    if len(pictures) == 1:
        return pictures[0].data, "application/octet-stream"
    parts = [
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; "
        f'name="image"; filename="{each.name}"\r\n\r\n'.encode()
        + each.data
        + b"\r\n"
        for each in pictures
    ]
    body = b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()
    return body, f"multipart/form-data; boundary={BOUNDARY}"


def answer_of(response: http.client.HTTPResponse) -> Record:
    text = response.read().decode(errors="replace")
    record: Record = {
        "status": response.status,
        "retry_after": response.getheader("Retry-After"),
        "request_id": response.getheader("X-Request-Id"),
    }
    try:
        return {**record, **content_of(json.loads(text), response.status)}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return {**record, "labels": [], "message": f"not as documented: {text[:300]}"}


def content_of(answer: Any, status: int) -> Record:
    if status != 200:
        return {
            "labels": [],
            "code": answer["error"]["code"],
            "message": answer["error"]["message"],
        }
    return {"labels": [first_label(each) for each in answer.get("results", [answer])]}


def first_label(result: Any) -> str:
    if not result["success"]:
        return f"error {result['error']['code']}"
    return str(result["predictions"][0]["label"])


class Client:
    """One thread's requests, one after another."""

    def __init__(self, target: Target, thread: int, output: Output, began: float) -> None:
        self._target = target
        self._thread = thread
        self._output = output
        self._began = began
        self._keeps = thread % 2 == 0
        self._connection = target.connection()

    def post(self, pictures: list[Picture]) -> None:
        reused = self._connection.sock is not None
        at = time.monotonic()
        try:
            found = self._target.post(self._connection, pictures)
        except (OSError, http.client.HTTPException) as error:
            found = {"status": 0, "labels": [], "message": f"{type(error).__name__}: {error}"}
        if found["status"] == 0 or not self._keeps:
            self._connection.close()
        record = {
            "thread": self._thread,
            "at": round(at - self._began, 3),
            "seconds": round(time.monotonic() - at, 3),
            "reused": reused,
            "files": [each.name for each in pictures],
            "expected": [each.label for each in pictures],
        }
        self._output.write({**record, **found})


def groups_of(pictures: list[Picture], size: int) -> list[list[Picture]]:
    return [pictures[i : i + size] for i in range(0, len(pictures), size)]


def run_once(client: Client, groups: list[list[Picture]]) -> None:
    for group in groups:
        client.post(group)


def run_until(stop: Path, client: Client, groups: Iterator[list[Picture]], pause_s: float) -> None:
    while not stop.exists():
        client.post(next(groups))
        time.sleep(pause_s)


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--once", action="store_true", help="each picture once, in one thread")
    parser.add_argument("--together", type=int, default=1, help="pictures in one request")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between two requests")
    parser.add_argument("--timeout", type=float, default=60.0, help="longest wait for an answer")
    parser.add_argument("--stop-file", type=Path, default=Path("/tmp/stop"))
    parser.add_argument("--header", action="append", default=[], help="'Name: value'")
    return parser.parse_args(arguments)


def main() -> None:
    options = parsed(sys.argv[1:])
    groups = groups_of(pictures_in(options.pictures), options.together)
    target = Target(options.url, options.header, options.timeout)
    output, began = Output(), time.monotonic()
    if options.once:
        run_once(Client(target, 0, output, began), groups)
    else:
        run_threads(options, groups, target, output)
    output.summary(round(time.monotonic() - began, 3))


def run_threads(
    options: argparse.Namespace, groups: list[list[Picture]], target: Target, output: Output
) -> None:
    began = time.monotonic()
    threads = []
    for number in range(options.threads):
        turn = itertools.islice(itertools.cycle(groups), number, None)
        client = Client(target, number, output, began)
        arguments = (options.stop_file, client, turn, options.pause)
        threads.append(threading.Thread(target=run_until, args=arguments))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main()
