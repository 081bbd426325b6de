"""The client against a server with faults: what it sends again, how long, and what it lets go."""

import asyncio
import io
import signal
import ssl
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Iterator
from contextlib import closing
from itertools import repeat
from pathlib import Path

import pytest
from tests import faulty_server as faults
from tests.faulty_server import FaultyServer, answer, refusal, serving
from tests.model_server import make_certificates
from tests.redis_server import eventually, free_port

from imageserve.client import (
    AsyncClient,
    BadPicture,
    Client,
    ServerFailed,
    TimedOut,
    Unavailable,
    Unreachable,
    Unreadable,
)

PATIENCE_S = 30


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving() as server:
        yield server


@pytest.fixture
def client(server: FaultyServer) -> Iterator[Client]:
    with Client(server.url, timeout=PATIENCE_S) as client:
        yield client


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(faults.reset, id="reset before the answer"),
        pytest.param(faults.half_an_answer, id="broken in the middle of it"),
        pytest.param(refusal(503, "busy"), id="busy"),
        pytest.param(answer(502, b"<html>"), id="a proxy's 502"),
        pytest.param(answer(429, b"slow down"), id="a proxy's 429"),
        pytest.param(refusal(504, "timed_out"), id="a server less patient than its client"),
    ],
)
def test_what_passes_is_sent_again_as_the_same_request(
    server: FaultyServer, client: Client, fault: faults.Fault
) -> None:
    server.script += [fault, fault]

    assert client.classify(b"a picture").predictions[0].label == "star"

    assert [body for *_, body in server.asked] == [b"a picture"] * 3
    assert len(set(server.request_ids)) == 1
    told = [float(headers["x-request-timeout"]) for _, headers, _ in server.asked]
    assert PATIENCE_S > told[0] > told[1] > told[2] > 0


@pytest.mark.parametrize(("status", "code"), [(503, "queue_full"), (429, "rate_limited")])
def test_the_wait_that_the_server_asks_for_is_kept(
    server: FaultyServer, client: Client, status: int, code: str
) -> None:
    server.script.append(refusal(status, code, Retry_After="1"))
    client.classify(b"")
    (first, *_), (second, *_) = server.asked
    assert second - first >= 1


def test_what_would_end_past_the_deadline_is_not_waited_for(server: FaultyServer) -> None:
    server.script.append(refusal(503, "queue_full", Retry_After="3600", X_Request_Id="r1"))
    with Client(server.url) as client, pytest.raises(Unavailable) as raised:
        client.classify(b"", timeout=PATIENCE_S)
    assert str(raised.value) == "it is queue_full (queue_full, request r1)"
    assert raised.value.retry_after_s == 3600
    assert len(server.asked) == 1


@pytest.mark.parametrize("fault", [faults.silence, faults.drips], ids=["silence", "drips"])
def test_no_answer_is_waited_for_past_the_deadline(
    server: FaultyServer, client: Client, fault: faults.Fault
) -> None:
    server.script += [refusal(503, "busy"), fault]
    with pytest.raises(TimedOut) as raised:
        client.classify(b"", timeout=1.5)
    assert raised.value.message == "no answer within 1.5 s; before: it is busy"
    assert isinstance(raised.value.__cause__, Unavailable)
    assert raised.value.request_id == server.request_ids[0]


def test_what_does_not_pass_is_sent_once(server: FaultyServer, client: Client) -> None:
    server.script += [refusal(400, "corrupt_image"), refusal(500, "internal")]
    with pytest.raises(BadPicture):
        client.classify(b"")
    with pytest.raises(ServerFailed):
        client.classify(b"")
    assert len(server.asked) == 2


def test_a_server_that_never_was_there_is_told_at_once() -> None:
    with Client(f"http://127.0.0.1:{free_port()}", timeout=PATIENCE_S) as client:
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"cannot be reached.*request"):
            client.classify(b"")
        assert time.monotonic() - began < PATIENCE_S / 2


def test_a_server_that_was_there_is_waited_for() -> None:
    port = free_port()
    with Client(f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
        with serving(port) as server:
            server.script.append(answer(Connection="close"))
            client.classify(b"")
        with pytest.raises((Unreachable, TimedOut)):
            client.classify(b"", timeout=0.3)

        def come_back() -> None:
            time.sleep(0.4)
            with serving(port) as again:
                answered.wait(PATIENCE_S)
                asked.append(len(again.asked))

        answered, asked = threading.Event(), list[int]()
        thread = threading.Thread(target=come_back)
        thread.start()
        client.classify(b"")
        answered.set()
        thread.join()
        assert asked == [1]


# -- many -----------------------------------------------------------------------------------------


def test_order_is_kept_or_outcomes_come_as_they_are_ready(
    server: FaultyServer, client: Client
) -> None:
    release = threading.Event()

    def late(handler: faults.Handler) -> None:
        release.wait(PATIENCE_S)
        answer()(handler)

    server.script.append(late)
    came = client.classify_many([b"a", b"b", b"c"], concurrency=2, in_order=False)
    early = [next(came).picture, next(came).picture]
    release.set()
    rest = [outcome.picture for outcome in came]
    assert len(early + rest) == 3
    assert set(early + rest) == {b"a", b"b", b"c"}
    assert server.asked[0][2] in rest, "the late one is the last"

    many = [str(number).encode() for number in range(100)]
    done: list[int] = []
    outcomes = list(client.classify_many(many, concurrency=8, progress=done.append))
    assert [outcome.picture for outcome in outcomes] == many
    assert [outcome.index for outcome in outcomes] == done_before(done) == list(range(100))


def done_before(done: list[int]) -> list[int]:
    return [each - 1 for each in done]


def test_a_failure_does_not_end_the_others(server: FaultyServer, client: Client) -> None:
    server.script.append(refusal(400, "not_an_image"))
    outcomes = list(client.classify_many([b"a", "/nowhere.jpg", b"c"], concurrency=1))
    assert [type(outcome.error) for outcome in outcomes] == [BadPicture, Unreadable, type(None)]
    assert len(server.asked) == 2
    with pytest.raises(ValueError, match="concurrency"):
        next(client.classify_many([b"a"], concurrency=0))


def test_no_more_pictures_are_held_than_are_under_way(client: Client) -> None:
    taken = 0
    alive: weakref.WeakSet[io.BytesIO] = weakref.WeakSet()

    def pictures() -> Iterator[io.BytesIO]:
        nonlocal taken
        for number in range(200):
            taken += 1
            picture = io.BytesIO(str(number).encode())
            alive.add(picture)
            yield picture

    most = 0
    for done, outcome in enumerate(client.classify_many(pictures(), concurrency=8)):
        assert outcome.error is None
        assert taken - done <= 8
        most = max(most, len(alive))
    assert (done, taken) == (199, 200)
    # Besides: the last outcome, here and in the generator, and what a thread has just finished.
    assert most <= 24


# -- letting go -----------------------------------------------------------------------------------


def test_an_iteration_that_is_left_hangs_up(server: FaultyServer, client: Client) -> None:
    server.script += [answer(), *repeat(faults.silence, 5)]
    with closing(client.classify_many(repeat(b"x"), concurrency=6, in_order=False)) as outcomes:
        next(outcomes)
    for _ in range(5):
        assert server.hung_up.acquire(timeout=PATIENCE_S)


def test_a_cancelled_call_hangs_up(server: FaultyServer) -> None:
    server.script += repeat(faults.silence, 4)

    async def cancelled(work: Awaitable[object], count: int) -> None:
        task = asyncio.ensure_future(work)
        await asyncio.to_thread(eventually, lambda: len(server.asked) == count, "all are sent")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def call() -> None:
        async with AsyncClient(server.url) as client:
            await cancelled(client.classify(b"x"), 1)
            await cancelled(anext(client.classify_many(repeat(b"x"), concurrency=3)), 4)

    asyncio.run(call())
    for _ in range(4):
        assert server.hung_up.acquire(timeout=PATIENCE_S)


def test_ctrl_c_ends_waiting_calls(server: FaultyServer) -> None:
    server.script += repeat(faults.silence, 4)
    code = (
        "from imageserve.client import Client\n"
        f"client = Client({server.url!r})\n"
        "try: list(client.classify_many([b'x'] * 9, concurrency=4))\n"
        "except KeyboardInterrupt: print('stopped')"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as program:
        eventually(lambda: len(server.asked) == 4, "all are sent")
        program.send_signal(signal.SIGINT)
        assert program.communicate(timeout=PATIENCE_S) == ("stopped\n", "")
    for _ in range(4):
        assert server.hung_up.acquire(timeout=PATIENCE_S)


# -- where it runs --------------------------------------------------------------------------------


def test_the_asynchronous_client_does_the_same(server: FaultyServer) -> None:
    server.script += [faults.reset, answer(), refusal(400, "not_an_image")]

    async def call() -> list[int]:
        done: list[int] = []
        async with AsyncClient(server.url) as client:
            assert (await client.classify(b"a")).predictions[0].label == "star"
            asked = client.classify_many([b"b"] * 40, progress=done.append)
            outcomes = [outcome async for outcome in asked]
            assert [outcome.index for outcome in outcomes] == done_before(done)
            asked = client.classify_many([b"c"] * 40, in_order=False)
            assert {outcome.index async for outcome in asked} == set(range(40))
            return [outcome.index for outcome in outcomes if outcome.error]

    assert len(asyncio.run(call())) == 1
    assert len(server.asked) == 82


def test_a_forked_process_has_connections_of_its_own(server: FaultyServer) -> None:
    code = (
        "import os; from imageserve.client import Client\n"
        f"client = Client({server.url!r}, timeout=20)\n"
        "client.classify(b'before')\n"
        "child = os.fork()\n"
        "client.classify(b'child' if child == 0 else b'parent')\n"
        "os._exit(0) if child == 0 else os._exit(os.waitpid(child, 0)[1])"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S * 2)
    assert {body for *_, body in server.asked} == {b"before", b"parent", b"child"}


def test_address_and_key_come_from_the_environment(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGESERVE_URL", f"{server.url}/")
    monkeypatch.setenv("IMAGESERVE_API_KEY", "secret\n")
    with Client() as client:
        client.classify(b"")
    with Client(api_key="other") as client:
        client.classify(b"")
    keys = [headers["authorization"] for _, headers, _ in server.asked]
    assert keys == ["Bearer secret", "Bearer other"]


@pytest.mark.parametrize("url", ["file:///etc", "localhost:8000", "ftp://there"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="url must begin with http:// or https://"):
        Client(url)


def test_a_server_is_believed_only_with_a_certificate(server: FaultyServer, tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(files / "server.pem", files / "server.key")
    server.socket = theirs.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_port}"

    with Client(url) as client, pytest.raises(Unreachable, match=r"(?i)certificate"):
        client.classify(b"")
    ours = ssl.create_default_context(cafile=files / "ca.pem")
    with Client(url, verify=ours) as client:
        client.classify(b"")
