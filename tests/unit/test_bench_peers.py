"""The benches: peers get the same model and pixels; the load that comes at its own instants."""

import json
import math
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from bench import open_loop
from bench.closed_loop import Form, Load, picture_request
from bench.open_loop import BURSTS, Kind, Offer, OpenLoop, Outcomes, judge, schedule
from bench.overload import SLOW
from bench.peers import triton
from bench.peers.environments import PEERS, version
from bench.peers.servers.shared import TOP, Model, decoded
from bench.peers.systems import SHOWN, WINDOWS_MS
from bench.picture import photo_jpeg
from PIL import Image

from imageserve.decoding import DecodingPolicy, decode
from imageserve.models.stand_in import StandIn, parse_stand_in
from imageserve.preparation import Preparation
from imageserve_loadtest.schedule import POISSON

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)


def test_the_peers_stand_in_gives_the_same_answers_in_the_same_time() -> None:
    theirs_slept: list[float] = []
    ours_slept: list[float] = []

    theirs = Model(sleep=theirs_slept.append).answers(IMAGES)
    ours = StandIn(sleep=ours_slept.append).predict(IMAGES, TOP)

    assert theirs_slept == pytest.approx(ours_slept)
    assert [[(p["label"], p["probability"]) for p in each["predictions"]] for each in theirs] == [
        [(p.label, p.probability) for p in each] for each in ours
    ]


def test_identical_decoding_gives_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEER_DECODE", "identical")
    picture = photo_jpeg()

    assert decoded(picture).tobytes() == decode(picture, Preparation((224, 224)), DecodingPolicy())


def test_their_own_decoding_is_what_pillow_does_by_default() -> None:
    picture = photo_jpeg()
    with Image.open(BytesIO(picture)) as image:
        expected = np.asarray(image.convert("RGB").resize((224, 224)))

    assert np.array_equal(decoded(picture), expected)


@pytest.mark.parametrize("peer", PEERS)
def test_every_peer_is_pinned(peer: str) -> None:
    assert version(peer)[0].isdigit()


@pytest.mark.parametrize("peer", PEERS)
def test_every_peer_has_a_name_and_windows(peer: str) -> None:
    assert SHOWN[peer]
    assert WINDOWS_MS[peer]


def test_a_slower_stand_in_takes_the_same_time_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.peers.servers import shared

    told = SLOW.peer_settings(deadline_s=SLOW.tight_s)
    monkeypatch.setattr(shared, "_BATCH_MS", float(told["PEER_BATCH_MS"]))
    monkeypatch.setattr(shared, "_IMAGE_MS", float(told["PEER_IMAGE_MS"]))
    slept: list[float] = []
    ours = parse_stand_in(SLOW.our_settings()["MODEL"])
    ours.sleep = slept.append
    ours.predict(IMAGES, TOP)
    Model(sleep=slept.append).answers(IMAGES)

    assert slept[0] == pytest.approx(slept[1])
    assert told["PEER_BATCH_SIZE"] == SLOW.our_settings()["BATCH_SIZE"]
    assert told["PEER_DEADLINE_MS"] == "480"


# -- requests and Triton's files ------------------------------------------------------------------


def test_the_v2_request_carries_the_picture_behind_its_header() -> None:
    head, _, body = picture_request(Form.V2, b"picture", 0.48).partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    length = int(fields[b"Inference-Header-Content-Length"])
    told = json.loads(body[:length])

    assert int(fields[b"Content-Length"]) == len(body)
    assert body[length:] == b"\x07\x00\x00\x00picture"
    assert told["inputs"][0]["parameters"] == {"binary_data_size": 11}
    assert told["parameters"] == {"timeout": 480_000}


def test_a_deadline_is_sent_as_a_header() -> None:
    assert b"X-Request-Timeout: 0.48\r\n" in picture_request(Form.PLAIN, b"x", 0.48)
    assert b"X-Request-Timeout" not in picture_request(Form.MULTIPART, b"x")


def test_triton_gets_the_window_the_batch_and_the_deadline(tmp_path: Path) -> None:
    settings = {"PEER_WINDOW_MS": "2", "PEER_BATCH_SIZE": "8", "PEER_DEADLINE_MS": "480"}
    triton.write_repository(tmp_path / "models", settings)
    config = (tmp_path / "models" / "inference" / "config.pbtxt").read_text()

    assert "max_batch_size: 8" in config
    assert "max_queue_delay_microseconds: 2000" in config
    assert "default_timeout_microseconds: 480000" in config
    assert (tmp_path / "models" / "preprocess" / "1" / "model.py").exists()


# -- the closed loop ------------------------------------------------------------------------------


class _RefusesEveryThird(BaseHTTPRequestHandler):
    """Answers 503 to every third request of a connection, 200 to the others."""

    protocol_version = "HTTP/1.1"
    requests = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.requests += 1
        time.sleep(0.01)
        self.send_response(200 if self.requests % 3 else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_the_closed_loop_tells_what_came_instead_and_when_all_had_an_answer() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _RefusesEveryThird) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        load = Load(server.server_port, 3, picture_request(Form.PLAIN, b"picture"))
        load.start()
        counts = load.run(0.8)
        load.drain(20.0)
        server.shutdown()

    assert counts.images >= 3
    assert counts.errors >= 1
    assert counts.failed == {"503": counts.errors}
    assert math.isfinite(counts.all_answered_s)


# -- the open loop --------------------------------------------------------------------------------


@pytest.mark.parametrize("arrivals", [POISSON, BURSTS])
def test_arrivals_come_at_the_mean_rate(arrivals: str) -> None:
    offer = Offer(arrivals, 200.0, 0.0, 50.0, (Kind(0.3, 0.48), Kind(0.7, 5.0)))
    dues = list(schedule(offer))

    assert len(dues) == pytest.approx(10_000, rel=0.04)
    assert [due for due, _ in dues] == sorted(due for due, _ in dues)
    assert Counter(kind for _, kind in dues)[0] == pytest.approx(3_000, rel=0.1)
    assert dues == list(schedule(open_loop.from_json(open_loop.as_json(offer))))


def test_bursts_bring_three_times_the_rate_for_a_fifth_of_the_time() -> None:
    offer = Offer(BURSTS, 200.0, 0.0, 50.0, (Kind(1.0, 1.0),))
    period_s = open_loop.QUIET_S + open_loop.BURST_S
    in_bursts = sum(due % period_s >= open_loop.QUIET_S for due, _ in schedule(offer))

    assert open_loop.BURST_S / period_s == pytest.approx(0.2)
    assert in_bursts == pytest.approx(50 * 0.2 * 600, rel=0.05)


@pytest.mark.parametrize(
    ("status", "is_late", "expected"),
    [
        pytest.param(200, False, Outcomes(1, in_time=1), id="in time"),
        pytest.param(200, True, Outcomes(1, late=1), id="answered late"),
        pytest.param(None, True, Outcomes(1, late=1), id="not answered"),
        pytest.param(503, False, Outcomes(1, refused=1), id="refused"),
        pytest.param(504, True, Outcomes(1, refused=1), id="given up by the server"),
        pytest.param(0, False, Outcomes(1, refused=1), id="not reached"),
    ],
)
def test_only_answers_within_the_deadline_are_in_time(
    status: int | None, *, is_late: bool, expected: Outcomes
) -> None:
    outcomes = Outcomes()
    judge(outcomes, status, is_late=is_late)

    assert outcomes == expected


class _SlowForTheTight(BaseHTTPRequestHandler):
    """Answers requests with a deadline below a second when that has passed, all others at once."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        deadline_s = float(self.headers["X-Request-Timeout"])
        time.sleep(2 * deadline_s if deadline_s < 1 else 0)
        with suppress(OSError):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_a_client_hangs_up_at_its_deadline_and_others_are_answered() -> None:
    offer = Offer(POISSON, 60.0, 0.1, 0.4, (Kind(0.5, 0.1), Kind(0.5, 20.0)))
    expected = Counter(kind for due, kind in schedule(offer) if due >= offer.warm_up_s)
    with ThreadingHTTPServer(("127.0.0.1", 0), _SlowForTheTight) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tight, patient = OpenLoop(server.server_port, b"picture", Form.PLAIN, offer).run()
        server.shutdown()

    assert tight == Outcomes(expected[0], late=expected[0])
    assert patient == Outcomes(expected[1], in_time=expected[1])
    assert expected[0]
    assert expected[1]
