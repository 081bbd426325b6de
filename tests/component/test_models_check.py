"""What ``models check`` passes, starts: web servers find its entry, and workers load it."""

import itertools
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.component.test_model_descriptions import functional
from tests.onnx_files import LABELS, write_labels, write_onnx

from imageserve.cli import models as command
from imageserve.config.settings import Settings
from imageserve.errors import ImageserveError, ModelLoadError
from imageserve.models.entries import model_entries, worker_entry
from imageserve.worker import runner
from imageserve.worker.process import WorkerProcess
from imageserve.worker.reload import Reloader
from imageserve.worker.versions import Versions

pytest.importorskip("keras")

# Keras converts its variables in a way that NumPy 2 warns about, in saving; serving does not.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

Environ = dict[str, str]


@dataclass(frozen=True)
class Given:
    """A model folder, and the settings that name it or a file in it."""

    model: str
    facts: str | None
    labels: str
    setting: str

    def write(self, folder: Path) -> Environ:
        """Put the files there; return the settings."""
        WRITE[self.model](folder)
        if self.labels == "json":
            classes = {str(n): [f"id{n}", label] for n, label in enumerate(LABELS)}
            (folder / "labels.json").write_text(json.dumps(classes))
        elif self.labels:
            write_labels(folder / "labels.txt", LABELS[: int(self.labels)])
        if self.facts is not None:
            (folder / "imageserve.yaml").write_text(self.facts)
        file = next((path for path in folder.iterdir() if path.name.startswith("model.")), folder)
        named = {"folder": str(folder), "slash": f"{folder}/"}.get(self.setting, str(file))
        environ = {"MODEL": named, "BATCH_SIZE": "2", "METRICS_PORT": "0"}
        if self.setting == "file":
            environ["MODEL_LABELS"] = str(folder / "labels.txt")
        if self.setting == "sized":
            environ |= {"MODEL": str(folder), "INPUT_SIZE": "8", "INTERPOLATION": "box"}
        return environ


WRITE: dict[str, Callable[[Path], object]] = {
    "onnx": lambda folder: write_onnx(folder / "model.onnx"),
    "open": lambda folder: write_onnx(folder / "model.onnx", shape=("n", "h", "w", 3)),
    "beside": lambda folder: write_onnx(folder / "model.onnx", beside="model.onnx.data"),
    "sigmoid": lambda folder: write_onnx(folder / "model.onnx", head="Sigmoid"),
    "nothing": lambda folder: None,
    "keras": lambda folder: functional((8, 8, 3)).save(folder / "model.keras"),
    "keras open": lambda folder: functional((None, None, 3)).save(folder / "model.keras"),
    "saved_model": lambda folder: functional((8, 8, 3)).export(
        folder / "saved_model", format="tf_saved_model", verbose=False
    ),
}
FACTS = (None, "", "input_size: 8", "input_size: 9", "interpolation: box\nversion: '7'", "size: 8")


def folders() -> Iterator[Given]:
    """Yield each kind of model as people have it, and then some of all other ways to set it up."""
    for model in WRITE:
        yield Given(model, None, "3", "folder")
    for model in ("open", "keras open"):
        yield Given(model, "input_size: 8", "3", "folder")
    for setting in ("slash", "file", "sized"):
        yield Given("onnx", None, "3", setting)
    small = ("onnx", "open", "beside", "sigmoid", "nothing")
    ways = itertools.product(
        small, FACTS, ("3", "2", "json", ""), ("folder", "slash", "file", "sized")
    )
    for parts in random.Random(12).sample([*ways], 60):
        yield Given(*parts)


def outcome(environ: Environ) -> str:
    """Return why the model is refused; "" where the check passes."""
    try:
        assert command.main(["check"], environ) == 0
    except ImageserveError as error:
        return str(error)
    return ""


def start(environ: Environ) -> None:
    """Do what a web process and a worker do with these settings before they are ready."""
    settings = Settings.from_env(environ)
    (entry,) = model_entries(settings).values()
    assert entry == worker_entry(settings)
    process = WorkerProcess(settings)
    made = Reloader(Versions(entry, None), process._prepare).first("")
    assert entry.preparation in (None, made.model.preparation)


@pytest.mark.usefixtures("capsys")
def test_what_the_check_passes_starts(tmp_path: Path) -> None:
    passed: set[tuple[str, str | None, str]] = set()
    for number, given in enumerate(folders()):
        folder = tmp_path / f"m{number}"
        folder.mkdir()
        environ = given.write(folder)
        said = outcome(environ)
        if said:
            assert len(said) < 700, given
            assert "\n" not in said, given
            continue
        start(environ)
        passed.add((given.model, given.facts, given.setting))
    usual = {(model, None, "folder") for model in ("onnx", "beside", "keras", "saved_model")}
    assert usual < passed, "without an imageserve.yaml"
    assert ("open", "input_size: 8", "folder") in passed
    assert ("onnx", None, "file") in passed
    assert {model for model, _, _ in passed} == {*WRITE, "keras open"} - {"nothing"}


@pytest.mark.parametrize("name", ["with blanks & signs", "блюда-ü", "7", "a.b", "model.onnx"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    environ = Given("onnx", None, "3", "slash").write(folder)

    assert outcome(environ) == ""
    start(environ)


def test_what_the_check_passes_of_several_models_starts_too(tmp_path: Path) -> None:
    folder = tmp_path / "forms"
    folder.mkdir()
    Given("onnx", "interpolation: box", "3", "folder").write(folder)
    entries = tmp_path / "models.yaml"
    entries.write_text(f"flowers: {{queue: q, network: {folder}}}")
    environ = {"MODELS_FILE": str(entries), "BATCH_SIZE": "2", "METRICS_PORT": "0"}

    assert outcome(environ) == ""
    start(environ)
    known = worker_entry(Settings.from_env(environ)).preparation
    assert known is not None
    assert known.interpolation == "box"


def test_a_model_without_a_size_is_told_its_own_fault_first(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx", shape=("n", "h", "w", 3))
    write_labels(tmp_path / "labels.txt")

    assert "takes pictures of any size: set the input size" in outcome({"MODEL": f"{tmp_path}/"})


def test_a_failure_in_loading_or_warming_up_is_one_short_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_onnx(tmp_path / "model.onnx")
    write_labels(tmp_path / "labels.txt")

    def fail(*_: object) -> None:
        raise RuntimeError("no kernel\n" * 1000)

    with monkeypatch.context() as loading:
        loading.setattr("imageserve.cli.models_load.load_entry", fail)
        assert "the model fails: RuntimeError" in outcome({"MODEL": f"{tmp_path}/"})
    monkeypatch.setattr(runner.Runner, "_predict", fail)

    said = outcome({"MODEL": f"{tmp_path}/"})
    assert said.startswith("the model fails: RuntimeError: no kernel no kernel")
    assert len(said) < 400
    settings = Settings.from_env({"MODEL": f"{tmp_path}/", "METRICS_PORT": "0"})
    process = WorkerProcess(settings)
    reloader = Reloader(Versions(worker_entry(settings), None), process._prepare)
    monkeypatch.setattr(process, "_desired", lambda: "")
    with pytest.raises(ModelLoadError) as caught:
        process._first_runner(reloader)
    assert str(caught.value) == said
