"""The overview of models and queues that /models, /status and /metrics show."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.memory_queue import MemoryMonitor, MemoryQueue

from imageserve.errors import QueueError, QueueUnavailable
from imageserve.models.entries import ModelEntry
from imageserve.predictions import Outputs, Prediction
from imageserve.preparation import Preparation
from imageserve.queue.admission import Limits
from imageserve.queue.consumer import Lease
from imageserve.queue.snapshot import Snapshot, WebInfo, WorkerInfo
from imageserve.queue.wire import Finished, Job, Result, decode_job
from imageserve.web.overview import Overview


class QueueWithOutages(MemoryQueue):
    def __init__(self, name: str, clock_ms: Callable[[], int]) -> None:
        super().__init__(name, clock_ms)
        self.away = False

    def snapshot(self) -> Snapshot:
        if self.away:
            raise QueueUnavailable("away")
        return super().snapshot()


class Bench:
    """A busy model and an idle one."""

    def __init__(self) -> None:
        self.now = 1_760_000_000_000
        self.busy = QueueWithOutages("busy_queue", lambda: self.now)
        self.idle = QueueWithOutages("idle_queue", lambda: self.now)
        self.overview = Overview(
            {
                "busy": ModelEntry(
                    "busy", self.busy.name, Preparation((224, 320), interpolation="bicubic")
                ),
                "idle": ModelEntry(
                    "idle", self.idle.name, Preparation((224, 320), interpolation="bicubic")
                ),
            },
            MemoryMonitor(self.busy, self.idle),
            Limits(100, 10**9),
        )
        for number in range(4):
            priority = "background" if number > 1 else ""
            job = Job(
                f"job-{number}", "busy", (1, 1, 3), 1, "reply", "trace", 1000, priority=priority
            )
            self.busy.enqueue(job, b"rgb", 60_000, Limits())
        self.busy.claim(1, Lease(), redelivered=False)
        self.busy.bury("{}", "no good")
        self.busy.web_heartbeat(WebInfo("p-1", 41.667))
        self.busy.web_heartbeat(WebInfo("p-2", 20.0))
        self.beat("w-1", {1: 10.0, 10: 50.0}, "ready")
        self.now += 1_500
        self.beat("w-2", {10: 100.0}, "stopping")

    def beat(
        self, worker: str, bucket_ms: dict[int, float], state: str, runtime: str = "onnx"
    ) -> None:
        self.busy.heartbeat(
            WorkerInfo(
                worker,
                "busy",
                (1, 1, 3),
                10,
                bucket_ms,
                state,
                "node-" + worker,
                version="v7",
                runtime=runtime,
                preparation=Preparation((224, 320), interpolation="bicubic"),
            )
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_status_shows_backlog_workers_and_expected_wait(bench: Bench) -> None:
    assert bench.overview.status() == {
        "models": {
            "busy": {
                "queued": 3,
                "background": 2,
                "in_flight": 1,
                "completed": 0,
                "oldest_ms": 1_500,
                "expected_wait_ms": 20,
                "capacity_per_s": 200.0,
                "web_capacity_per_s": 61.67,
                "dead": 1,
                "queue_bytes": 4 * 224 * 320 * 3,
                **LIMITS,
                "workers": [
                    worker("w-1", "ready", 1_500),
                    worker("w-2", "stopping", 0),
                ],
            },
            "idle": {
                "queued": 0,
                "background": 0,
                "in_flight": 0,
                "completed": 0,
                "oldest_ms": 0,
                "expected_wait_ms": None,
                "capacity_per_s": 0,
                "web_capacity_per_s": None,
                "dead": 0,
                "queue_bytes": 0,
                **LIMITS,
                "workers": [],
            },
        },
        "redis": "ok",
    }


LIMITS = {
    "queue_limit": 100,
    "queue_bytes_limit": 10**9,
    "redis_bytes": None,
    "redis_bytes_limit": None,
}


def worker(name: str, state: str, last_seen_ms: int) -> dict[str, Any]:
    said = {"id": name, "host": f"node-{name}", "state": state, "version": "v7", "problem": ""}
    return {**said, "last_seen_ms": last_seen_ms}


def test_pictures_that_were_answered_are_counted(bench: Bench) -> None:
    claim = bench.busy.claim(1, Lease(), redelivered=False)
    job = decode_job(claim.entries[0])
    result = Result(job.id, "busy", 1.5, 2.5, 1, predictions=(Prediction("cat", 0.5),))
    bench.busy.finish(claim.token, [Finished(job.id, job.reply, result, 60_000, "completed")])

    assert bench.overview.status()["models"]["busy"]["completed"] == 1


def test_redelivered_jobs_count_as_waiting(bench: Bench) -> None:
    bench.now += 10_000
    bench.busy.claim(0, Lease(), redelivered=False)

    status = bench.overview.status()["models"]["busy"]

    assert (status["queued"], status["in_flight"]) == (4, 0)


def test_the_models_are_shown_with_queue_size_and_live_workers(bench: Bench) -> None:
    assert bench.overview.models()["busy"] == {
        "queue": "busy_queue",
        "input_size": [224, 320],
        "interpolation": "bicubic",
        "preparation": {
            "size": (224, 320),
            "resize": "squash",
            "resize_to": None,
            "interpolation": "bicubic",
            "antialias": True,
            "colour": "rgb",
            "pad": 0,
            "crop_rounding": "even",
        },
        "workers": 1,
        "runtime": "onnx",
        "outputs": None,
        "multi_label": None,
        "classes": None,
        "stand_in": False,
    }
    assert bench.overview.models()["idle"]["workers"] == 0


@pytest.mark.parametrize(
    ("network", "runtimes", "shown"),
    [
        pytest.param("shapes", ["stand-in"], ("stand-in", True), id="workers know better"),
        pytest.param("stand-in:size=8", ["keras"], ("keras", False), id="both ways"),
        pytest.param("stand-in:size=8", [], (None, True), id="scaled to zero"),
        pytest.param("shapes", [""], (None, False), id="an old worker is silent"),
        pytest.param("shapes", ["", "stand-in"], ("stand-in", True), id="old and new"),
        pytest.param("stand-in", ["keras", "stand-in"], (None, False), id="two kinds at once"),
    ],
)
def test_the_models_say_what_is_served_under_whatever_name(
    network: str, runtimes: list[str], shown: tuple[str | None, bool]
) -> None:
    queue = QueueWithOutages("q", lambda: 1_760_000_000_000)
    entry = ModelEntry("pictures", queue.name, Preparation((8, 8)), network=network)
    for number, runtime in enumerate(runtimes):
        info = WorkerInfo(f"w-{number}", "pictures", (8, 8, 3), 1, {1: 1.0}, "ready", "node")
        queue.heartbeat(replace(info, runtime=runtime))

    model = Overview({"pictures": entry}, MemoryMonitor(queue), Limits()).models()["pictures"]

    assert (model["runtime"], model["stand_in"]) == shown


def test_the_models_show_the_preparation_that_counts_now() -> None:
    queue = QueueWithOutages("q", lambda: 1_760_000_000_000)
    entry = ModelEntry("m", queue.name, None)
    overview = Overview({"m": entry}, MemoryMonitor(queue), Limits())

    def shown() -> tuple[Any, ...]:
        model = overview.models()["m"]
        return model["input_size"], model["interpolation"], model["preparation"]

    assert shown() == (None, None, None)
    info = WorkerInfo("w", "m", (8, 6, 3), 1, {1: 1.0}, "ready", "node")
    queue.heartbeat(replace(info, preparation=Preparation((8, 6), "crop")))
    assert shown()[:2] == ([8, 6], "bilinear")
    assert shown()[2]["resize"] == "crop"
    queue.heartbeat(replace(info, preparation="of a later release"))
    assert shown() == (None, None, None)
    queue.away = True
    assert shown() == (None, None, None)


def test_what_a_model_gives_is_not_read_from_workers_of_another(bench: Bench) -> None:
    info = WorkerInfo("w", "busy", (1, 1, 3), 1, {1: 1.0}, "ready", "node")
    own, other = Outputs(("scores",)), Outputs(("scores", "embedding"), multi_label=True)
    bench.idle.heartbeat(replace(info, model="idle", outputs=own, classes=3))
    bench.idle.heartbeat(replace(info, id="other", outputs=other, classes=9))

    shown = bench.overview.models()["idle"]

    assert shown["outputs"] == ["labels", "scores"]
    assert (shown["multi_label"], shown["classes"]) == (False, 3)


def test_the_metrics_have_the_values_of_the_status(bench: Bench) -> None:
    assert bench.overview.readings() == {
        ("busy", "busy_queue"): {
            "imageserve_queue_length": 3,
            "imageserve_queue_background": 2,
            "imageserve_queue_in_flight": 1,
            "imageserve_queue_oldest_seconds": 1.5,
            "imageserve_queue_dead": 1,
            "imageserve_capacity_per_second": 200.0,
            "imageserve_web_capacity_per_second": 61.67,
            "imageserve_workers": 1,
            "imageserve_queue_limit": 100,
            "imageserve_queue_bytes": 4 * 224 * 320 * 3,
            "imageserve_queue_bytes_limit": 10**9,
        },
        ("idle", "idle_queue"): {
            "imageserve_queue_length": 0,
            "imageserve_queue_background": 0,
            "imageserve_queue_in_flight": 0,
            "imageserve_queue_oldest_seconds": 0.0,
            "imageserve_queue_dead": 0,
            "imageserve_capacity_per_second": 0,
            "imageserve_workers": 0,
            "imageserve_queue_limit": 100,
            "imageserve_queue_bytes": 0,
            "imageserve_queue_bytes_limit": 10**9,
        },
    }


def test_a_queue_that_cannot_be_read_hides_no_other(bench: Bench) -> None:
    bench.busy.away = True

    status = bench.overview.status()

    assert (list(status["models"]), status["redis"]) == (["idle"], "unavailable")
    assert [model for model, _ in bench.overview.readings()] == ["idle"]
    assert bench.overview.models()["busy"]["workers"] is None
    assert bench.overview.models()["idle"]["workers"] == 0


def test_without_redis_no_values_are_shown(bench: Bench) -> None:
    bench.busy.away = bench.idle.away = True

    assert bench.overview.status() == {"models": {}, "redis": "unavailable"}
    assert bench.overview.readings() == {}
    assert bench.overview.models()["idle"]["queue"] == "idle_queue"


# -- how full a queue is ---------------------------------------------------------------------------

REDIS = ("imageserve_redis_bytes", "imageserve_redis_bytes_limit")
QUEUE = ("imageserve_queue_bytes", "imageserve_queue_bytes_limit", "imageserve_queue_limit")


class WithRedis(MemoryMonitor):
    """Says, too, how much memory the Redis uses, as a `Monitor` of a real one does."""

    def snapshots(self) -> dict[str, Snapshot | QueueError]:
        return {
            name: replace(each, redis_bytes=3 * 2**20, redis_bytes_limit=2**29)
            for name, each in super().snapshots().items()
            if isinstance(each, Snapshot)
        }


def gauges(bench: Bench, monitor: MemoryMonitor, own: Preparation | None) -> dict[str, float]:
    entry = ModelEntry("idle", "idle_queue", own)
    (found,) = Overview({"idle": entry}, monitor, Limits(100, 10**9)).readings().values()
    return {name: found[name] for name in (*QUEUE, *REDIS) if name in found}


def test_the_gauges_say_how_full_a_queue_and_its_redis_are(bench: Bench) -> None:
    job = Job("job", "idle", (8, 8, 3), 1, "reply", "trace", 1000)
    bench.idle.enqueue(job, bytes(192), 60_000, Limits())
    found = gauges(bench, WithRedis(bench.idle), Preparation((8, 8)))

    assert [found[name] for name in QUEUE] == [192, 10**9, 100]
    assert [found[name] for name in REDIS] == [3 * 2**20, 2**29]


def test_what_is_not_known_has_no_gauge(bench: Bench) -> None:
    """No worker has said yet how pictures are prepared, and the Redis has no limit."""
    assert gauges(bench, MemoryMonitor(bench.idle), None).keys() == set(QUEUE[1:])
