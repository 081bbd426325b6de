"""What the fuzz calls a fault: it must see each kind, or its silence means nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.fuzz.judge import CLOSED, OPEN, REFUSED, RESET, Seen, faults
from bench.fuzz.pictures import CANARY, good_pictures, mutant
from bench.fuzz.requests import picture_script, request_script
from bench.fuzz.scripts import Ending, Expected, Script
from bench.fuzz.watch import HOOK, Holdings, faults_of_log, gauges, stretches

from imageserve.decoding import DecodingPolicy, decode
from imageserve.preparation import Preparation

BYTES = "Content-Type: application/octet-stream"
ASKED = b"POST /predict HTTP/1.1\r\nHost: fuzz\r\n\r\n"


def answer(status: int, body: str = "{}", *lines: str) -> bytes:
    head = (f"HTTP/1.1 {status} Text", f"Content-Length: {len(body)}", *lines, "", "")
    return ("\r\n".join(head) + body).encode()


def error(status: int, *lines: str, message: str = "what is wrong", told: str = "id-1") -> bytes:
    body = {"success": False, "error": {"code": "c", "message": message}, "request_id": "id-1"}
    return answer(status, json.dumps(body), f"X-Request-Id: {told}", *lines)


def found(data: bytes, end: str = CLOSED, script: Script | None = None) -> list[str]:
    return faults(script or Script("asked", (ASKED,)), Seen(data, end))


@pytest.mark.parametrize(
    "data",
    [
        answer(200),
        error(400),
        error(503, "Retry-After: 2"),
        error(504),
        answer(200, "x" * 24, BYTES, "X-Shape: 2,3"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + error(417),
    ],
)
def test_what_the_contract_allows_is_no_fault(data: bytes) -> None:
    assert found(data) == []


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (error(500), "status 500"),
        (answer(200, "x" * 20, BYTES, "X-Shape: 2,3"), "20 bytes with status 200 and the shape"),
        (answer(200, "x" * 4, BYTES), "4 bytes with status 200 and the shape ''"),
        (answer(400, "x" * 4, BYTES, "X-Shape: 1"), "4 bytes with status 400 and the shape"),
        (error(502), "status 502"),
        (error(501), "status 501"),
        (error(503), "status 503"),
        (error(503, "Retry-After: 0"), "status 503"),
        (error(503, "Retry-After: soon"), "status 503"),
        (answer(400, "<html>"), "without the shape of an error"),
        (error(400, told="another"), "not whole"),
        (error(400, message="it is b'GET'"), "Python in it"),
        (error(400, message="it is '\\x00'"), "Python in it"),
        (b"HTTP/1.1 200\r\n\r\n", "without Content-Length"),
        (b"HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n", "the status line"),
        (b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n", "the header"),
        (answer(200)[:-1], "breaks off"),
        (b"", "no answer to a whole head"),
    ],
)
def test_each_breach_is_a_fault(data: bytes, fault: str) -> None:
    assert any(fault in each for each in found(data)), found(data)


@pytest.mark.parametrize("end", [RESET, OPEN, REFUSED])
def test_a_whole_request_without_an_answer_is_a_fault_however_it_ended(end: str) -> None:
    assert found(b"", end)


def test_a_connection_that_stays_open_is_a_fault_even_where_no_answer_is_due() -> None:
    unfinished = Script("unfinished", (b"POST",))
    assert found(b"", CLOSED, unfinished) == []
    assert found(b"", OPEN, unfinished) == ["the connection was open"]


def test_clients_that_are_gone_need_no_answer() -> None:
    for ending in (Ending.HALF_CLOSE, Ending.RESET):
        assert found(b"", CLOSED, Script("gone", (ASKED,), ending=ending)) == []


def test_501_is_for_transfer_codings() -> None:
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n"
    assert found(error(501), CLOSED, Script("gzip", (head,))) == []


def test_right_requests_get_each_its_own_answer_in_order() -> None:
    pictures = Script("two", (ASKED,), expected=(Expected(200, "a"), Expected(200, "b")))
    a, b = (answer(200, json.dumps({"predictions": [{"label": each}]})) for each in "ab")
    assert found(a + b, OPEN, pictures) == []
    assert found(b + a, OPEN, pictures) != []
    assert found(a, CLOSED, pictures) == ["1 answers to 2 right requests"]
    assert found(a + error(400), CLOSED, pictures) != []
    assert found(a + error(503, "Retry-After: 1"), CLOSED, pictures) == []


def test_a_case_is_the_same_whenever_it_is_made_and_differs_from_the_next() -> None:
    for make in (request_script, picture_script, mutant):
        assert make(1, 5) == make(1, 5)
        assert make(1, 5) != make(1, 6)
        assert make(1, 5) != make(2, 5)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("Traceback (most recent call last):", "no JSON"),
        ("[1]", "no JSON"),
        (json.dumps({"message": CANARY.decode()}), "bytes of a body"),
        (json.dumps({"message": repr(b"\xff\xd8\xff\xe0\x00\x10\x01\x02")}), "bytes of a body"),
        (json.dumps({"message": "x" * 30_000}), "very long"),
        (json.dumps({"message": "bug while answering a request"}), "tells of a bug"),
    ],
)
def test_a_log_that_says_too_much_is_a_fault(line: str, fault: str) -> None:
    assert list(faults_of_log('{"message":"request"}\n')) == []
    assert fault in next(faults_of_log(line))


def test_a_gauge_that_does_not_come_back_to_zero_is_a_fault() -> None:
    assert gauges("imageserve_slots_in_use 0.0\nimageserve_slots_in_use_more 0\n") == []
    assert gauges("imageserve_upload_bytes_held 5.0\n") != []


def test_memory_descriptors_and_processes_that_do_not_come_back_are_faults() -> None:
    before = Holdings((100 * 2**20, 100 * 2**20), (20, 20))
    assert before.excess(Holdings((110 * 2**20, 90 * 2**20), (22, 18))) == []
    assert "memory" in before.excess(Holdings((100 * 2**20, 400 * 2**20), (20, 20)))[0]
    assert "descriptors" in before.excess(Holdings((100 * 2**20, 100 * 2**20), (20, 90)))[0]
    assert "processes" in before.excess(Holdings((100 * 2**20,), (20,)))[0]


HOG = """
import os, socket, time, gevent
from gevent.server import StreamServer

def serve(client, address):
    end = time.thread_time() + 0.08
    while time.thread_time() < end:
        pass
    gevent.sleep(0)

if os.fork() == 0:
    server = StreamServer(("127.0.0.1", 0), serve)
    server.start()
    with socket.create_connection(("127.0.0.1", server.server_port)) as client:
        print(client.getsockname()[1], flush=True)
        gevent.sleep(0.2)
    os._exit(0)
os.wait()
"""


def test_the_hook_tells_whose_connection_held_the_event_loop(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(HOOK), "FUZZ_FOLDER": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", HOG], env=env, capture_output=True, check=True)
    longest = stretches(tmp_path)[0]
    assert longest.ms >= 75
    assert longest.port == int(done.stdout)
    assert "serve" in longest.place


def test_the_pictures_that_are_broken_are_good_before() -> None:
    for name, data in good_pictures():
        assert decode(data, Preparation((32, 32)), DecodingPolicy()), name
