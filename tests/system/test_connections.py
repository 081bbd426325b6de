"""What clients may do with a connection: heads, bodies and idle time have limits.

Everything here is spoken by hand, byte by byte, to one web process.
"""

import resource
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.system.client import Reply, answer_on, post_head
from tests.system.conftest import MakeStack
from tests.system.samples import sample
from tests.system.stack import Stack, resident_bytes, running

GOOD = sample(1)
PROBE = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"
CHUNKED = b"POST /predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
MAX_BODY = 400_000


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    with running(
        tmp_path_factory.mktemp("connections"),
        redis_program,
        WEB_PROCESSES="1",
        UPLOAD_TIMEOUT_S="2",
        KEEPALIVE_S="60",
        MAX_IMAGE_BYTES="200000",
        MAX_BODY_BYTES=str(MAX_BODY),
        CORS_ORIGINS="https://app.test",
    ) as stack:
        yield stack


def send_until_refused(connection: socket.socket, data: bytes, times: int) -> None:
    """Send it again and again; stop where the other side has hung up."""
    try:
        for _ in range(times):
            connection.sendall(data)
    except OSError:
        return


# -- bodies ---------------------------------------------------------------------------------------


def test_a_body_in_tiny_chunks_is_refused_and_others_are_served_meanwhile(stack: Stack) -> None:
    with stack.http.open(CHUNKED) as connection, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send_until_refused, connection, b"1\r\na\r\n" * 20_000, 500)
        while not sending.done():
            assert stack.http.get("/healthz").status == 200
        reply = answer_on(connection)
    assert (reply.status, reply.code) == (400, "bad_parameter")
    assert "too small chunks" in reply.message


def test_a_body_whose_framing_is_larger_than_itself_is_refused(stack: Stack) -> None:
    extended = b"200;x=" + b"y" * 8_000 + b"\r\n" + bytes(512) + b"\r\n"
    with stack.http.open(CHUNKED) as connection:
        send_until_refused(connection, extended, MAX_BODY // 512)
        reply = answer_on(connection)
    assert (reply.status, reply.code) == (413, "body_too_large")


@pytest.mark.parametrize("head", [b"GET /healthz", b"POST /nothing"])
def test_a_body_that_nobody_reads_is_not_waited_for(stack: Stack, head: bytes) -> None:
    with stack.http.open(head + CHUNKED[len(b"POST /predict") :]) as connection:
        send_until_refused(connection, b"10000\r\n" + bytes(65_536) + b"\r\n", 2_000)
        assert answer_on(connection).headers["connection"] == "close"


# -- heads ----------------------------------------------------------------------------------------


def test_a_head_that_never_ends_is_answered_408_on_a_kept_connection_too(stack: Stack) -> None:
    with stack.http.open(PROBE) as connection:
        assert answer_on(connection).status == 200
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: te")
        reply = answer_on(connection)
    assert (reply.status, reply.code) == (408, "upload_too_slow")


def test_so_is_one_that_began_together_with_the_request_before_it(stack: Stack) -> None:
    with stack.http.open(PROBE + b"GET /healthz HTTP/1.1\r\n") as connection:
        assert answer_on(connection).status == 200
        assert answer_on(connection).status == 408


@pytest.mark.parametrize(
    ("method", "end"),
    [
        pytest.param(b"GET", b"", id="unfinished"),
        pytest.param(b"POST", b"Content-Length: 9\r\n\r\n", id="without its body"),
    ],
)
def test_heads_that_stall_do_not_keep_others_out(stack: Stack, method: bytes, end: bytes) -> None:
    start = method + b" /predict HTTP/1.1\r\nHost: test\r\n"
    # 18 MB, and then ever smaller ones that take what is left.
    sizes = [28_000] * 650 + [7_000] * 5 + [1_000] * 8 + [30] * 40
    with ExitStack() as held:
        for size in sizes:
            lines = b"".join(
                b"X: %s\r\n" % (b"a" * min(size, 7_000)) for _ in range(0, size, 7_000)
            )
            send_until_refused(held.enter_context(stack.http.open()), start + lines + end, 1)
        assert [stack.http.get("/healthz").status for _ in range(5)] == [200] * 5


def test_large_heads_are_refused_and_cost_no_memory(stack: Stack) -> None:
    large = b"POST /predict HTTP/1.1\r\nHost: test\r\n" + (b"X: " + b"a" * 8_000 + b"\r\n") * 95
    (process,) = stack.web.children()
    before = resident_bytes(process)

    def status() -> int:
        with stack.http.open() as connection:
            send_until_refused(connection, large, 1)
            return answer_on(connection).status

    with ThreadPoolExecutor(100) as pool:
        statuses = Counter(future.result() for future in [pool.submit(status) for _ in range(200)])
    assert statuses == {431: 200}
    assert resident_bytes(process) - before < 30 * 2**20


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(b"GET /healthz HTTP/1.1", 400, id="none"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a b", 400, id="two words"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a/b", 400, id="a path"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: me@a", 400, id="a user"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a:b", 400, id="no port"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b", 400, id="two hosts"),
        pytest.param(b"GET /healthz HTTP/1.0", 200, id="none in HTTP/1.0"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a_b.c-d:80", 200, id="a name"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: [::1]:80", 200, id="an address"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost:", 200, id="an empty one"),
    ],
)
def test_a_request_of_http_1_1_needs_a_host(stack: Stack, head: bytes, status: int) -> None:
    assert stack.http.raw(head + b"\r\n\r\n").status == status


@pytest.mark.parametrize(
    "head",
    [
        b"GET /\xff HTTP/1.1\r\nHost: a",
        b"get / HTTP/1.1\r\nHost: a",
        b"GET / HTTP/9.9\r\nHost: a",
        b"GET / HTTP/1.1\r\nHost: a\r\nb'x\\x00: 1",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n  2",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: b'5'",
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: b'x'",
        b"GET /nothing%00%1b%0ab HTTP/1.1\r\nHost: a",
        b"POST /predict?top=a%09b HTTP/1.1\r\nHost: a",
        b"POST /predict?model=a%00%ffb HTTP/1.1\r\nHost: a",
        b"POST /predict HTTP/1.1\r\nHost: a\r\nX-Request-Timeout: a\tb",
    ],
)
def test_no_message_quotes_as_python_does(stack: Stack, head: bytes) -> None:
    reply = stack.http.raw(head + b"\r\n\r\n")
    assert 400 <= reply.status < 500
    assert reply.message.isprintable()
    assert not set("'\"\\(") & set(reply.message)


# -- "100 Continue" -------------------------------------------------------------------------------


def test_continue_is_said_when_the_head_is_accepted(stack: Stack) -> None:
    with stack.http.open(post_head(len(GOOD.data), "Expect: 100-continue")) as connection:
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GOOD.data)
        assert answer_on(connection).labels[0] == GOOD.label


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(post_head(MAX_BODY + 1, "Expect: 100-continue"), 413, id="too large"),
        pytest.param(
            post_head(9, "Expect: 100-continue", path="/predict?model=x"), 404, id="another model"
        ),
        pytest.param(post_head(9, "Expect: 100-continue", path="/predict?top=x"), 400, id="bad"),
        pytest.param(
            post_head(9, "Expect: 100-continue", "Content-Encoding: gzip"), 415, id="compressed"
        ),
    ],
)
def test_continue_is_not_said_where_the_head_is_refused(
    stack: Stack, head: bytes, status: int
) -> None:
    with stack.http.open(head) as connection:
        assert connection.recv(13) == b"HTTP/1.1 %d " % status


# -- early answers --------------------------------------------------------------------------------


def test_a_client_that_goes_on_sending_after_a_refused_head_gets_its_answer(stack: Stack) -> None:
    body = bytes(20 * 2**20)

    def reply() -> Reply:
        with stack.http.open() as connection:
            connection.sendall(b"POST /predict HTTP/9.9\r\nHost: a\r\nContent-Length: 9\r\n\r\n")
            connection.sendall(body)
            return answer_on(connection)

    assert [reply().status for _ in range(10)] == [400] * 10


# -- pages of other origins -----------------------------------------------------------------------

PAGE = {"Origin": "https://app.test"}


def test_a_page_of_an_allowed_origin_may_send_pictures_and_read_all_answers(stack: Stack) -> None:
    asked = {**PAGE, "Access-Control-Request-Method": "POST"}
    told = stack.http.ask("OPTIONS", "/predict", headers=asked)
    assert (told.status, told.text) == (204, "")
    assert "POST" in told.headers["access-control-allow-methods"]
    answers = [
        told,
        stack.http.ask("POST", "/predict", GOOD.data, PAGE),
        stack.http.ask("POST", "/predict", b"no picture", PAGE),
        stack.http.raw(b"GET / HTTP/1.1\r\nOrigin: https://app.test\r\n\r\n"),
    ]
    assert [answer.status for answer in answers] == [204, 200, 400, 400]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "https://app.test"
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"]


TWO_ORIGINS = (
    b"POST /predict HTTP/1.1\r\nHost: test\r\nOrigin: https://app.test\r\n"
    b"Origin: https://other.test\r\nContent-Length: 0\r\n\r\n"
)


def test_a_page_of_another_origin_may_not(stack: Stack) -> None:
    asked = {"Origin": "https://other.test", "Access-Control-Request-Method": "POST"}
    for answer in (
        stack.http.ask("OPTIONS", "/predict", headers=asked),
        stack.http.ask("POST", "/predict", GOOD.data, {"Origin": "https://other.test"}),
        stack.http.raw(TWO_ORIGINS),
    ):
        assert "access-control-allow-origin" not in answer.headers


def test_a_preflight_with_a_body_is_not_taken_for_two_requests(stack: Stack) -> None:
    head = (
        b"OPTIONS /predict HTTP/1.1\r\nHost: test\r\nOrigin: https://app.test\r\n"
        b"Access-Control-Request-Method: POST\r\nContent-Length: %d\r\n\r\n" % len(PROBE)
    )
    with stack.http.open(head + PROBE) as connection:
        reply = answer_on(connection)
        assert reply.headers["connection"] == "close"
        assert reply.headers["x-request-id"]
        assert connection.recv(1) == b"", "nothing follows"


# -- many connections -----------------------------------------------------------------------------


@pytest.fixture
def few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all programs of this test start with 256 file descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2048)), hard))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nulimit -n 256\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.mark.usefixtures("few_files")
@pytest.mark.parametrize(
    "beginning", [PROBE, b"", b"GET /he"], ids=["kept", "silent", "unfinished"]
)
def test_more_connections_than_files_leave_room_for_new_ones(
    make_stack: MakeStack, beginning: bytes
) -> None:
    stack = make_stack(workers=0, WEB_PROCESSES="1", UPLOAD_TIMEOUT_S="60")
    with ExitStack() as held:
        for number in range(600):
            connection = held.enter_context(stack.http.open(beginning))
            if beginning is PROBE:
                assert answer_on(connection).status == 200, number
        assert stack.http.get("/healthz").status == 200
