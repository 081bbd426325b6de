"""The client of the cluster tests, as a process here: against the real service, and bad ones."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.answers import Answer, Report, answers_in, report_of
from tests.e2e.cluster import PROGRAMS, SAMPLES
from tests.redis_server import eventually, executables
from tests.system.stack import Stack, running

KEY = "a-key-of-sixteen"


class Client:
    """One run of the client, its output in a file."""

    def __init__(self, directory: Path, port: int, *arguments: str) -> None:
        self._log = directory / "log"
        self._stop = directory / "stop"
        url = f"http://localhost:{port}/predict"
        files = [f"--pictures={SAMPLES}", f"--stop-file={self._stop}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(PROGRAMS / "client.py"), url, *files, *arguments],
                stdout=log,
                stderr=log,
            )

    def answers(self) -> list[Answer]:
        return answers_in(self._log.read_text())

    def right_since(self, count: int) -> int:
        return sum(each.is_right for each in self.answers()[count:])

    def stop(self) -> Report:
        self._stop.touch()
        return self.end()

    def end(self, timeout_s: float = 60.0) -> Report:
        assert self._process.wait(timeout_s) == 0, self._log.read_text()
        return report_of(self._log.read_text())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


StartClient = Callable[..., Client]


@pytest.fixture
def start_client(tmp_path: Path) -> Iterator[StartClient]:
    started: list[Client] = []

    def start(port: int, *arguments: str) -> Client:
        directory = tmp_path / f"client-{len(started)}"
        directory.mkdir()
        started.append(Client(directory, port, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The real service with the bundled model."""
    directory = tmp_path_factory.mktemp("stack")
    with running(directory, executables()[0].found(), MODEL="shapes", WEB_PROCESSES="1") as made:
        yield made


def test_every_sample_is_right(stack: Stack, start_client: StartClient) -> None:
    report = start_client(stack.port, "--once").end()

    assert report.failed == [], report
    assert len(report.answers) == 28
    assert {each.reused for each in report.answers[1:]} == {True}


def test_several_in_one_request_are_right(stack: Stack, start_client: StartClient) -> None:
    report = start_client(stack.port, "--once", "--together=5").end()

    assert report.failed == [], report
    assert [len(each.labels) for each in report.answers] == [5, 5, 5, 5, 5, 3]


def test_it_goes_on_until_it_is_stopped(stack: Stack, start_client: StartClient) -> None:
    client = start_client(stack.port, "--threads=4", "--pause=0.02")
    eventually(lambda: len(client.answers()) > 60, "more answers than pictures")
    report = client.stop()

    assert report.failed == [], report
    assert {each.thread for each in report.answers} == {0, 1, 2, 3}
    assert {each.reused for each in report.answers if each.thread % 2} == {False}


def test_an_outage_of_redis_gives_clear_refusals_and_then_labels(
    stack: Stack, start_client: StartClient
) -> None:
    client = start_client(stack.port, "--threads=4", "--pause=0.05")
    eventually(lambda: client.right_since(0) > 20, "pictures are classified")
    stack.redis.kill()
    time.sleep(2)
    stack.redis.start()
    back = len(client.answers())
    eventually(lambda: client.right_since(back) > 20, "pictures are classified again", 60)
    report = client.stop()

    assert report.failed
    for each in report.failed:
        assert each.is_clear_refusal or each.is_explained_timeout, report


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [([], 401, "unauthorized"), (["--header=X-API-Key: wrong-key-of-it"], 403, "forbidden")],
)
def test_requests_without_a_valid_key_are_refused(
    stack: Stack,
    start_client: StartClient,
    tmp_path: Path,
    header: list[str],
    status: int,
    code: str,
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    port = second_web(stack, keys)

    refused = start_client(port, "--once", *header).end()
    assert {(each.status, each.code) for each in refused.answers} == {(status, code)}
    assert start_client(port, "--once", f"--header=X-API-Key: {KEY}").end().failed == []


def second_web(stack: Stack, keys: Path) -> int:
    """Start another web server of the stack, which asks for keys."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    stack.run(
        f"web-{port}",
        "web",
        WEB_PORT=str(port),
        API_KEYS_FILE=str(keys),
        RUN_DIR=str(keys.parent / "run"),
    )

    def ready() -> bool:
        with socket.socket() as attempt:
            return attempt.connect_ex(("127.0.0.1", port)) == 0

    eventually(ready, "the second web server listens", 60)
    return port


# -- servers that misbehave -------------------------------------------------------------------


@contextmanager
def bad_server(reply: bytes, *, reads: bool = True, waits_s: float = 0.0) -> Iterator[int]:
    """Answer every connection with these bytes, and close it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                if reads:
                    connection.recv(1 << 20)
                time.sleep(waits_s)
                connection.sendall(reply)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def reply(status: str, body: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", body]
    return "\r\n".join(lines).encode()


REFUSAL = (
    '{"success": false, "error": {"code": "redis_unavailable", "message": "later"},'
    ' "request_id": "r"}'
)
UNKNOWN_LABEL = '{"success": true, "predictions": [{"label": "unicorn", "probability": 1.0}]}'


def only(report: Report) -> Answer:
    """Return the only kind of answer in the report."""
    assert len(report.answers) == 28, report
    assert len(report.failed) == 28, report
    return report.answers[0]


def test_a_connection_that_is_closed_without_an_answer_is_lost(start_client: StartClient) -> None:
    with bad_server(b"") as port:
        answer = only(start_client(port, "--once").end())

    assert answer.is_lost_connection, answer
    assert not answer.is_clear_refusal


def test_a_connection_that_is_refused_is_lost(start_client: StartClient) -> None:
    answer = only(start_client(1, "--once").end())

    assert answer.is_lost_connection
    assert "ConnectionRefused" in answer.message


def test_an_answer_that_breaks_off_is_lost(start_client: StartClient) -> None:
    with bad_server(reply("200 OK", UNKNOWN_LABEL)[:-10]) as port:
        answer = only(start_client(port, "--once").end())

    assert answer.is_lost_connection, answer


def test_an_answer_that_never_comes_is_no_lost_connection(start_client: StartClient) -> None:
    with bad_server(b"", waits_s=0.3) as port:
        answer = only(start_client(port, "--once", "--timeout=0.1").end())

    assert answer.status == 0
    assert not answer.is_lost_connection, answer


def test_a_wrong_label_is_a_failure(start_client: StartClient) -> None:
    with bad_server(reply("200 OK", UNKNOWN_LABEL)) as port:
        answer = only(start_client(port, "--once").end())

    assert (answer.status, answer.labels) == (200, ("unicorn",))


@pytest.mark.parametrize("content", ["", "<html>", "[]", '{"success": true}', "null"])
def test_a_200_that_is_not_as_documented_is_a_failure(
    start_client: StartClient, content: str
) -> None:
    with bad_server(reply("200 OK", content)) as port:
        answer = only(start_client(port, "--once").end())

    assert "not as documented" in answer.message


def test_a_503_is_clear_only_with_json_and_a_time_to_come_back(start_client: StartClient) -> None:
    soon, html = "Retry-After: 2", "<html>Service Unavailable</html>"
    for content, headers, is_clear in [
        (REFUSAL, [soon], True),
        (REFUSAL, [], False),
        (html, [soon], False),
    ]:
        with bad_server(reply("503 Service Unavailable", content, *headers)) as port:
            answer = only(start_client(port, "--once").end())
        assert answer.is_clear_refusal == is_clear, answer


def test_an_answer_that_comes_before_the_upload_is_read_counts(start_client: StartClient) -> None:
    refusal = reply("503 Service Unavailable", REFUSAL, "Retry-After: 2", "Connection: close")
    with bad_server(refusal, reads=False) as port:
        report = start_client(port, "--once").end()

    # If the reset of the connection overtakes the answer, no client could have read it.
    assert all(each.is_clear_refusal or each.is_lost_connection for each in report.answers), report


def test_a_name_that_is_unknown_ends_it_with_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNKNOWN_NAME, str(PROGRAMS / "client.py")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 1
    assert "cannot be looked up" in done.stderr


#: Runs the client with a short time-out for the name.
UNKNOWN_NAME = f"""
import sys
from pathlib import Path
path = sys.argv[1]
text = Path(path).read_text().replace("RESOLVE_WITHIN_S = 60.0", "RESOLVE_WITHIN_S = 0.0")
sys.argv = [path, "http://no-such-name.invalid/predict", "--pictures={SAMPLES}", "--once"]
exec(compile(text, path, "exec"), {{"__name__": "__main__"}})
"""


def test_the_probe_tells_open_from_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        assert probe("127.0.0.1", port, "open") == "open"
        assert probe("127.0.0.1", port, "closed") == "open"
    assert probe("127.0.0.1", port, "open").startswith("closed (")
    assert probe("no-such-name.invalid", "1", "closed").startswith("unknown (")


def probe(*arguments: str) -> str:
    command = [sys.executable, "-I", str(PROGRAMS / "probe.py"), *arguments, "0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
