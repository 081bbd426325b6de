"""The table of runtimes, a third row in it, and how many processors there are for them."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests import tally_runtime

from imageserve.cli import models as command
from imageserve.config import choices
from imageserve.errors import ModelLoadError
from imageserve.models import Engine, load_model
from imageserve.models.catalog import default_input_size, short_name
from imageserve.models.runtimes import (
    KERAS,
    ONNX,
    RUNTIMES,
    RuntimeModule,
    usable_processors,
)
from imageserve.models.source import find_source

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        pytest.param(Engine(precision="float16"), "PRECISION=float16 is for Keras", id="precision"),
        pytest.param(Engine(xla=True), "XLA is for Keras", id="XLA"),
    ],
)
def test_onnx_runtime_refuses_settings_that_only_keras_has(engine: Engine, said: str) -> None:
    with pytest.raises(ModelLoadError, match=f"{said}: leave it out, or set MODEL_RUNTIME=keras"):
        ONNX.check(engine)
    KERAS.check(engine)


def test_the_settings_have_the_runtimes_of_the_table() -> None:
    assert tuple(RUNTIMES) == choices.RUNTIMES


@pytest.fixture
def tally(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Add a third runtime to the table; return a model folder for it."""
    monkeypatch.setitem(RUNTIMES, "tally", tally_runtime.ROW)
    folder = tmp_path / "hues"
    folder.mkdir()
    weights = [[9, 0, 0], [0, 9, 0], [0, 0, 9]]
    (folder / "model.tally").write_text(json.dumps({"size": [8, 8], "weights": weights}))
    (folder / "labels.txt").write_text("red\ngreen\nblue\n")
    return folder


def test_a_third_runtime_is_found_by_file_and_by_folder(tally: Path) -> None:
    for model in (f"{tally}/model.tally", str(tally)):
        for wanted in ("tally", None):
            source = find_source(model, f"{tally}/labels.txt", wanted)
            assert (source.runtime, source.path) == ("tally", tally / "model.tally")
    assert short_name("/models/hues.tally") == "hues"
    assert default_input_size("hues.tally") is None
    with pytest.raises(ModelLoadError, match=r"a file ends in \.keras, \.onnx or \.tally"):
        default_input_size("hues.h5")


@pytest.mark.parametrize("name", ["model.keras", "model.onnx"])
def test_earlier_rows_run_a_folder_that_holds_several_models(tally: Path, name: str) -> None:
    (tally / name).touch()

    assert find_source(str(tally), None).path == tally / name
    assert find_source(str(tally), None, "tally").path == tally / "model.tally"


def test_a_third_runtime_is_refused_with_the_command_that_exports_for_it(tally: Path) -> None:
    with pytest.raises(ModelLoadError, match="models export shapes --runtime tally --to DIR"):
        find_source("shapes", None, "tally")
    with pytest.raises(ModelLoadError, match="which is for Tally: leave MODEL_RUNTIME out"):
        find_source(str(tally), None, "onnx")


def test_a_third_runtime_serves(tally: Path) -> None:
    model = load_model(str(tally), weights="", labels_file=None)

    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    pictures[0, ..., 2] = pictures[1, ..., 0] = 255
    assert [answer[0].label for answer in model.predict(pictures, 1)] == ["blue", "red"]


def test_a_third_runtime_refuses_settings_that_it_does_not_have(tally: Path) -> None:
    with pytest.raises(ModelLoadError, match="bfloat16 is for Keras or ONNX Runtime: leave it out"):
        load_model(
            str(tally),
            weights="",
            labels_file=None,
            engine=Engine(precision="bfloat16"),
        )


def test_a_third_runtime_that_is_not_installed_says_what_to_do(
    tally: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(engine: Engine) -> RuntimeModule:
        raise ModuleNotFoundError("No module named 'tally'")

    monkeypatch.setitem(RUNTIMES, "tally", replace(tally_runtime.ROW, load_module=fail))
    with pytest.raises(ModelLoadError, match=r"Tally cannot be used here .*: pip install tally"):
        load_model(str(tally), weights="", labels_file=None)


def test_a_third_runtime_is_checked(tally: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["check", str(tally)], {"BATCH_SIZE": "2"}) == 0

    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["engine"] == "Tally, float32"
    assert said["labels"] == "3: red, green, blue"
    assert said["agrees"] == "not compared: there is no Keras model beside it"
    assert said["result"] == "hues can be served"


def test_a_third_runtime_is_measured(tally: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(tally), "--batch-sizes", "1,2", "--seconds", "0", "--json"]
    assert command.main(arguments, {}) == 0

    assert list(json.loads(capsys.readouterr().out)["engines"]) == ["tally float32"]


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("check", "a .keras, .onnx or .tally file"),
        ("export", "--runtime {onnx,tally}"),
        ("bench", "default: keras,onnx,tally"),
    ],
)
def test_the_help_names_a_third_runtime(
    tally: Path, capsys: pytest.CaptureFixture[str], action: str, said: str
) -> None:
    with pytest.raises(SystemExit, match="0"):
        command.main([action, "--help"], {})
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, ALL, id="no cgroup: what affinity leaves"),
        pytest.param({"cpu.max": "max 100000\n"}, ALL, id="v2 without a limit"),
        pytest.param({"cpu.max": "100000 100000\n"}, 1, id="v2, one processor"),
        pytest.param({"cpu.max": "50000 100000\n"}, 1, id="v2, half of one"),
        pytest.param({"cpu.max": "150000 100000\n"}, min(2, ALL), id="v2, one and a half"),
        pytest.param({"cpu.max": "99900000 100000\n"}, ALL, id="v2, more than there are"),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            ALL,
            id="v1 without a limit",
        ),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            1,
            id="v1, one processor",
        ),
    ],
)
def test_the_processors_are_those_that_the_container_may_use(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)

    assert usable_processors(tmp_path) == expected


def test_where_onnx_runtime_is_missing_its_image_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Another test may have imported it: then the package has it as an attribute, too.
    monkeypatch.delitem(sys.modules, "imageserve.models.onnx_model", raising=False)
    monkeypatch.delattr("imageserve.models.onnx_model", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(ModelLoadError, match="imageserve/model-onnx") as refused:
        ONNX.module(Engine())

    assert "imageserve[onnx]" in str(refused.value)
