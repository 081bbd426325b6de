"""Probes never starve, hostile uploads do no harm, and a killed web process is replaced."""

import os
import random
import signal
import socket
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from http.client import HTTPException
from pathlib import Path

from PIL import Image
from tests.pictures import encoded, hostile_pictures, photo
from tests.redis_server import free_port
from tests.system.client import Client, Reply, answer_on, at_once, form, in_background, post_head
from tests.system.conftest import MakeStack
from tests.system.samples import sample, samples
from tests.system.stack import START_S, Stack, is_frozen, resident_bytes

GOOD = sample(1)
SLOTS = 8
PROCESSES = 2


def test_probes_and_refusals_are_quick_while_all_slots_wait_and_uploads_hang(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(
        WEB_SLOTS=str(SLOTS), WEB_PROCESSES=str(PROCESSES), UPLOAD_TIMEOUT_S="60", QUEUE_LIMIT="100"
    )
    (worker,) = stack.workers
    worker.pause()
    with ExitStack() as held:
        for _ in range(100):
            held.enter_context(stack.http.open(post_head(90_000) + GOOD.data))
            held.enter_context(stack.http.open(b"POST /predict HTTP/1.1\r\nHost: te"))
        pool = held.enter_context(ThreadPoolExecutor(100))
        waiting = fill_slots(stack, pool)
        for _ in range(12):
            began = time.monotonic()
            assert stack.http.get("/healthz").status == 200
            assert time.monotonic() - began < 1
            began = time.monotonic()
            reply = stack.http.predict(GOOD.data)
            assert time.monotonic() - began < 1
            assert (reply.status, reply.code) == (503, "busy")
            assert reply.retry_after_s >= 1
            assert stack.http.get("/readyz").status == 200
        worker.resume()
        assert [f.result().labels[0] for f in waiting] == [GOOD.label] * SLOTS * PROCESSES
    stack.wait_for(lambda: stack.http.predict(GOOD.data).status == 200, "slots are free again")


def fill_slots(stack: Stack, pool: ThreadPoolExecutor) -> list[Future[Reply]]:
    """Send pictures until every slot of every process waits for an answer."""
    waiting: list[Future[Reply]] = []
    for _ in range(20 * SLOTS * PROCESSES):
        before = stack.waiting()
        future = pool.submit(stack.http.predict, GOOD.data)
        stack.wait_for(lambda: future.done() or stack.waiting() > before, "queued or refused")  # noqa: B023
        if not future.done():
            waiting.append(future)
        if len(waiting) == SLOTS * PROCESSES:
            return waiting
    raise AssertionError(f"only {len(waiting)} slots could be filled")


# -- hostile uploads ------------------------------------------------------------------------------


def test_a_thousand_hostile_uploads_leave_the_service_healthy(make_stack: MakeStack) -> None:
    stack = make_stack(UPLOAD_TIMEOUT_S="1.5")
    warm_up = [partial(stack.http.predict, p.data) for p in samples(50)]
    assert {reply.status for reply in at_once(warm_up)} == {200}
    processes = stack.web.children()
    before = [resident_bytes(pid) for pid in processes]
    accepted = stack.count("accepted")

    drawn = random.Random(7)
    pictures = list(hostile_pictures(840))
    broken = [broken_request(drawn) for _ in range(160)]
    with ThreadPoolExecutor(16) as pool:
        answers: list[Future[Reply]] = [
            pool.submit(stack.http.predict_form if i % 2 else stack.http.predict, data)
            for i, (_, data, _) in enumerate(pictures)
        ]
        ends: list[Future[int]] = [pool.submit(send_broken, stack, data) for data in broken]
        while not (all(f.done() for f in answers) and all(f.done() for f in ends)):
            assert stack.http.get("/healthz").status == 200
    for (name, _, allowed), future in zip(pictures, answers, strict=True):
        reply = future.result()
        assert reply.code in allowed, (name, reply)
        assert 400 <= reply.status < 500, (name, reply)
    statuses = Counter(future.result() for future in ends)
    assert not [status for status in statuses if status and not 400 <= status < 500], statuses
    assert statuses[408] > 0, statuses

    assert stack.http.predict(GOOD.data).labels[0] == GOOD.label
    assert stack.web.children() == processes
    assert not stack.web.lines("bug")
    assert not stack.web.lines("error below the application")
    grown = [resident_bytes(pid) - old for pid, old in zip(processes, before, strict=True)]
    assert max(grown) < 100 * 2**20, grown
    assert stack.count("accepted") == accepted + 1
    stack.wait_for(stack.idle, "all jobs are done")
    assert not stack.names("p")
    assert stack.keys_without_expiry() == []


def broken_request(drawn: random.Random) -> bytes:
    """Write a request that lies about its body, breaks off, or is no HTTP."""
    body, headers = form(GOOD.data)
    kind = f"Content-Type: {headers['Content-Type']}"
    chunked = b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    cut = drawn.randrange(len(body) - 100)
    return drawn.choice(
        [
            post_head(len(body) + 1000, kind) + body[:cut],
            post_head(len(GOOD.data)) + GOOD.data[:cut],
            post_head(len(body) - 200, kind) + body,
            post_head(cut, "Content-Type: multipart/form-data") + body,
            post_head(cut, "Content-Type: multipart/form-data; boundary=other") + body[:cut],
            post_head(cut, kind) + drawn.randbytes(cut),
            post_head(10**12),
            post_head(cut, "Content-Encoding: gzip") + drawn.randbytes(cut),
            chunked + b"zz\r\n",
            chunked + b"5\r\nabcdefgh\r\n",
            chunked + b"ffffffffffffffff\r\n" + drawn.randbytes(500),
            drawn.randbytes(300) + b"\r\n\r\n",
        ]
    )


def send_broken(stack: Stack, data: bytes) -> int:
    """Send it; return the status, or 0 if the server only hung up."""
    try:
        return stack.http.raw(data).status
    except (OSError, HTTPException):
        return 0


def test_uploads_that_hold_too_much_memory_are_refused(make_stack: MakeStack) -> None:
    stack = make_stack(
        WEB_PROCESSES="1",
        WEB_MEMORY_BYTES="4MiB",
        MAX_BODY_BYTES="2MiB",
        MAX_IMAGE_BYTES="2MiB",
        UPLOAD_TIMEOUT_S="30",
    )
    head = post_head(1_500_000)
    with ExitStack() as held:
        for _ in range(6):
            held.enter_context(stack.http.open(head + bytes(1_000_000)))

        def refused() -> bool:
            reply = stack.http.predict(bytes(900_000))
            return (reply.status, reply.code) == (503, "busy")

        stack.wait_for(refused, "uploads are refused")
        assert stack.http.get("/healthz").status == 200
    stack.wait_for(lambda: stack.http.predict(GOOD.data).status == 200, "memory is free again")


# -- the end of a web process -----------------------------------------------------------------


def test_drain_makes_the_server_unready_while_it_goes_on_serving(make_stack: MakeStack) -> None:
    stack = make_stack()
    (worker,) = stack.workers
    worker.pause()
    pictures = samples(6)
    with in_background([partial(stack.http.predict, p.data) for p in pictures]) as futures:
        stack.wait_for(lambda: stack.waiting() == 6, "all wait")
        drain = stack.run("drain", "drain", "--wait", "0.1")
        assert drain.wait() == 0
        ready = at_once([partial(stack.http.get, "/readyz")] * 8)
        assert {reply.status for reply in ready} == {503}
        assert {reply.headers["connection"] for reply in ready} == {"close"}
        assert stack.http.get("/healthz").status == 200
        worker.resume()
    assert [f.result().labels[0] for f in futures] == [p.label for p in pictures]
    assert {f.result().headers["connection"] for f in futures} == {"close"}
    assert stack.http.predict(GOOD.data).labels[0] == GOOD.label


def test_sigterm_answers_the_requests_in_progress_and_refuses_others(make_stack: MakeStack) -> None:
    stack = make_stack()
    (worker,) = stack.workers
    worker.pause()
    pictures = samples(10)
    with (
        in_background([partial(stack.http.predict, p.data) for p in pictures]) as futures,
        stack.http.open(post_head(len(GOOD.data))[:-2]) as late,
    ):
        stack.wait_for(lambda: stack.waiting() == 10, "all wait")
        stack.web.send(signal.SIGTERM)
        stack.wait_for(lambda: is_closed(stack), "no more connections are taken")
        late.sendall(b"\r\n" + GOOD.data)
        refused = answer_on(late)
        worker.resume()
    assert (refused.status, refused.code) == (503, "shutting_down")
    assert refused.retry_after_s >= 1
    assert [f.result().labels[0] for f in futures] == [p.label for p in pictures]
    assert stack.web.wait() == 0
    assert stack.keys_without_expiry() == []


def is_closed(stack: Stack) -> bool:
    try:
        stack.http.open(timeout_s=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_hup_replaces_the_web_processes_and_no_request_fails(make_stack: MakeStack) -> None:
    stack = make_stack()
    (worker,) = stack.workers
    worker.pause()
    old, pictures = set(stack.web.children()), samples(6)
    with in_background([partial(stack.http.predict, p.data) for p in pictures]) as futures:
        stack.wait_for(lambda: stack.waiting() == 6, "all wait")
        stack.web.send(signal.SIGHUP)
        stack.wait_for(lambda: len(set(stack.web.children()) - old) == PROCESSES, "new ones")
        worker.resume()
    assert [f.result().labels[0] for f in futures] == [p.label for p in pictures]
    stack.wait_for(lambda: not old & set(stack.web.children()), "the old ones have ended")
    assert stack.http.predict(GOOD.data).labels[0] == GOOD.label


def test_usr2_starts_a_second_server_that_takes_over(make_stack: MakeStack) -> None:
    stack = make_stack(WEB_PROBE_PORT=str(free_port()))
    probes = Client(int(stack.env["WEB_PROBE_PORT"]))

    def served() -> float:
        return sum(
            float(line.rpartition(" ")[2])
            for line in stack.http.get("/metrics").text.splitlines()
            if line.startswith("imageserve_pictures_total{")
        )

    assert stack.http.predict(GOOD.data).status == 200
    stack.web.send(signal.SIGUSR2)
    stack.wait_for(lambda: stack.listeners() == 2 * PROCESSES, "both servers listen", START_S)
    stack.wait_for(lambda: probes.status_of("/readyz") == 200, "the first answers the probes")
    stack.web.send(signal.SIGTERM)
    assert stack.web.wait() == 0
    stack.wait_for(lambda: probes.status_of("/readyz") == 200, "the second has their port now")
    assert stack.http.predict(GOOD.data).labels[0] == GOOD.label
    assert served() == 2, "the counters of the first server are still there"


def test_a_killed_web_process_is_replaced_and_only_its_own_clients_notice(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(REQUEST_TIMEOUT_S="20", RESULT_TTL_S="1")
    (worker,) = stack.workers
    worker.pause()
    pictures = samples(24)
    victim, other = stack.web.children()
    with ThreadPoolExecutor(24) as pool:
        futures = [pool.submit(labels_or_reset, stack, p.data) for p in pictures]
        stack.wait_for(lambda: stack.waiting() == 24, "all wait")
        os.kill(victim, signal.SIGKILL)
        stack.wait_for(lambda: any(f.done() for f in futures), "its clients notice")
        worker.resume()
        found = [future.result() for future in futures]
    lost = [label for label in found if label is None]
    assert all(a in (None, p.label) for a, p in zip(found, pictures, strict=True))
    assert 0 < len(lost) < 24
    stack.wait_for(lambda: len(set(stack.web.children()) - {victim}) == PROCESSES, "a new one")
    assert other in stack.web.children()
    stack.wait_ready()
    replies = at_once([partial(stack.http.predict, p.data) for p in pictures])
    assert [reply.labels[0] for reply in replies] == [p.label for p in pictures]
    stack.wait_for(stack.idle, "all jobs are done")
    assert not stack.names("p")
    assert stack.keys_without_expiry() == []


def test_a_web_process_that_hangs_is_replaced_while_the_others_answer(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(REQUEST_TIMEOUT_S="60")
    (worker,) = stack.workers
    worker.pause()
    hung, other = stack.web.children()
    with ThreadPoolExecutor(24) as pool:
        futures = [pool.submit(labels_or_reset, stack, p.data) for p in samples(24)]
        stack.wait_for(lambda: stack.waiting() == 24, "all wait")
        os.kill(hung, signal.SIGSTOP)
        stack.wait_for(lambda: is_frozen(hung), "it hangs")
        worker.resume()
        replies = at_once([partial(stack.http.predict, GOOD.data)] * 8)
        assert [reply.labels[0] for reply in replies] == [GOOD.label] * 8
        assert not all(future.done() for future in futures), "what hangs answers nothing"
        set_age_of_last_beat(hung, 61.0)
        stack.wait_for(lambda: not Path(f"/proc/{hung}").exists(), "the end of what hangs")
        assert 0 < [future.result() for future in futures].count(None) < 24
    stack.wait_for(lambda: len(set(stack.web.children()) - {hung}) == PROCESSES, "a new one")
    assert other in stack.web.children()
    stack.wait_ready()
    assert stack.http.predict(GOOD.data).labels[0] == GOOD.label


def set_age_of_last_beat(pid: int, seconds: float) -> None:
    """Have gunicorn's master see the last sign of life of a web process as that old.

    It is the time of a file that only the two have open.
    """
    beat_at = time.monotonic() - seconds
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if "/wgunicorn-" in os.readlink(link):
            os.utime(link, (beat_at, beat_at))
            return
    raise AssertionError(f"process {pid} has no file that tells its signs of life")


def labels_or_reset(stack: Stack, data: bytes) -> str | None:
    """Return the first label, None if the connection broke without an answer."""
    try:
        return stack.http.predict(data).labels[0]
    except ConnectionError:
        return None


def test_pictures_that_are_slow_to_decode_do_not_hold_up_probes(make_stack: MakeStack) -> None:
    stack = make_stack(WEB_PROCESSES="1")
    calls = [partial(stack.http.predict, jpeg_of_many_scans())] * 6
    slowest_s = 0.0
    with in_background(calls) as futures:
        while not all(future.done() for future in futures):
            began = time.monotonic()
            assert stack.http.get("/healthz").status == 200
            slowest_s = max(slowest_s, time.monotonic() - began)
    assert {future.result().status for future in futures} <= {200, 413, 503, 504}
    assert slowest_s < 1


def jpeg_of_many_scans() -> bytes:
    """A picture of few bytes and few pixels, but with 2,000 scans over each of them."""
    plain = encoded(Image.new("RGB", (999, 999), (90, 120, 30)), "JPEG", progressive=True)
    last_scan = plain[plain.rindex(b"\xff\xda") : -2]
    return plain[:-2] + 1_990 * last_scan + plain[-2:]


def test_connections_are_taken_while_pictures_are_decoded_one_by_one(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(WEB_PROCESSES="1")
    (worker,) = stack.workers
    worker.pause()
    picture = slow_webp()
    with ExitStack() as held:
        uploads = [
            held.enter_context(stack.http.open(post_head(len(picture)) + picture[:-1]))
            for _ in range(20)
        ]
        assert decoded(stack) == 0
        for upload in uploads:
            upload.sendall(picture[-1:])
        # They came while one picture was decoded, and waited neither for the others nor, one by
        # one, for a picture each.
        question = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
        others = [held.enter_context(stack.http.open(question)) for _ in range(16)]
        # One a turn, the last would be answered after 17; all at once, after all 20.
        assert max(decoded_in(answer_on(other)) for other in others) < 14
        worker.resume()
        statuses = Counter(answer_on(upload).status for upload in uploads)
    # On a busy machine twenty such pictures are more than a second's worth.
    assert set(statuses) <= {200, 503}
    assert statuses[200] >= 8


def test_pictures_that_would_wait_too_long_are_refused_before_they_are_decoded(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(WEB_PROCESSES="1")
    picture = slow_webp()
    call = partial(stack.http.predict, picture)
    assert {reply.status for reply in at_once([call] * 8)} == {200}, "few are never refused"
    known = decoded(stack)
    with ExitStack() as held:
        clients = [held.enter_context(stack.http.open()) for _ in range(150)]
        for client in clients:
            client.sendall(post_head(len(picture)) + picture)
        replies = [answer_on(client) for client in clients]
        good = [reply for reply in replies if reply.status == 200]
        refused = [reply for reply in replies if reply.status != 200]
        assert {(reply.status, reply.code) for reply in refused} == {(503, "busy")}
        assert all(1 <= reply.retry_after_s <= 60 for reply in refused)
        assert good
        assert refused
        assert decoded(stack) - known == len(good), "no refused picture was decoded"
        late = [line for line in stack.web.lines("request") if line.get("code") == "busy"]
        assert len(late) < len(refused), "most were refused by their heads, without a line each"
        # The connection is where it should be: its next request is read from its beginning.
        for client, reply in zip(clients, replies, strict=True):
            if reply.status == 503 and reply.headers["connection"] == "keep-alive":
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                assert answer_on(client).status == 200
    assert 'code="busy",endpoint="predict",status="503"' in stack.http.get("/metrics").text
    stack.wait_for(lambda: stack.web.lines("more pictures come"), "the log tells it")
    assert stack.http.predict(picture).status == 200


def decoded(stack: Stack) -> int:
    """Ask on a new connection how many pictures have been decoded so far."""
    return decoded_in(stack.http.get("/metrics"))


def decoded_in(metrics: Reply) -> int:
    lines = metrics.text.splitlines()
    (count,) = (line for line in lines if line.startswith("imageserve_decode_seconds_count "))
    return int(float(count.split()[1]))


def slow_webp() -> bytes:
    """A picture that is just small enough to be decoded on the event loop, in 10 ms or so."""
    return encoded(photo(800, 800), "WEBP")


def test_a_client_that_does_not_read_its_answers_is_disconnected(make_stack: MakeStack) -> None:
    stack = make_stack(WEB_PROCESSES="1", UPLOAD_TIMEOUT_S="1")
    question = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", stack.http.port))
        deaf.sendall(2000 * question)
        # It never reads; the server ends the connection, which a later write notices.
        stack.wait_for(lambda: is_reset(deaf), "the server has closed it")
    assert stack.http.get("/healthz").status == 200


def is_reset(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"x")
    except OSError:
        return True
    return False


def test_pictures_that_wait_too_long_for_a_decoder_are_answered_in_time(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(WEB_PROCESSES="1", REQUEST_TIMEOUT_S="1", workers=1)
    large = encoded(Image.new("RGB", (6000, 8000), (90, 120, 30)), "JPEG", progressive=True)
    began = time.monotonic()
    with in_background([partial(stack.http.predict, large)] * 24) as futures:
        replies = [future.result() for future in futures]
    # One is decoded at a time; the others wait no longer than their second, or are refused.
    assert {reply.status for reply in replies} <= {200, 503, 504}
    refused = [reply for reply in replies if reply.status == 503]
    assert refused
    assert all(reply.code == "busy" and reply.retry_after_s >= 1 for reply in refused)
    assert time.monotonic() - began < 6
    assert stack.http.get("/healthz").status == 200
