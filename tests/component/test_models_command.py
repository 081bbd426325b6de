"""``imageserve models list, check, export, bench``: their output, and what they refuse."""

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import tally_runtime
from tests.onnx_files import write_labels, write_onnx

from imageserve.cli import models as command
from imageserve.cli import plan as plan_command
from imageserve.errors import ImageserveError, ModelLoadError, SettingsError
from imageserve.models import Engine, export, load_model
from imageserve.models.catalog import KNOWN, NETWORKS
from imageserve.models.comparison import drawn_pictures
from imageserve.models.model import ScoringModel
from imageserve.models.onnx_model import precisions
from imageserve.models.runtimes import RUNTIMES

keras = pytest.importorskip("keras")

# From tf2onnx, and from Keras in saving. Serving gives neither.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SAMPLES = Path(__file__).parents[2] / "loadtest" / "images"


def run(*arguments: str, **environ: str) -> None:
    assert command.main(arguments, environ) == 0


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the bundled model once."""
    folder = tmp_path_factory.mktemp("exported") / "shapes"
    run("export", "shapes", "--to", str(folder))
    return folder


def test_list_shows_every_known_model_and_where_its_weights_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "resnet50.weights.h5").touch()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / NETWORKS["vgg16"].cached).touch()

    run("list", "--in", str(tmp_path), KERAS_HOME=str(tmp_path))

    header, *lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split(maxsplit=4)[1:] for line in lines}
    assert header.split() == ["name", "pictures", "parameters", "weights"]
    assert list(rows) == list(KNOWN)
    assert rows["shapes"] == ["96x96", "0.1", "M", "part of imageserve"]
    assert rows["xception"] == ["299x299", "22.9", "M", "not here"]
    assert rows["resnet50"][3] == f"fetched: {tmp_path}/resnet50.weights.h5"
    assert rows["vgg16"][3] == f"downloaded: {tmp_path}/models/{NETWORKS['vgg16'].cached}"


def test_check_says_what_was_proved(capsys: pytest.CaptureFixture[str]) -> None:
    run("check", "shapes", "--pictures", str(SAMPLES), BATCH_SIZE="4")

    lines = capsys.readouterr().out.splitlines()
    said = dict(line.split(maxsplit=1) for line in lines if line[0] != " ")
    assert list(said) == [
        "model",
        "engine",
        "takes",
        "prepared",
        "input",
        "gives",
        "from",
        "labels",
        "loaded",
        "warm",
        "answers",
        "result",
    ]
    assert said["engine"] == "Keras on tensorflow, float32"
    assert said["takes"] == "pictures of 96x96 (height x width)"
    assert said["labels"] == "14: arrow, checkerboard, circle, crescent, ..."
    assert "1: " in said["warm"]
    assert " 4: " in said["warm"]
    assert said["answers"] == "probabilities for 28 pictures, 14 different labels"
    first = [line.strip() for line in lines if line[0] == " "]
    assert len(first) == 5
    assert first[0].startswith("arrow-1.jpg: arrow ")
    assert said["result"] == "shapes can be served"


def test_check_without_a_model_looks_at_what_the_settings_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = tmp_path / "models.yaml"
    entries.write_text("forms: {queue: q, network: shapes}")

    run("check", MODELS_FILE=str(entries), BATCH_SIZE="1", PRECISION="bfloat16")

    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["model"].startswith("forms, version ")
    assert said["engine"] == "Keras on tensorflow, bfloat16"
    assert said["agrees"].startswith("with Keras in float32: the same first label for 6")
    assert " of 64 pictures, probabilities within 0.0" in said["agrees"]


def test_check_compares_an_exported_model_where_its_source_is_beside_it(
    tmp_path: Path, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "both"
    shutil.copytree(exported, both)
    shutil.copy(KNOWN["shapes"].model_file or "", both / "model.keras")

    run("check", str(exported), BATCH_SIZE="1")
    alone = capsys.readouterr().out
    run("check", str(both), MODEL_RUNTIME="onnx", BATCH_SIZE="1")
    beside = capsys.readouterr().out

    assert "engine   ONNX Runtime" in alone
    assert "not compared: there is no Keras model beside it" in alone
    assert "the same first label for 64 of 64 pictures" in beside


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["stand-in"], "a stand-in classifies nothing", id="a stand-in"),
        pytest.param(["resnet5000"], "did you mean resnet50", id="an unknown name"),
        pytest.param(["mine.keras"], "mine.keras does not exist: correct its path", id="no file"),
        pytest.param(["tests/keras_2.keras"], "has no labels", id="no labels"),
        pytest.param(["shapes", "--input-size", "64"], "set the input size to 96x96", id="size"),
        pytest.param(["shapes", "--input-size", "x"], "INPUT_SIZE: must be HEIGHT", id="no size"),
        pytest.param(["shapes", "--pictures", "/nowhere"], "holds no pictures", id="pictures"),
    ],
)
def test_check_refuses_with_what_to_do(arguments: list[str], said: str) -> None:
    with pytest.raises(ImageserveError, match=said):
        run("check", *arguments, BATCH_SIZE="1")


def test_an_exported_model_is_served_under_its_version(exported: Path) -> None:
    model, source = (
        load_model(name, weights="", labels_file=None) for name in (str(exported), "shapes")
    )

    assert isinstance(model, ScoringModel)
    assert model.runtime == "onnx"
    assert (model.version, model.labels) == (source.version, source.labels)  # type: ignore[attr-defined]
    pictures = drawn_pictures(model.preparation.shape)
    answers, expected = model.predict(pictures, 3), source.predict(pictures, 3)
    assert [[p.label for p in row] for row in answers] == [
        [p.label for p in row] for row in expected
    ]
    assert (exported / "imageserve.yaml").read_text() == (
        f'input_size: [96, 96]\ninterpolation: "bilinear"\nversion: "{source.version}"\n'
    )
    own = load_model(
        f"{exported}/model.onnx",
        weights="",
        labels_file=str(exported / "labels.txt"),
    )
    assert own.version.startswith(f"{source.version}-"), "the file itself remembers it"


def test_export_beside_its_source_leaves_labels_and_facts_alone(tmp_path: Path) -> None:
    folder = tmp_path / "forms"
    folder.mkdir()
    keras.utils.set_random_seed(1)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            # Its mean and variance are no variables: they must not become inputs of the graph.
            keras.layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1, 2, 3]),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    network.save(folder / "model.keras")
    write_labels(folder / "labels.txt")
    facts = "input_size: 8\nscaling: -1..1\nversion: spring\n"
    (folder / "imageserve.yaml").write_text(facts)

    run("export", str(folder), "--to", str(folder))

    assert (folder / "imageserve.yaml").read_text() == facts
    assert sorted(path.name for path in folder.iterdir()) == [
        "imageserve.yaml",
        "labels.txt",
        "model.keras",
        "model.onnx",
    ]
    by_keras, by_onnx = (
        load_model(str(folder), weights="", labels_file=None, engine=Engine(runtime=name))
        for name in ("keras", "onnx")
    )
    assert by_keras.version == by_onnx.version == "spring"
    (one,), (other,) = (m.predict(drawn_pictures((8, 8, 3), 1), 3) for m in (by_keras, by_onnx))
    assert [p.label for p in one] == [p.label for p in other]


def test_export_refuses_a_folder_that_holds_another_model(tmp_path: Path) -> None:
    (tmp_path / "model.keras").touch()

    with pytest.raises(ModelLoadError, match="holds another model: name an empty or a new folder"):
        run("export", "shapes", "--to", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["model.keras"]


def test_an_export_that_answers_otherwise_is_not_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(model: Any, path: Path) -> None:
        write_onnx(path, shape=("n", 96, 96, 3), classes=14)

    monkeypatch.setattr(export, "write_onnx", write)
    with pytest.raises(ModelLoadError, match=r"the exported shapes is wrong: .* more than 0\.0001"):
        run("export", "shapes", "--to", str(tmp_path / "new"))
    assert list((tmp_path / "new").iterdir()) == []


def test_a_graph_with_an_operation_that_onnx_lacks_is_refused(tmp_path: Path) -> None:
    keras.utils.set_random_seed(1)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.DepthwiseConv2D(3, activation="gelu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    network.save(tmp_path / "mine.keras")
    labels = write_labels(tmp_path / "labels.txt")

    with pytest.raises(ModelLoadError, match=r"cannot be written as ONNX .*MODEL_RUNTIME=keras"):
        run("export", str(tmp_path / "mine.keras"), "--labels", labels, "--to", str(tmp_path / "x"))


def test_bench_prints_a_table_and_names_the_best_batch_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "models.md"
    document.write_text("before\n<!-- models bench: begin -->\nold\n<!-- models bench: end -->\nx")

    run(
        *("bench", "shapes", "--batch-sizes", "1,4", "--rounds", "2", "--seconds", "0.01"),
        *("--precisions", "float32,bfloat16,float16", "--markdown", str(document)),
    )

    printed = capsys.readouterr()
    assert "round 2 of 2, batches of 4, onnx float32" in printed.err
    assert (
        "| batch size | keras tensorflow float32 | keras tensorflow bfloat16 "
        "| keras tensorflow float16 "
        f"| {' | '.join(f'onnx {each}' for each in precisions())} |"
    ) in printed.out
    assert "- onnx float32: BATCH_SIZE=" in printed.out
    written = document.read_text()
    assert written.startswith("before\n<!-- models bench: begin -->\n\n`shapes`, pictures a second")
    assert "old" not in written


def test_bench_measures_an_exported_model_by_itself_and_prints_json(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("bench", str(exported), "--batch-sizes", "2", "--seconds", "0", "--json")

    found = json.loads(capsys.readouterr().out)
    assert found["input_size"] == [96, 96]
    assert list(found["engines"]) == ["onnx float32"]
    assert len(found["engines"]["onnx float32"]["pictures_per_second"]["2"]) == 3
    assert found["engines"]["onnx float32"]["best_batch_size"] == 2


def test_plan_takes_what_bench_prints(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("bench", str(exported), "--batch-sizes", "1,2", "--seconds", "0", "--json")
    bench = capsys.readouterr().out
    (tmp_path / "bench.json").write_text(bench)

    arguments = ["--rate", "50", "--model", str(tmp_path / "bench.json"), "--json"]
    assert plan_command.main(arguments, {}) == 0

    found, measured = json.loads(capsys.readouterr().out), json.loads(bench)
    speeds = measured["engines"]["onnx float32"]["pictures_per_second"][
        str(found["models"]["batch"])
    ]
    assert found["models"]["pod_per_s"] == pytest.approx(statistics.median(speeds))
    assert found["redis"]["picture_bytes"] == 96 * 96 * 3


def test_a_third_runtime_is_exported_for_and_compared_by_one_row_in_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUNTIMES, "tally", tally_runtime.ROW)
    folder = tmp_path / "shapes"

    run("export", "shapes", "--runtime", "tally", "--to", str(folder))
    run("check", str(folder), BATCH_SIZE="1")
    run("bench", "shapes", "--batch-sizes", "1", "--rounds", "1", "--seconds", "0")

    printed = capsys.readouterr().out
    assert f"{folder}/model.tally: 0.0 MiB, shapes version" in printed
    assert "engine   Tally, float32" in printed
    assert "| keras tensorflow float32 | onnx float32 | tally float32 |" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--runtimes", "tflite"], "--runtimes: must be some of keras,onnx", id="run"),
        pytest.param(["--precisions", ""], "--precisions: must be some of float32", id="none"),
        pytest.param(["--batch-sizes", "1,0"], "numbers from 1 to 1024", id="no batch"),
        pytest.param(["--markdown", "/nowhere/x.md"], "has no lines <!-- models bench", id="file"),
    ],
)
def test_bench_refuses_what_it_cannot_measure(arguments: list[str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        run("bench", "shapes", "--seconds", "0", "--batch-sizes", "1", *arguments)


def test_drawn_pictures_tell_a_model_apart_from_a_constant() -> None:
    pictures = drawn_pictures((96, 96, 3))
    model = load_model("shapes", weights="", labels_file=None)

    assert np.ptp([answer[0].probability for answer in model.predict(pictures, 1)]) > 0.1


def test_an_export_keeps_what_turns_its_numbers_into_probabilities(tmp_path: Path) -> None:
    layers = keras.layers
    keras.utils.set_random_seed(3)
    last = [layers.Rescaling(1 / 255), layers.GlobalAveragePooling2D(), layers.Dense(3)]
    source = tmp_path / "source"
    source.mkdir()
    keras.Sequential([keras.Input((8, 8, 3)), *last]).save(source / "model.keras")
    (source / "labels.txt").write_text("a\nb\nc")
    (source / "imageserve.yaml").write_text("activation: sigmoid")

    run("export", str(source), "--to", str(tmp_path / "new"))

    assert 'activation: "sigmoid"\n' in (tmp_path / "new" / "imageserve.yaml").read_text()
    was, now = (
        load_model(str(tmp_path / name), weights="", labels_file=None) for name in ("source", "new")
    )
    pictures = drawn_pictures((8, 8, 3), 4)
    assert isinstance(was, ScoringModel)
    assert isinstance(now, ScoringModel)
    np.testing.assert_allclose(now.scores(pictures), was.scores(pictures), atol=1e-5)
    assert now.multi_label


@pytest.mark.parametrize(
    ("action", "said"),
    [("export", "Write a Keras model"), ("import", "Make a model folder of an ONNX file")],
)
def test_the_help_writes_names_as_they_are_written(
    action: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main([action, "--help"], {})

    assert said in capsys.readouterr().out
