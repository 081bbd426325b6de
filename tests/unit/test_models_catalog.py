import subprocess
import sys
from pathlib import Path

import pytest

import imageserve
from imageserve.errors import ModelLoadError
from imageserve.models import load_model
from imageserve.models.catalog import default_input_size, short_name
from imageserve.models.folder import ModelFacts


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param("resnet50", (224, 224), id="ResNet-50"),
        pytest.param("xception", (299, 299), id="Xception"),
        pytest.param("shapes", (96, 96), id="the bundled model"),
        pytest.param("stand-in", (224, 224), id="stand-in"),
        pytest.param("stand-in:size=64,batch_ms=1", (64, 64), id="stand-in with a size"),
        pytest.param("/models/flowers.keras", None, id="a file, which only loading can tell"),
        pytest.param("flowers.onnx", None, id="an exported file"),
        pytest.param("./flowers", None, id="a folder"),
    ],
)
def test_the_input_size_is_known_without_loading(
    model: str, expected: tuple[int, int] | None
) -> None:
    assert default_input_size(model) == expected


@pytest.mark.parametrize(
    ("model", "said"),
    [
        pytest.param("ResNet50V2", "did you mean resnet50_v2 or", id="Keras's own name"),
        pytest.param("mobilenet-v2", "did you mean mobilenet_v2 or", id="a dash"),
        pytest.param("", "unknown model '': 'imageserve models list' shows", id="nothing"),
        pytest.param("flowers.h5", "a file ends in .keras or .onnx", id="another ending"),
        pytest.param("daisies", "a folder is written with a slash", id="a folder without slash"),
    ],
)
def test_an_unknown_model_is_answered_with_what_it_may_be_called(model: str, said: str) -> None:
    with pytest.raises(ModelLoadError, match=said):
        default_input_size(model)
    with pytest.raises(ModelLoadError, match=said):
        load_model(model, weights="imagenet", labels_file=None)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("resnet50", "resnet50"),
        ("stand-in:size=64", "stand-in"),
        ("/models/flowers.keras", "flowers"),
        ("/models/flowers.onnx", "flowers"),
        ("/models/flowers/", "flowers"),
        ("models/v1.2", "v1.2"),
    ],
)
def test_a_model_goes_by_a_short_name(model: str, name: str) -> None:
    assert short_name(model) == name


def test_a_stand_in_is_loaded_with_its_options_and_the_size_of_the_settings() -> None:
    model = load_model(
        "stand-in:batch_ms=0", weights="", labels_file=None, given=ModelFacts((96, 48))
    )

    assert (model.name, model.preparation.size, model.classes) == ("stand-in", (96, 48), 1000)


def test_a_classifier_file_without_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flowers.keras"
    path.touch()
    with pytest.raises(ModelLoadError, match=r"flowers\.keras has no labels: name a labels file"):
        load_model(str(path), weights="", labels_file=None)


def test_a_missing_labels_file_is_named() -> None:
    with pytest.raises(ModelLoadError, match=r"nowhere\.txt does not exist"):
        load_model("resnet50", weights="random", labels_file="nowhere.txt")


@pytest.mark.parametrize(
    "work",
    [
        pytest.param("import imageserve.models.catalog", id="the catalog"),
        pytest.param("import imageserve.models.entries", id="the entries"),
        pytest.param("import imageserve.models.runtimes", id="the table of runtimes"),
        pytest.param("import imageserve.models.source", id="finding a model"),
        pytest.param("import imageserve.cli.models", id="the command"),
        pytest.param("import imageserve.models.stand_in", id="the stand-in's module"),
        pytest.param(
            "from imageserve.models import load_model;"
            "load_model('stand-in', weights='', labels_file=None)",
            id="loading a stand-in",
        ),
    ],
)
def test_no_heavy_library_comes_along(work: str) -> None:
    heavy = "{'numpy', 'keras', 'tensorflow', 'onnxruntime', 'PIL'}"
    code = f"import sys; {work}; print(sorted({heavy} & set(sys.modules)))"
    source = str(Path(imageserve.__file__).parents[1])

    printed = subprocess.check_output([sys.executable, "-c", code], cwd=source, text=True)

    assert printed == "[]\n"
