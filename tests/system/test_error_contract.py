"""Every error of the HTTP contract: status, code and shape, and that nothing was queued."""

import gzip
import select
import time
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.pictures import encoded, huge_png, photo, png, png_chunk
from tests.system.client import Reply, answer_on, at_once, form, in_background, post_head
from tests.system.conftest import MakeStack
from tests.system.samples import RAISES, poison, sample, samples
from tests.system.stack import Stack, running

MAX_IMAGE = 200_000
MAX_BODY = 400_000


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    with running(
        tmp_path_factory.mktemp("errors"),
        redis_program,
        MODEL="stand-in:batch_ms=5,image_ms=0,size=64,poison=1",
        MAX_IMAGE_BYTES=str(MAX_IMAGE),
        MAX_BODY_BYTES=str(MAX_BODY),
        MAX_IMAGES="3",
        UPLOAD_TIMEOUT_S="1",
        IMAGE_FORMATS="jpeg,png,webp,gif",
    ) as stack:
        yield stack


@pytest.fixture
def queued_nothing(stack: Stack) -> Iterator[None]:
    before = stack.count("accepted")
    yield
    assert stack.count("accepted") == before


GOOD = sample(1).data
NOISE = png(100, 100, 8, 2, png_chunk(b"IDAT", b"\x11" * 500))


Request = tuple[str, bytes, dict[str, str]]
"""A POST: path, body and headers."""


def raw(body: bytes, *, query: str = "", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return f"/predict{query}", body, named


def multipart(*pictures: bytes, field: str = "image") -> Request:
    return "/predict", *form(*pictures, field=field)


def test_a_later_minor_version_is_answered_in_the_version_that_is_spoken(stack: Stack) -> None:
    head = b"GET /healthz HTTP/1.5\r\nHost: a\r\nConnection: close\r\n\r\n"
    with stack.http.open(head) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("queued_nothing")
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        pytest.param(raw(b""), 400, "no_image", id="an empty body"),
        pytest.param(multipart(), 400, "no_image", id="an empty form"),
        pytest.param(multipart(GOOD, field="file"), 400, "no_image", id="another field"),
        pytest.param(multipart(b""), 400, "no_image", id="an empty field"),
        pytest.param(raw(b"hello, this is text"), 400, "not_an_image", id="text"),
        pytest.param(multipart(b"%!PS"), 400, "not_an_image", id="text in a form"),
        pytest.param(raw(NOISE), 400, "corrupt_image", id="noise"),
        pytest.param(raw(GOOD[:-300]), 400, "truncated_image", id="a cut JPEG"),
        pytest.param(raw(GOOD, query="?top=0"), 400, "bad_parameter", id="top=0"),
        pytest.param(raw(GOOD, query="?top=-1"), 400, "bad_parameter", id="top=-1"),
        pytest.param(raw(GOOD, query="?top=many"), 400, "bad_parameter", id="top=many"),
        pytest.param(raw(GOOD, query="?top="), 400, "bad_parameter", id="top="),
        pytest.param(
            raw(GOOD, X_Request_Timeout="soon"), 400, "bad_parameter", id="a timeout in words"
        ),
        pytest.param(raw(GOOD, X_Request_Timeout="0"), 400, "bad_parameter", id="no time"),
        pytest.param(raw(GOOD, X_Request_Timeout="nan"), 400, "bad_parameter", id="nan"),
        pytest.param(
            raw(GOOD, Content_Type="multipart/form-data"), 400, "bad_parameter", id="no boundary"
        ),
        pytest.param(
            raw(b"--x\r\nnonsense", Content_Type="multipart/form-data; boundary=x"),
            400,
            "bad_parameter",
            id="a broken form",
        ),
        pytest.param(
            raw(form(GOOD)[0][:-20], Content_Type="multipart/form-data; boundary=b0undary"),
            400,
            "bad_parameter",
            id="a form without its end",
        ),
        pytest.param(raw(GOOD, query="?model=other"), 404, "unknown_model", id="another model"),
        pytest.param(raw(bytes(MAX_BODY + 1)), 413, "body_too_large", id="a large body"),
        pytest.param(raw(bytes(MAX_IMAGE + 1)), 413, "image_too_large", id="a large picture"),
        pytest.param(
            multipart(bytes(MAX_IMAGE + 1)), 413, "image_too_large", id="a large one in a form"
        ),
        pytest.param(raw(huge_png()), 413, "image_too_large", id="too many pixels"),
        pytest.param(multipart(GOOD, GOOD, GOOD, GOOD), 413, "too_many_images", id="four pictures"),
        pytest.param(raw(encoded(photo(8, 8), "TIFF")), 415, "unsupported_format", id="a TIFF"),
        pytest.param(
            raw(encoded(photo(8, 8), "BMP")), 415, "unsupported_format", id="one switched off"
        ),
        pytest.param(
            raw(gzip.compress(GOOD), Content_Encoding="gzip"),
            415,
            "unsupported_encoding",
            id="gzip",
        ),
        pytest.param(raw(b64encode(GOOD)), 415, "unsupported_encoding", id="base64"),
        pytest.param(
            raw(b'{"image": "' + b64encode(GOOD) + b'"}', Content_Type="application/json"),
            415,
            "unsupported_encoding",
            id="JSON",
        ),
        pytest.param(
            multipart(b"data:image/jpeg;base64," + b64encode(GOOD)),
            415,
            "unsupported_encoding",
            id="a data URI",
        ),
        pytest.param(
            raw(GOOD, Transfer_Encoding="gzip, chunked"), 501, "unsupported_encoding", id="coded"
        ),
    ],
)
def test_a_bad_request_is_refused_and_queues_nothing(
    stack: Stack, sent: Request, status: int, code: str
) -> None:
    path, body, headers = sent
    reply = stack.http.ask("POST", path, body, {**headers, "X-Request-Id": "mine"})
    assert (reply.status, reply.code) == (status, code)
    assert reply.headers["x-request-id"] == "mine"
    assert "retry-after" not in reply.headers


@pytest.mark.usefixtures("queued_nothing")
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("POST", "/predict/more", 404, "not_found"),
        ("GET", "/predict", 405, "method_not_allowed"),
        ("PUT", "/predict", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("DELETE", "/status", 405, "method_not_allowed"),
    ],
)
def test_a_wrong_address_or_method_is_named(
    stack: Stack, method: str, path: str, status: int, code: str
) -> None:
    reply = stack.http.ask(method, path, b"" if method != "GET" else None)
    assert (reply.status, reply.code) == (status, code)


@pytest.mark.usefixtures("queued_nothing")
def test_a_chunked_body_is_stopped_at_the_limit(stack: Stack) -> None:
    pieces = (bytes(10_000) for _ in range(100))
    reply = stack.http.predict(pieces, Transfer_Encoding="chunked")
    assert (reply.status, reply.code) == (413, "body_too_large")


@pytest.mark.usefixtures("queued_nothing")
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"POST /predict HTTP/1.1\r\nHost: te", id="headers"),
        pytest.param(b"P", id="one letter"),
        pytest.param(post_head(50_000) + b"\xff\xd8\xff", id="body"),
        pytest.param(
            post_head(50_000, "Content-Type: multipart/form-data; boundary=x") + b"--x\r\n",
            id="form",
        ),
        pytest.param(
            b"POST /predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            id="chunk",
        ),
    ],
)
def test_an_upload_that_stops_half_way_is_answered_408(stack: Stack, sent: bytes) -> None:
    reply = stack.http.raw(sent)
    assert (reply.status, reply.code) == (408, "upload_too_slow")


@pytest.mark.usefixtures("queued_nothing")
def test_an_upload_that_trickles_is_answered_408(stack: Stack) -> None:
    with stack.http.open(post_head(50_000)) as connection:
        while not select.select([connection], [], [], 0.05)[0]:
            connection.sendall(b"\xff")
        reply = answer_on(connection)
    assert (reply.status, reply.code) == (408, "upload_too_slow")


@pytest.mark.usefixtures("queued_nothing")
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"this is not HTTP\r\n\r\n", id="no HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS"),
        pytest.param(b"GET /healthz HTTP/9.9\r\n\r\n", id="a future version"),
        pytest.param(b"GET / HTTP/1.1\r\nno colon\r\n\r\n", id="no colon"),
        pytest.param(b"POST /predict HTTP/1.1\r\nContent-Length: x\r\n\r\n", id="length x"),
        pytest.param(b"POST /predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n", id="length -5"),
        pytest.param(
            b"POST /predict HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
            id="two lengths",
        ),
        pytest.param(
            b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
            b"0\r\n\r\n",
            id="chunked and a length",
        ),
        pytest.param(
            b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
            id="a bad chunk size",
        ),
        pytest.param(
            b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nabcdef\r\n",
            id="a chunk without its end",
        ),
    ],
)
def test_malformed_http_is_answered_400_in_json(stack: Stack, sent: bytes) -> None:
    reply = stack.http.raw(sent)
    assert reply.status == 400
    assert reply.code in {"bad_parameter", "no_image"}


@pytest.mark.usefixtures("queued_nothing")
@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        pytest.param(b"GET /" + b"a" * 9_000 + b" HTTP/1.1", 414, "address_too_long", id="a line"),
        pytest.param(
            b"GET / HTTP/1.1" + b"".join(b"\r\nX-%d: 1" % i for i in range(101)),
            431,
            "head_too_large",
            id="many headers",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nX: " + b"a" * 9_000, 431, "head_too_large", id="a long header"
        ),
        pytest.param(
            b"GET / HTTP/1.1" + (b"\r\nX: " + b"a" * 8_000) * 5, 431, "head_too_large", id="a head"
        ),
    ],
)
def test_a_head_that_is_too_large_is_refused_by_its_limit(
    stack: Stack, head: bytes, status: int, code: str
) -> None:
    reply = stack.http.raw(head + b"\r\nHost: a\r\n\r\n")
    assert (reply.status, reply.code) == (status, code)


@pytest.mark.usefixtures("queued_nothing")
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_client_that_leaves_in_the_middle_of_an_upload_is_no_bug(
    stack: Stack, chunked: bool
) -> None:
    head = post_head(5_000, "X-Request-Id: leaver")
    if chunked:
        head = b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n500\r\n"
    before = len(stack.web.lines("request"))
    with stack.http.open(head + b"\xff\xd8\xff"):
        pass
    stack.wait_for(lambda: len(stack.web.lines("request")) > before, "the request has ended")
    assert stack.web.lines("request")[-1]["status"] < 500
    assert not stack.web.lines("bug")


def test_a_transfer_encoding_without_chunks_is_named(stack: Stack) -> None:
    reply = stack.http.raw(
        b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n" + GOOD
    )
    assert (reply.status, reply.code) == (501, "unsupported_encoding")
    assert "Transfer-Encoding: gzip" in reply.message


@pytest.mark.parametrize("charset", ["latin-1", "gbk"])
def test_a_picture_whose_name_is_in_an_old_character_set_is_answered(
    stack: Stack, charset: str
) -> None:
    name = {"latin-1": "na\u00efve.jpg", "gbk": "\u7167\u7247.jpg"}[charset]
    body, headers = form(GOOD)
    named = body.replace(b"0.jpg", name.encode(charset))
    assert named != body
    assert stack.http.ask("POST", "/predict", named, headers).labels[0] == sample(1).label


def test_a_picture_that_breaks_the_model_is_answered_422_alone(stack: Stack) -> None:
    pictures = samples(6, first=30)
    stack.workers[0].pause()
    calls = [partial(stack.http.predict, data) for data in [*(p.data for p in pictures), BREAKER]]
    already, dead = stack.waiting(), stack.db.llen(stack.keys.dead)
    with in_background(calls) as futures:
        stack.wait_for(lambda: stack.waiting() >= already + len(calls), "all are queued")
        stack.workers[0].resume()
    *good, bad = [future.result() for future in futures]
    assert [reply.labels[0] for reply in good] == [picture.label for picture in pictures]
    assert (bad.status, bad.code) == (422, "model_failed")
    stack.wait_for(lambda: stack.db.llen(stack.keys.dead) == dead + 1, "it is on the dead list")
    assert stack.workers[0].alive


BREAKER = poison(RAISES)


def test_the_bad_requests_above_were_no_bugs_and_left_nothing(stack: Stack) -> None:
    assert not stack.web.lines("bug")
    assert not stack.web.lines("error below the application")
    assert not [line for line in stack.web.lines() if "traceback" in line]
    assert stack.http.predict(GOOD).labels[0] == sample(1).label
    stack.wait_for(stack.idle, "all jobs are done")
    assert stack.keys_without_expiry() == []


def test_a_caller_without_a_key_is_refused_where_keys_are_switched_on(
    make_stack: MakeStack, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    # The first line is a key behind a byte order mark, as some editors write one.
    keys.write_text("0123456789abcdef\n# another:\nfedcba9876543210\n", encoding="utf-8-sig")
    http = make_stack(API_KEYS_FILE=str(keys)).http
    missing = http.predict(GOOD)
    assert (missing.status, missing.code) == (401, "unauthorized")
    wrong = http.predict(GOOD, X_API_Key="0123456789abcdeX")
    assert (wrong.status, wrong.code) == (403, "forbidden")
    assert http.predict(GOOD, X_API_Key="0123456789abcdef").labels[0] == sample(1).label
    good = http.predict(GOOD, Authorization="Bearer fedcba9876543210")
    assert good.labels[0] == sample(1).label
    assert http.get("/healthz").status == 200
    with http.open(post_head(len(GOOD), "Expect: 100-continue")) as connection:
        assert connection.recv(13) == b"HTTP/1.1 401 ", "it is not asked for its body"


# -- refusals and time-outs ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    """Two pictures a second, one at a time, and at most six may wait."""
    with running(
        tmp_path_factory.mktemp("slow"),
        redis_program,
        MODEL="stand-in:batch_ms=500,image_ms=0,size=64",
        BATCH_SIZE="1",
        QUEUE_LIMIT="6",
    ) as stack:
        yield stack


@pytest.fixture
def stopped(slow: Stack) -> Iterator[Stack]:
    """The same, with its worker stopped until the end of the test."""
    slow.wait_for(slow.idle, "nothing is left of the test before")
    slow.workers[0].pause()
    yield slow
    slow.workers[0].resume()
    slow.wait_for(slow.idle, "all jobs are done")


def test_a_full_queue_is_answered_503_with_the_time_to_come_back(stopped: Stack) -> None:
    pictures = samples(6, first=50)
    with in_background([partial(stopped.http.predict, p.data) for p in pictures]) as futures:
        stopped.wait_for(lambda: stopped.waiting() == 6, "six wait")
        pixels, rejected = stopped.names("p"), stopped.count("rejected")
        reply = stopped.http.predict(GOOD)
        assert (reply.status, reply.code) == (503, "queue_full")
        assert 1 <= reply.retry_after_s <= 60
        assert stopped.names("p") == pixels
        assert stopped.count("rejected") == rejected + 1
        sent = stopped.db.info("stats")["total_net_input_bytes"]
        refused = [stopped.http.predict(GOOD) for _ in range(100)]
        assert {reply.code for reply in refused} == {"queue_full"}
        # The pixels of one picture are 12 KB. Each process sends some while it does not know yet.
        assert stopped.db.info("stats")["total_net_input_bytes"] - sent < 200_000
        assert stopped.count("rejected") == rejected + 101
        stopped.workers[0].resume()
    assert [f.result().labels[0] for f in futures] == [p.label for p in pictures]


def test_a_job_that_cannot_be_done_in_time_is_refused_at_once(stopped: Stack) -> None:
    tight = [
        partial(stopped.http.predict, p.data, X_Request_Timeout="4") for p in samples(3, first=60)
    ]
    with in_background(tight) as futures:
        stopped.wait_for(lambda: stopped.waiting() == 3, "three wait")
        time.sleep(2.2)  # Now their deadlines are before that of the next one.
        reply = stopped.http.predict(GOOD, X_Request_Timeout="1.9")
        assert (reply.status, reply.code) == (503, "would_time_out"), "two seconds are needed"
        assert "the shortest X-Request-Timeout that is accepted now is " in reply.message
        assert 1 <= reply.retry_after_s <= 60
        assert stopped.waiting() == 3
        stopped.workers[0].resume()
    assert {f.result().status for f in futures} <= {200, 503, 504}


def test_a_deadline_that_passes_is_answered_504_and_its_job_never_runs(stopped: Stack) -> None:
    before = stopped.stats()
    reply = stopped.http.predict(GOOD, X_Request_Timeout="0.7")
    assert (reply.status, reply.code) == (504, "timed_out")
    assert not stopped.names("p")
    stopped.workers[0].resume()
    stopped.wait_for(lambda: stopped.count("expired") == before.get("expired", 0) + 1, "it expires")
    assert stopped.count("completed") == before.get("completed", 0)
    assert stopped.count("accepted") == before["accepted"] + 1


def test_a_client_that_hangs_up_has_its_job_cancelled(stopped: Stack) -> None:
    before = stopped.stats()
    with stopped.http.open(post_head(len(GOOD)) + GOOD):
        stopped.wait_for(lambda: len(stopped.names("p")) == 1, "the job is queued")
    stopped.wait_for(lambda: not stopped.names("p"), "the pixels are gone")
    stopped.workers[0].resume()
    stopped.wait_for(lambda: stopped.count("expired") == before.get("expired", 0) + 1, "it expires")
    assert stopped.count("completed") == before.get("completed", 0)
    assert [line for line in stopped.web.lines("request") if line["status"] == 499]


def test_clients_that_hang_up_at_any_moment_have_their_jobs_cancelled(
    make_stack: MakeStack,
) -> None:
    stack = make_stack()
    stack.workers[0].pause()
    sent = 400
    for number in range(sent):
        with stack.http.open(post_head(len(GOOD)) + GOOD):
            time.sleep(number / sent * 0.004)  # From before the job is queued to after it.
    stack.wait_for(lambda: ended(stack) == sent, "all requests have ended", 15)
    stack.wait_for(lambda: not stack.names("p"), "all pixels are gone")
    stack.workers[0].resume()
    stack.wait_for(stack.idle, "the worker has thrown the jobs away")
    assert stack.count("completed") == 0
    assert "Traceback" not in stack.web.output()


def ended(stack: Stack) -> int:
    """How many pictures were answered or given up; those that are refused early write no line."""
    return int(
        sum(
            sample.value
            for family in text_string_to_metric_families(stack.http.get("/metrics").text)
            for sample in family.samples
            if sample.name == "imageserve_requests_total" and sample.labels["endpoint"] == "predict"
        )
    )


def test_an_outage_of_redis_is_answered_503_and_restarts_no_process(make_stack: MakeStack) -> None:
    stack = make_stack()
    processes = stack.web.children()
    stack.redis.kill()
    replies = at_once([partial(stack.http.predict, GOOD)] * 4)
    assert {(reply.status, reply.code) for reply in replies} == {(503, "redis_unavailable")}
    assert all(reply.retry_after_s >= 1 for reply in replies)
    overview: Reply = stack.http.get("/status")
    assert overview.json == {"models": {}, "redis": "unavailable"}
    assert stack.http.get("/models").json["models"]["stand-in"]["workers"] is None
    assert stack.http.status_of("/readyz") == 200
    assert stack.http.status_of("/metrics") == 200
    stack.redis.start()
    stack.wait_for(lambda: stack.http.predict(GOOD).status == 200, "pictures are served again")
    assert stack.web.children() == processes
