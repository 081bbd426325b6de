"""What an operator sees: /metrics, /status, /models, a worker's own port, and redis-cli."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.promtool import promtool
from tests.redis_server import free_port
from tests.system.client import Client, at_once, in_background
from tests.system.conftest import MakeStack
from tests.system.samples import sample, samples
from tests.system.stack import Stack, running

from imageserve.cli import main

GOOD = sample(1)
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(http: Client) -> Series:
    reply = http.get("/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(reply.text)
    found: Series = {}
    for each in (each for family in families for each in family.samples):
        key = (each.name, frozenset(each.labels.items()))
        assert key not in found, f"{key} twice"
        found[key] = each.value
    return found


def value(series: Series, name: str, **labels: str) -> float:
    return series.get((name, frozenset(labels.items())), 0.0)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("observing")
    port = str(free_port())
    with running(directory, redis_program, WEB_PROCESSES="3", METRICS_PORT=port) as stack:
        yield stack


def test_metrics_are_the_sum_over_all_web_processes(stack: Stack) -> None:
    before = scraped(stack.http)
    pictures = samples(40)
    assert {r.status for r in at_once([partial(stack.http.predict, p.data) for p in pictures])} == {
        200
    }
    assert {r.status for r in at_once([partial(stack.http.predict, b"text")] * 10)} == {400}
    for _ in range(6):  # All processes show the same, whichever answers.
        after = scraped(stack.http)

        def grown(name: str, **labels: str) -> float:
            return value(after, name, **labels) - value(before, name, **labels)  # noqa: B023

        served = {"endpoint": "predict", "status": "200", "code": ""}
        refused = {"endpoint": "predict", "status": "400", "code": "not_an_image"}
        assert grown("imageserve_requests_total", **served) == 40
        assert grown("imageserve_requests_total", **refused) == 10
        assert grown("imageserve_pictures_total", model="stand-in", outcome="ok") == 40
        assert grown("imageserve_decode_seconds_count") == 40
        assert value(after, "imageserve_slots_in_use") == 0
        assert value(after, "imageserve_upload_bytes_held") == 0
        assert value(after, "imageserve_redis_up") == 1
        queue = {"model": "stand-in", "queue": "image_queue"}
        assert value(after, "imageserve_workers", **queue) == 1
        assert value(after, "imageserve_capacity_per_second", **queue) > 0


def test_a_worker_has_its_own_probes_and_metrics(stack: Stack) -> None:
    worker = Client(stack.workers[0].metrics_port)
    assert worker.get("/healthz").status == 200
    assert worker.get("/readyz").status == 200
    assert worker.get("/nothing").status == 404

    def completed() -> float:
        series = scraped(worker)
        return value(series, "imageserve_jobs_total", model="stand-in", outcome="completed")

    before = completed()
    assert stack.http.predict(GOOD.data).status == 200
    stack.wait_for(lambda: completed() == before + 1, "the job is counted")
    series = scraped(worker)
    assert value(series, "imageserve_batches_total", model="stand-in") > 0
    assert value(series, "imageserve_redis_up") == 1


def test_prometheus_takes_the_metrics_of_web_and_worker_without_a_remark(stack: Stack) -> None:
    assert stack.http.predict(GOOD.data).status == 200
    assert stack.http.predict(b"text").status == 400

    for http in (stack.http, Client(stack.workers[0].metrics_port)):
        assert promtool("check", "metrics", text=http.get("/metrics").text) == ""


def test_the_doctor_looks_at_all_that_runs(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stack.http.predict(GOOD.data).status == 200
    for name, text in (("REDIS_URL", stack.redis.url), ("MODEL", "stand-in")):
        monkeypatch.setenv(name, text)

    main(["doctor", "--json", "--url", f"http://127.0.0.1:{stack.http.port}"])

    told = json.loads(capsys.readouterr().out)
    names = {each["name"] for each in told["findings"]}
    assert "stand-in" in names
    # It is the system that the web server sees, and all of it is alive.
    wrong = ("other-", "web-", "wrong-", "two-", "no-", "redis-away", "bugs", "clock")
    assert [each for each in names if each.startswith(wrong)] == []


def test_status_shows_queue_and_workers(stack: Stack) -> None:
    body: dict[str, Any] = stack.http.get("/status").json
    assert body["redis"] == "ok"
    model = body["models"]["stand-in"]
    fields = {"queued", "in_flight", "oldest_ms", "expected_wait_ms", "capacity_per_s", "workers"}
    assert model.keys() >= fields
    assert (model["queued"], model["in_flight"], model["oldest_ms"]) == (0, 0, 0)
    assert model["expected_wait_ms"] == 0
    assert model["capacity_per_s"] > 0
    (worker,) = model["workers"]
    assert worker.keys() == {"id", "host", "state", "last_seen_ms", "version", "problem"}
    assert worker["state"] in ("ready", "busy")  # A heartbeat may fall into a batch.
    assert 0 <= worker["last_seen_ms"] < 15_000


def test_status_shows_what_the_web_processes_could_decode(stack: Stack) -> None:
    assert stack.http.predict(GOOD.data).status == 200

    def web_capacity() -> float | None:
        told: float | None = stack.http.get("/status").json["models"]["stand-in"][
            "web_capacity_per_s"
        ]
        return told

    stack.wait_for(web_capacity, "a web process has told it")
    assert 1 < (web_capacity() or 0) < 100_000
    stack.wait_for(lambda: stack.db.zcard(stack.keys.web) == 3, "each tells, whatever it has done")
    assert stack.db.ttl(stack.keys.web) > 0
    assert stack.db.ttl(stack.keys.web_info) > 0


def test_models_shows_queue_size_and_workers(stack: Stack) -> None:
    (model,) = stack.http.get("/models").json["models"].values()
    assert model["queue"] == "image_queue"
    assert model["input_size"] == [64, 64]
    assert model["workers"] == 1


def test_waiting_jobs_are_a_redis_list_of_json(make_stack: MakeStack) -> None:
    stack = make_stack(workers=0)
    with in_background([partial(stack.http.predict, GOOD.data)] * 5) as futures:
        stack.wait_for(lambda: stack.waiting() == 5, "all wait")
        assert stack.db.type("image_queue") == b"list"
        assert stack.db.llen("image_queue") == 5
        (entry,) = stack.db.lrange("image_queue", 0, 0)
        job = json.loads(entry)
        assert {"v", "id", "model", "encoding", "shape", "bytes", "top", "reply"} <= job.keys()
        assert job["shape"] == [64, 64, 3]
        assert stack.db.strlen(stack.keys.pixels(job["id"])) == job["bytes"] == 64 * 64 * 3
        model = stack.http.get("/status").json["models"]["stand-in"]
        assert (model["queued"], model["in_flight"], model["workers"]) == (5, 0, [])
        assert model["oldest_ms"] > 0
        assert model["expected_wait_ms"] is None
        stack.start_worker(wait=False)
    assert [f.result().labels[0] for f in futures] == [GOOD.label] * 5


def test_no_byte_of_a_refused_picture_is_logged_and_every_line_is_json(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(workers=0)
    text = b"NOT A PICTURE, BUT 1.2 MB OF TEXT. " * 35_000
    for body in (text, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + text, b"\xff\xd8\xff\xe0" + text):
        assert 400 <= stack.http.predict(body).status < 500
        assert 400 <= stack.http.predict_form(body).status < 500
    lines = stack.web.output().splitlines()
    assert max(map(len, lines)) < 20_000
    assert not [line for line in lines if "1.2 MB" in line]
    assert [json.loads(line)["code"] for line in lines if '"request"' in line]
