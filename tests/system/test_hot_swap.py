"""The model is changed to another version, then to a broken one, while requests come in.

Two real classifiers saved by Keras, of three classes each and with other labels. The second takes
larger pictures, and their middle only.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pytest
from tests.redis_server import free_port
from tests.system.client import Client, Reply
from tests.system.conftest import MakeStack
from tests.system.samples import samples
from tests.system.stack import Program, Stack

pytestmark = pytest.mark.filterwarnings(  # Keras, when it saves
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SIZES = {"v1": 32, "v2": 48}
LABELS = {"v1": ("apple", "pear", "plum"), "v2": ("cat", "dog", "hen")}
WAIT = ("--wait", "90")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of versions: two good ones and one whose file was cut short."""
    import keras

    folder = tmp_path_factory.mktemp("models")
    for version, labels in LABELS.items():
        network = keras.Sequential(
            [
                keras.Input((SIZES[version], SIZES[version], 3)),
                keras.layers.Rescaling(1 / 255),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )
        write(folder / "fruits" / version, labels)
        network.save(folder / "fruits" / version / "model.keras")
    (folder / "fruits" / "v2" / "imageserve.yaml").write_text("resize: crop\n")
    good = (folder / "fruits" / "v2" / "model.keras").read_bytes()
    write(folder / "fruits" / "v3", LABELS["v2"])
    (folder / "fruits" / "v3" / "model.keras").write_bytes(good[: len(good) // 2])
    return folder


def write(folder: Path, labels: tuple[str, ...]) -> None:
    folder.mkdir(parents=True)
    (folder / "labels.txt").write_text("\n".join(labels) + "\n")


class Visitors:
    """Clients that send requests all the time, each waiting for its answer first."""

    def __init__(self, stack: Stack, count: int) -> None:
        self.replies: list[list[Reply]] = [[] for _ in range(count)]
        self._http = stack.http
        self._picture = samples(1)[0].data
        self._leaving = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(own,)) for own in self.replies]

    def _ask(self, replies: list[Reply]) -> None:
        while not self._leaving.is_set():
            replies.append(self._http.predict(self._picture))

    @contextmanager
    def there(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._leaving.set()
            for thread in self._threads:
                thread.join()


def test_requests_go_on_while_the_model_is_changed(
    make_stack: MakeStack, tmp_path: Path, models: Path
) -> None:
    file = tmp_path / "models.yaml"
    first = models / "fruits" / "v1"
    file.write_text(f"fruits: {{queue: image_queue, network: '{first}'}}\n")
    port = free_port()
    stack = make_stack(
        MODELS_FILE=str(file), MODEL="", MODELS_DIR=str(models), METRICS_PORT=str(port)
    )
    visitors = Visitors(stack, 3)

    with visitors.there():
        stack.wait_for(lambda: all(len(own) > 5 for own in visitors.replies), "first answers")
        changing = use(stack, "change", "fruits@v2", *WAIT)
        assert changing.wait(120) == 0, changing.output()
        assert "serves v2, as wanted" in changing.output()
        marks = [len(own) for own in visitors.replies]
        breaking = use(stack, "break", "fruits@v3", *WAIT)
        assert breaking.wait(120) == 1, breaking.output()
        stack.wait_for(
            lambda: all(
                len(own) > mark + 5 for own, mark in zip(visitors.replies, marks, strict=True)
            ),
            "answers after both",
        )

    assert {reply.status for own in visitors.replies for reply in own} == {200}
    for own in visitors.replies:
        served = [version_of(reply) for reply in own]
        assert len([version for version, _ in groupby(served)]) == 2, "it changed once"
        assert served[-1] == "v2"
    assert "serves v2, cannot change: " in breaking.output()
    assert "v3/model.keras" in breaking.output()
    status = stack.http.get("/status").json["models"]["fruits"]
    assert [worker["version"] for worker in status["workers"]] == ["v2"]
    shown = stack.http.get("/models").json["models"]["fruits"]["preparation"]
    assert (shown["size"], shown["resize"]) == ([48, 48], "crop")
    told = Client(port).get("/metrics").text
    for line in ('info{model="fruits",version="v2"} 1.0', 'change_failed{model="fruits"} 1.0'):
        assert f"imageserve_model_{line}" in told
    (program,) = stack.workers
    assert [line["version"] for line in program.lines("serving another version")] == ["v2"]
    assert len(program.lines("another version cannot be served")) == 1


def use(stack: Stack, name: str, *arguments: str) -> Program:
    return stack.run(name, "models", "use", *arguments)


def version_of(reply: Reply) -> str:
    """Return the version that a reply names, checked to have that version's labels."""
    version = reply.headers["x-model-version"]
    known = (
        version if version in LABELS else "v1"
    )  # The version of the settings is the hash of its content.
    assert set(reply.labels) == set(LABELS[known])
    return version


def test_a_worker_that_starts_serves_the_desired_version(
    make_stack: MakeStack, tmp_path: Path, models: Path
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(
        "fruits: {queue: image_queue, network: 'stand-in:batch_ms=1,image_ms=0,size=32'}\n"
    )
    stack = make_stack(workers=0, MODELS_FILE=str(file), MODEL="", MODELS_DIR=str(models))
    assert use(stack, "use", "fruits@v1").wait() == 0

    stack.start_worker()

    reply = stack.http.predict(samples(1)[0].data)
    assert (version_of(reply), set(reply.labels)) == ("v1", set(LABELS["v1"]))
    assert not stack.workers[0].lines("serving another version")
