"""A worker that changes to another version while it serves, on the twin and on real servers.

The versions are folders; a model that is loaded from one answers with the text of its
``model.keras``, and says what to do wrong where that text is the name of a fault. A gate holds
loading where a test wants to look at the worker meanwhile.
"""

import gc
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.labels_only import LabelsOnly
from tests.memory_queue import MemoryQueue
from tests.queues import RedisQueue
from tests.redis_server import (
    PATIENCE_S,
    Executable,
    QueueMaker,
    RedisServers,
    eventually,
    executables,
)

from imageserve import metrics
from imageserve.errors import ModelLoadError, ModelOutOfMemory
from imageserve.models.entries import ModelEntry
from imageserve.predictions import Prediction
from imageserve.preparation import Preparation
from imageserve.queue.admission import Limits
from imageserve.queue.consumer import Consumer, Lease
from imageserve.queue.desired import DesiredVersion, encode_desired
from imageserve.queue.snapshot import WorkerInfo
from imageserve.queue.wire import Job, Result
from imageserve.worker.loop import Worker, WorkerConfig
from imageserve.worker.reload import Reloader
from imageserve.worker.runner import Runner
from imageserve.worker.versions import Candidate, Versions

SIZE = (8, 8)
BATCH_SIZE = 4
HOUR_MS = 3_600_000


class LabelModel(LabelsOnly):
    """A model that has one label."""

    name = "shapes"
    runtime = "test"
    classes = 1

    def __init__(self, label: str) -> None:
        self.label = label
        self.version = f"hash-of-{label}"
        self.preparation = Preparation((16, 16) if label == "large" else SIZE)
        self.cycle = self  # As models of Keras have them: only the collector frees it.

    def predict(self, images: NDArray[np.uint8], top: int) -> list[tuple[Prediction, ...]]:
        if self.label == "broken":
            raise RuntimeError("no such operation" + ", or that" * 1000)
        if self.label == "greedy" and len(images) > 1:
            raise ModelOutOfMemory("no memory")
        return [(Prediction(self.label, 1.0),)] * len(images)


class Stage:
    """A folder of versions, a worker on a queue, and what a web process and an operator do."""

    def __init__(self, queue: RedisQueue, folder: Path) -> None:
        self.queue = queue
        # Only so that tests end sooner: a worker that stops waits for this to come back.
        wait = queue.wait
        queue.wait = lambda block_s: wait(min(block_s, 0.02))  # type: ignore[method-assign]
        self.folder = folder
        self.gate = threading.Event()
        self.gate.set()
        self.loads: list[str] = []
        self.models: dict[str, weakref.ref[LabelModel]] = {}
        self.network = "shapes"
        self.models_dir: str | None = str(folder)
        self._worker: tuple[Worker, threading.Thread] | None = None
        self._sent = 0

    def version(self, version: str, label: str, yaml: str | None = None) -> Path:
        """Put a version there."""
        folder = self.folder / "shapes" / version
        folder.mkdir(parents=True)
        (folder / "model.keras").write_text(label)
        if yaml is not None:
            (folder / "imageserve.yaml").write_text(yaml)
        return folder

    def prepare(self, candidate: Candidate, beside: bool) -> Runner:
        path = Path(candidate.entry.network) / "model.keras"
        label = path.read_text() if path.exists() else "built-in"
        self.loads.append(label)
        assert not beside or self.gate.wait(PATIENCE_S)
        if label == "corrupt":
            raise ModelLoadError("Keras cannot load it:\n save it anew")
        model = LabelModel(label)
        self.models[label] = weakref.ref(model)
        runner = Runner(model, BATCH_SIZE, name="shapes", version=candidate.version)
        runner.warm_up(beside=beside)
        return runner

    def start(self, desired: str = "") -> None:
        entry = ModelEntry("shapes", "image_queue", Preparation(SIZE), network=self.network)
        reloader = Reloader(Versions(entry, self.models_dir), self.prepare, poll_s=0.01)
        config = WorkerConfig("w-1", "here", shutdown_s=5)
        consumer = Consumer(self.queue, "shapes", Lease(HOUR_MS))
        worker = Worker(consumer, reloader.first(desired), "shapes", config, reloader)
        thread = threading.Thread(target=worker.run, name="worker")
        self._worker = worker, thread
        thread.start()
        eventually(lambda: self.queue.snapshot().workers, "the first heartbeat")

    def stop(self) -> None:
        if self._worker is not None:
            worker, thread = self._worker
            worker.stop()
            self.gate.set()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def use(self, version: str, at: int = 1) -> str:
        """Ask for a version, and have the worker hear it at once instead of within five seconds."""
        desired = encode_desired(DesiredVersion("shapes", version, at)) if version else ""
        self.queue.set_desired(desired)
        if self._worker is not None:
            self._worker[0].publish()
        return desired

    @property
    def info(self) -> WorkerInfo:
        (info,) = self.queue.snapshot().workers
        return info

    def ask(self, size: tuple[int, int] = SIZE) -> Result:
        """Send one picture and return its result."""
        return self.results(self.send(1, size))[0]

    def send(self, count: int, size: tuple[int, int] = SIZE) -> list[str]:
        ids = [f"job-{self._sent + n}" for n in range(count)]
        self._sent += count
        for job_id in ids:
            job = Job(job_id, "shapes", (*size, 3), 1, "reply", "trace", HOUR_MS)
            self.queue.enqueue(job, bytes(job.bytes), HOUR_MS, Limits())
        return ids

    def results(self, ids: list[str]) -> list[Result]:
        eventually(lambda: None not in self.queue.results(ids), f"the results of {ids}")
        return [result for result in self.queue.results(ids) if result is not None]

    def serves(self, label: str) -> None:
        eventually(lambda: label_of(self.ask()) == label, f"answers of {label}")

    def serves_pictures_of(self, size: tuple[int, int]) -> None:
        eventually(lambda: not self.ask(size).error, f"answers to pictures of {size}")

    def has_problem(self, words: str) -> None:
        eventually(lambda: words in self.info.problem, f"the problem {words!r}")


def label_of(result: Result) -> str:
    return result.predictions[0].label


@pytest.fixture(params=["memory", *executables()], ids=str)
def stage(
    request: pytest.FixtureRequest,
    redis_servers: RedisServers,
    make_queue: QueueMaker,
    tmp_path: Path,
) -> Iterator[Stage]:
    queue: RedisQueue
    if isinstance(request.param, Executable):
        queue = make_queue(redis_servers.get(request.param).url)
    else:
        queue = MemoryQueue("image_queue", lambda: time.time_ns() // 1_000_000)
    stage = Stage(queue, tmp_path)
    yield stage
    stage.stop()


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(MemoryQueue("image_queue", lambda: time.time_ns() // 1_000_000), tmp_path)
    yield stage
    stage.stop()


def failures() -> float:
    value: float = metrics.model_changes_total.labels("shapes", "failed")._value.get()
    return value


def infos() -> set[str]:
    return {labels[1] for labels in metrics.model_info._metrics if labels[0] == "shapes"}


# -- changing -------------------------------------------------------------------------------------


def test_it_serves_on_while_a_version_is_loaded_and_then_changes_to_it(stage: Stage) -> None:
    stage.version("v2", "two")
    stage.start()
    stage.gate.clear()

    desired = stage.use("v2")
    eventually(lambda: stage.info.loading == "v2", "the loading to be told")
    before = [stage.ask() for _ in range(3)]
    assert {(label_of(each), each.version) for each in before} == {("built-in", "hash-of-built-in")}
    assert stage.info.answered == ""

    stage.gate.set()
    stage.serves("two")
    eventually(lambda: stage.info.answered == desired, "the answer to what was desired")
    info = stage.info
    assert (info.version, info.loading, info.problem) == ("v2", "", "")
    assert stage.ask().version == "v2"
    assert stage.loads == ["built-in", "two"]
    assert infos() == {"v2"}


def test_it_goes_back_to_what_it_was_set_up_with(stage: Stage) -> None:
    stage.version("v2", "two")
    stage.start()
    stage.use("v2")
    stage.serves("two")

    stage.use("")

    stage.serves("built-in")
    eventually(lambda: stage.info.version == "hash-of-built-in", "its heartbeat")


def test_no_batch_mixes_two_versions_and_no_job_is_lost(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for version in ("v1", "v2"):
        stage.version(version, version)
    stage.start()
    ids: list[str] = []
    for at in range(4):
        ids += stage.send(50)
        stage.use(f"v{1 + at % 2}", at)
        wanted_label = f"v{1 + at % 2}"
        stage.serves(wanted_label)

    results = {result.id: result for result in stage.results(ids)}

    assert all(label_of(r) in (r.version, "built-in") for r in results.values())
    batches = [vars(r)["fields"]["ids"] for r in caplog.records if r.getMessage() == "batch"]
    ours = [[results[i].version for i in batch if i in results] for batch in batches]
    assert sum(map(len, ours)) == len(ids)
    assert all(len(set(versions)) <= 1 for versions in ours)


def test_a_version_that_needs_other_pictures_is_taken_and_the_old_ones_are_sent_back(
    stage: Stage,
) -> None:
    stage.version("v2", "large")
    stage.start()
    assert label_of(stage.ask()) == "built-in"
    ids = stage.send(3 * BATCH_SIZE)
    stage.use("v2")
    stage.serves_pictures_of((16, 16))

    found = [
        (each.error.code if each.error else "", each.preparation) for each in stage.results(ids)
    ]
    assert set(found) <= {("", None), ("model_changed", Preparation((16, 16)))}
    assert stage.info.preparation == Preparation((16, 16))
    assert stage.info.shape == (16, 16, 3)
    assert label_of(stage.ask((16, 16))) == "large"

    stage.use("")
    stage.serves_pictures_of(SIZE)
    assert label_of(stage.ask()) == "built-in"


def test_an_idle_worker_changes_without_a_job(twin: Stage) -> None:
    twin.version("v2", "two")
    twin.start()

    twin.use("v2")

    eventually(lambda: twin.info.version == "v2", "the change")
    assert "items" not in twin.queue.snapshot().stats


def test_the_old_model_is_released(twin: Stage) -> None:
    for version in ("v2", "v3"):
        twin.version(version, version)
    twin.start()
    for number, version in enumerate(("v2", "v3")):
        twin.use(version, number)
        twin.serves(version)

    eventually(lambda: twin.info.answered.startswith("shapes@v3"), "the end of the change")

    def released() -> bool:
        return [twin.models[label]() for label in ("built-in", "v2")] == [None, None]

    eventually(released, "the old models to be gone, collected by the worker itself")
    assert twin.models["v3"]() is not None


def test_lines_and_metrics_tell_of_a_change(twin: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    changed = metrics.model_changes_total.labels("shapes", "changed")._value.get()
    twin.version("v2", "two")
    twin.start()
    twin.use("v2")
    twin.serves("two")

    def fields(message: str) -> list[dict[str, Any]]:
        return [vars(r)["fields"] for r in caplog.records if r.getMessage() == message]

    eventually(lambda: fields("batch")[-1]["version"] == "v2", "a batch of the new version")
    assert fields("loading another version") == [{"model": "shapes", "version": "v2"}]
    assert fields("serving another version") == [
        {"model": "shapes", "version": "v2", "was": "hash-of-built-in"}
    ]
    eventually(
        lambda: metrics.model_changes_total.labels("shapes", "changed")._value.get() == changed + 1,
        "the counter",
    )


# -- failing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        pytest.param("corrupt", "Keras cannot load it: save it anew", id="cannot be loaded"),
        pytest.param("broken", "fails: RuntimeError: no such operation", id="cannot be run"),
        pytest.param("greedy", "with batches of 1 only, not 4: restart the workers", id="memory"),
    ],
)
def test_a_version_that_fails_leaves_the_old_one_serving_and_is_not_tried_in_a_loop(
    twin: Stage, label: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = failures()
    twin.version("v2", label)
    twin.start()

    desired = twin.use("v2")

    twin.has_problem(problem)
    assert len(twin.info.problem) < 400
    assert (twin.info.version, twin.info.answered) == ("hash-of-built-in", desired)
    assert label_of(twin.ask()) == "built-in"
    assert "another version cannot be served" in caplog.text
    assert failures() == before + 1
    assert metrics.model_change_failed.labels("shapes")._value.get() == 1
    checks = checks_of(twin)
    eventually(lambda: len(checks) > 5, "several checks")
    assert twin.loads == ["built-in", label]


def checks_of(stage: Stage) -> list[str]:
    """Return the checks of the reloader from now on."""
    assert stage._worker is not None
    reloader = stage._worker[0]._reloader
    assert reloader is not None
    checks: list[str] = []
    find = reloader._versions.find

    def note(desired: DesiredVersion | None) -> Candidate:
        checks.append(desired.text if desired else "")
        return find(desired)

    reloader._versions.find = note  # type: ignore[method-assign]
    return checks


def test_a_version_that_failed_is_tried_again_when_it_is_asked_for_again(stage: Stage) -> None:
    folder = stage.version("v2", "corrupt", yaml="")
    stage.start()
    stage.use("v2", at=1)
    stage.has_problem("save it anew")

    (folder / "model.keras").write_text("two")
    stage.use("v2", at=2)

    stage.serves("two")
    eventually(lambda: stage.info.problem == "", "the problem to be over")
    assert metrics.model_change_failed.labels("shapes")._value.get() == 0


def test_a_version_that_failed_is_tried_again_when_its_files_change(twin: Stage) -> None:
    folder = twin.version("v2", "corrupt")
    twin.start()
    twin.use("v2")
    twin.has_problem("save it anew")

    (folder / "new").write_text("two")
    (folder / "new").rename(folder / "model.keras")

    twin.serves("two")


def test_a_version_that_is_not_there_is_told_once_and_served_when_it_comes(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.start()
    stage.use("v2")
    stage.has_problem("choose one of: none")
    checks = checks_of(stage)
    eventually(lambda: len(checks) > 3, "several checks")
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1

    stage.version("v2", "two")

    stage.serves("two")


def test_without_a_folder_of_versions_the_worker_says_so(twin: Stage) -> None:
    twin.models_dir = None
    twin.start()

    twin.use("v2")

    twin.has_problem("set MODELS_DIR on the workers")
    assert label_of(twin.ask()) == "built-in"


def test_a_desired_version_that_cannot_be_read_changes_nothing(stage: Stage) -> None:
    stage.start()

    stage.queue.set_desired("../../etc")
    assert stage._worker is not None
    stage._worker[0].publish()

    stage.has_problem("is not NAME@VERSION")
    assert label_of(stage.ask()) == "built-in"


def test_removing_a_failed_desired_version_ends_the_problem(twin: Stage) -> None:
    twin.start()
    twin.use("v2")
    twin.has_problem("no folder")

    twin.use("")

    eventually(lambda: twin.info.problem == "", "the end of the problem")
    assert twin.loads == ["built-in"]


def test_a_bug_while_looking_is_logged_and_does_not_end_the_looking(
    twin: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    twin.version("v2", "two")
    twin.start()
    assert twin._worker is not None
    reloader = twin._worker[0]._reloader
    assert reloader is not None
    find, broken = reloader._versions.find, [True]

    def buggy(desired: DesiredVersion | None) -> Candidate:
        if broken and broken.pop():
            raise TypeError("a bug")
        return find(desired)

    reloader._versions.find = buggy  # type: ignore[method-assign]
    eventually(lambda: "bug while looking for another version" in caplog.text, "its line")

    twin.use("v2")
    twin.serves("two")


# -- changed files --------------------------------------------------------------------------------


def test_a_folder_that_is_written_anew_is_served_without_being_asked_for(twin: Stage) -> None:
    twin.network = str(twin.version("v1", "one"))
    twin.start()
    twin.serves("one")

    folder = Path(twin.network)
    (folder / "new").write_text("one, better")
    (folder / "new").rename(folder / "model.keras")

    twin.serves("one, better")
    eventually(lambda: twin.info.version == "hash-of-one, better", "its heartbeat")


def test_a_file_that_changes_beside_an_imageserve_yaml_is_served_when_it_stays(
    twin: Stage,
) -> None:
    twin.network = str(twin.version("v1", "one", yaml=""))
    twin.start()
    twin.serves("one")

    (Path(twin.network) / "model.keras").write_text("two")

    twin.serves("two")


def test_beside_an_imageserve_yaml_half_a_model_is_not_loaded_before_ten_seconds(
    tmp_path: Path,
) -> None:
    stage = Stage(MemoryQueue("image_queue", lambda: 0), tmp_path)
    stage.network = str(stage.version("v1", "one", yaml=""))
    entry = ModelEntry("shapes", "image_queue", Preparation(SIZE), network=stage.network)
    reloader = Reloader(Versions(entry, None), stage.prepare)
    reloader.first("")
    handle = Handle()

    def looks(count: int) -> list[str]:
        for _ in range(count):
            reloader.check(handle)
        return stage.loads

    assert looks(2) == ["one"]
    (Path(stage.network) / "model.keras").write_text("half")
    assert looks(5) == ["one"], "the rest may come"
    (Path(stage.network) / "model.keras").write_text("two")
    assert looks(5) == ["one"], "it has changed again"
    (Path(stage.network) / "imageserve.yaml").write_text("# complete")
    assert looks(1) == ["one"], "the first look at it"
    assert looks(1) == ["one", "two"], "announced"
    (Path(stage.network) / "labels.txt").write_text("two")
    assert looks(5) == ["one", "two"]
    assert looks(1) == ["one", "two", "two"], "the same for ten seconds"


class Handle:
    """A worker that takes every model."""

    batch_size = BATCH_SIZE

    def change_to(self, runner: Runner) -> bool:
        return True

    def publish(self) -> None:
        pass


def test_a_link_that_is_set_to_another_version_is_followed(twin: Stage) -> None:
    for version in ("v1", "v2"):
        twin.version(version, version)
    link = twin.folder / "current"
    link.symlink_to("shapes/v1")
    twin.network = str(link)
    twin.start()
    twin.serves("v1")

    (twin.folder / "next").symlink_to("shapes/v2")
    (twin.folder / "next").rename(link)

    twin.serves("v2")


def test_files_that_change_while_they_are_loaded_are_loaded_again(twin: Stage) -> None:
    folder = twin.version("v2", "half")
    twin.start()
    twin.gate.clear()
    twin.use("v2")
    eventually(lambda: twin.loads[-1] == "half", "the loading")

    (folder / "new").write_text("whole")
    (folder / "new").rename(folder / "model.keras")
    twin.gate.set()

    twin.serves("whole")
    answered = {
        label_of(result) for result in twin.results([f"job-{n}" for n in range(twin._sent)])
    }
    assert answered <= {"built-in", "whole"}


# -- starting and stopping ------------------------------------------------------------------------


def test_a_worker_that_starts_loads_what_is_wanted_alone(stage: Stage) -> None:
    stage.version("v2", "greedy")
    desired = stage.use("v2")

    stage.start(desired)

    assert label_of(stage.ask()) == "greedy"
    assert stage.loads == ["greedy"]
    info = stage.info
    assert (info.version, info.answered, info.batch_size) == ("v2", desired, 1)


@pytest.mark.parametrize(
    ("desired", "problem"),
    [
        pytest.param("shapes@v2 1", "save it anew", id="a version that cannot be loaded"),
        pytest.param("shapes@v3 1", "no folder", id="a version that is not there"),
        pytest.param("nonsense", "is not NAME@VERSION", id="a wish that cannot be read"),
    ],
)
def test_a_wrong_wish_keeps_no_worker_from_starting(
    twin: Stage, desired: str, problem: str
) -> None:
    twin.version("v2", "corrupt")
    twin.queue.set_desired(desired)

    twin.start(desired)

    assert label_of(twin.ask()) == "built-in"
    twin.has_problem(problem)
    assert twin.info.answered == desired
    checks = checks_of(twin)
    eventually(lambda: len(checks) > 3 or desired == "nonsense", "several checks")
    assert twin.loads.count("corrupt") <= 1


def test_a_worker_that_stops_while_it_loads_does_not_wait_for_it(twin: Stage) -> None:
    twin.version("v2", "two")
    twin.start()
    twin.gate.clear()
    twin.use("v2")
    eventually(lambda: twin.info.loading == "v2", "the loading")
    assert twin._worker is not None
    worker, thread = twin._worker

    worker.stop()
    thread.join(PATIENCE_S)

    assert not thread.is_alive()
    assert twin.queue.snapshot().workers == ()
    twin.gate.set()
    reloader = worker._reloader
    assert reloader is not None
    eventually(lambda: reloader.loading == "", "the end of the loading")
    assert worker.runner.version == "hash-of-built-in"
    assert twin.queue.snapshot().workers == (), "it is not heard of again"


def test_models_are_released_with_the_failure_that_they_caused(twin: Stage) -> None:
    twin.version("v2", "greedy")
    twin.start()
    twin.use("v2")
    twin.has_problem("with batches of 1 only")

    def released() -> bool:
        gc.collect()
        return twin.models["greedy"]() is None

    eventually(released, "the model that was refused to be gone")
