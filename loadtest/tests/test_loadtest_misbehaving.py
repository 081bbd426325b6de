"""The load test against a server that misbehaves: it must notice every wrong answer.

Every test sends exactly 20 requests at a constant rate, of which every fifth is answered badly.
"""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loadtest.tests.misbehaving_server import SIDE, Behaviour, Call, every, response, serving
from tests.redis_server import free_port

from imageserve.cli import main
from imageserve_loadtest.pictures import Picture, generated
from imageserve_loadtest.result import Result

SENT, BAD = 20, 4
DISTINCT = 40
PICTURES = generated(DISTINCT, (SIDE, SIDE), seed=1)
"""The pictures that the load test itself draws with the seed 1."""


def outcome_of(
    tmp_path: Path, behave: Behaviour, *options: str, pictures: list[Picture] = PICTURES
) -> tuple[int, Result, list[dict[str, Any]]]:
    """Run the command; returns exit status, result and records."""
    with serving(pictures, behave) as server:
        return measured(tmp_path, server.url, *options)


def measured(tmp_path: Path, url: str, *options: str) -> tuple[int, Result, list[dict[str, Any]]]:
    path, records = tmp_path / "result.json", tmp_path / "records.jsonl"
    load = ["--rate", "100", "--arrivals", "constant", "--duration", "0.2", "--quiet"]
    load += ["--distinct", str(DISTINCT)]
    outputs = ["--json", str(path), "--records", str(records)]
    status = main(["loadtest", url, *load, *outputs, *options])
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    return status, Result.from_json(path.read_text()), lines


def never_answered(call: Call) -> None:
    """Do not answer; wait until the client closes the connection."""
    call.connection.recv(1)
    call.end()


def answered_with(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Behaviour:
    return lambda call: call.answer(change(call.good_items()))


def refused(call: Call, *headers: str) -> None:
    call.send_json(503, {"success": False, "error": {"code": "busy", "message": "no"}}, *headers)


def failed(status: int, code: str) -> Behaviour:
    error = {"success": False, "error": {"code": code, "message": "no"}}
    return lambda call: call.send_json(status, error)


def half_an_answer(call: Call) -> None:
    call.send(response(200, b'{"success": true}')[:-5])
    call.end()


def reset_within_an_answer(call: Call) -> None:
    call.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    call.reset()


def reset_before_an_answer(call: Call) -> None:
    call.reset()


def sent(data: bytes) -> Behaviour:
    return lambda call: call.send(data)


def wrong_label(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    items[0]["predictions"][0]["label"] = "0123456789ab"
    return items


@pytest.mark.parametrize(
    ("bad", "count", "kinds", "reason"),
    [
        pytest.param(reset_before_an_answer, "error", {"reset": BAD}, "no answer", id="reset"),
        pytest.param(
            reset_within_an_answer, "error", {"reset": BAD}, "no answer", id="reset in an answer"
        ),
        pytest.param(half_an_answer, "error", {"reset": BAD}, "no answer", id="half an answer"),
        pytest.param(
            never_answered, "error", {"timeout": BAD}, "no answer", id="not within the time"
        ),
        pytest.param(
            sent(b"hello, this is another protocol\r\n\r\n"),
            "error",
            {"protocol": BAD},
            "no answer",
            id="not HTTP",
        ),
        pytest.param(
            sent(response(200, b"<html>")), "error", {"protocol": BAD}, "no answer", id="no JSON"
        ),
        pytest.param(answered_with(wrong_label), "wrong", {}, "wrong answer", id="wrong label"),
        pytest.param(
            failed(400, "corrupt_image"), "wrong", {}, "wrong answer", id="a good picture refused"
        ),
        pytest.param(
            failed(500, "internal"), "failed", {"500 internal": BAD}, "failed", id="a bug"
        ),
        pytest.param(
            failed(504, "timed_out"), "failed", {"504 timed_out": BAD}, "failed", id="no result"
        ),
        pytest.param(
            lambda call: refused(call, "Retry-After: 2"),
            "refused",
            {"busy": {"with_retry_after": BAD, "without_retry_after": 0}},
            "were refused; 0.00% are allowed",
            id="refused",
        ),
        pytest.param(
            refused,
            "refused",
            {"busy": {"with_retry_after": 0, "without_retry_after": BAD}},
            "refused without Retry-After",
            id="refused without Retry-After",
        ),
    ],
)
def test_every_bad_answer_is_counted_and_fails_the_verdict(
    tmp_path: Path, bad: Behaviour, count: str, kinds: dict[str, Any], reason: str
) -> None:
    patience = "2" if bad is never_answered else "30"

    status, result, records = outcome_of(tmp_path, every(5, bad), "--timeout", patience)

    counts = result.counts
    assert status == 1
    assert (counts.planned, counts.sent, counts.good) == (SENT, SENT, SENT - BAD)
    assert getattr(counts, count) == BAD
    assert counts.unaccounted == 0
    raw = json.loads(result.to_json())["counts"]
    assert {**raw["errors"], **raw["failures"], **raw["refusals"]} == kinds
    assert any(reason in each for each in result.verdict.reasons), result.verdict.reasons
    assert sorted(line["outcome"] for line in records) == sorted(
        ["good"] * (SENT - BAD) + [count] * BAD
    )
    assert all(line["detail"] for line in records if line["outcome"] != "good")


def swapped(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return items[::-1]


def twice(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*items, items[0]]


@pytest.mark.parametrize(
    ("change", "count", "detail"),
    [
        pytest.param(swapped, "wrong", "which is the answer of picture", id="swapped"),
        pytest.param(twice, "duplicated", "4 answers to 3 pictures", id="one twice"),
        pytest.param(lambda items: items[1:], "missing", "2 answers to 3 pictures", id="one gone"),
    ],
)
def test_answers_mixed_up_among_the_pictures_of_a_request_are_noticed(
    tmp_path: Path,
    change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    count: str,
    detail: str,
) -> None:
    behave = every(5, answered_with(change))

    status, result, records = outcome_of(tmp_path, behave, "--per-request", "3")

    assert status == 1
    assert (result.counts.good, getattr(result.counts, count)) == (SENT - BAD, BAD)
    assert result.counts.pictures == 3 * SENT
    assert all(detail in line["detail"] for line in records if line["outcome"] == count)


def test_answers_given_to_the_wrong_requests_are_noticed(tmp_path: Path) -> None:
    last: list[list[dict[str, Any]]] = []
    one_at_a_time = threading.Lock()

    def one_late(call: Call) -> None:
        """Answer each call except the first with the answer of the call before."""
        with one_at_a_time:
            last.append(call.good_items())
            answer = last[-2:][0]
        call.answer(answer)

    status, result, _ = outcome_of(tmp_path, one_late)

    assert status == 1
    assert result.counts.wrong == SENT - 1


def test_a_second_answer_to_one_request_is_noticed(tmp_path: Path) -> None:
    def answered_twice(call: Call) -> None:
        call.send(response(200, json.dumps(call.good_items()[0]).encode()) * 2)

    status, result, _ = outcome_of(tmp_path, every(5, answered_twice))

    assert status == 1
    assert result.counts.unsolicited == BAD
    assert "answers came that no request was waiting for" in result.verdict.reasons[0]


def test_a_broken_picture_that_gets_a_label_is_noticed(tmp_path: Path) -> None:
    def always_a_label(call: Call) -> None:
        item = {"success": True, "predictions": [{"label": "x", "probability": 1.0}]}
        call.send_json(200, item)

    status, result, _ = outcome_of(tmp_path, always_a_label, "--broken", "1")

    assert status == 1
    assert result.counts.wrong == SENT


def test_a_server_that_is_gone_is_noticed(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    status, result, _ = measured(tmp_path, url, "--wait", "0", "--images", str(images(tmp_path)))

    assert status == 1
    assert result.counts.errors == {"connect": SENT}


def images(folder: Path) -> Path:
    (folder / "labels.csv").write_text("file,label\na.png,cat\n")
    (folder / "a.png").write_bytes(b"a")
    return folder


def test_more_open_requests_than_allowed_are_not_sent_and_not_hidden(tmp_path: Path) -> None:
    limits = ["--most-open", "5", "--timeout", "2"]

    status, result, _ = outcome_of(tmp_path, never_answered, *limits)

    assert status == 1
    assert result.counts.errors == {"overrun": SENT - 5, "timeout": 5}


# -- unusual but correct answers ----------------------------------------------------------------


def chunked(call: Call) -> None:
    body = json.dumps(call.good_items()[0]).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:9], body[9:], b""))
    call.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)


def ended_by_the_connection(call: Call) -> None:
    call.send(b"HTTP/1.1 200 OK\r\n\r\n" + json.dumps(call.good_items()[0]).encode())
    call.end()


def closing(call: Call) -> None:
    call.send_json(200, call.good_items()[0], "Connection: close")
    call.end()


def in_pieces(call: Call) -> None:
    for byte in response(200, json.dumps(call.good_items()[0]).encode()):
        call.send(bytes([byte]))


def informed_before(call: Call) -> None:
    call.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    call.answer_well()


@pytest.mark.parametrize(
    "behave",
    [Call.answer_well, chunked, ended_by_the_connection, closing, in_pieces, informed_before],
)
def test_every_right_answer_counts_however_it_is_framed(tmp_path: Path, behave: Behaviour) -> None:
    status, result, records = outcome_of(tmp_path, behave)

    assert status == 0
    assert result.verdict.holds
    assert (result.counts.good, result.counts.unaccounted) == (SENT, 0)
    assert [line["status"] for line in records] == [200] * SENT


def test_connections_are_reused(tmp_path: Path) -> None:
    with serving(PICTURES) as server:
        measured(tmp_path, server.url)
        connections = {id(call.connection) for call in server.calls}

    assert len(server.calls) == SENT
    assert len(connections) < SENT


# -- no coordinated omission --------------------------------------------------------------------


def test_a_server_that_stalls_cannot_hide_it(tmp_path: Path) -> None:
    """The requests that were due while the server stood still count from when they were due.

    One connection's worth of stall would be one slow request of twenty if the load waited for its
    answers; here all that were due meanwhile have waited, and the percentiles show it.
    """
    stall_s = 1.0
    go_on = threading.Event()

    def stalls(call: Call) -> None:
        if call.number == 5:
            threading.Timer(stall_s, go_on.set).start()
        if call.number >= 5:
            go_on.wait(30)
        call.answer_well()

    status, result, records = outcome_of(tmp_path, stalls, "--slo", "p99=500ms")

    late = [line for line in records if line["done_s"] - line["intended_s"] > 0.5]
    assert len(late) >= SENT - 4
    median_ms = result.latency.good.percentile_ms(50)
    assert median_ms is not None
    assert median_ms > 500
    assert status == 1
