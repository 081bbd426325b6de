import subprocess
import sys
from pathlib import Path

import pytest

import imageserve
from imageserve.errors import ModelLoadError
from imageserve.models import load_model
from imageserve.models.catalog import default_input_size


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param("resnet50", (224, 224), id="ResNet-50"),
        pytest.param("mobilenet_v2", (224, 224), id="MobileNetV2"),
        pytest.param("shapes", (96, 96), id="the bundled model"),
        pytest.param("stand-in", (224, 224), id="stand-in"),
        pytest.param("stand-in:size=64,batch_ms=1", (64, 64), id="stand-in with a size"),
        pytest.param("/models/flowers.keras", None, id="a file, which only loading can tell"),
    ],
)
def test_the_input_size_is_known_without_loading(
    model: str, expected: tuple[int, int] | None
) -> None:
    assert default_input_size(model) == expected


@pytest.mark.parametrize("model", ["resnet", "", "flowers.h5"])
def test_an_unknown_model_is_answered_with_the_known_ones(model: str) -> None:
    known = "known are resnet50, mobilenet_v2, shapes, stand-in, and the path of a .keras file"

    with pytest.raises(ModelLoadError, match=known):
        default_input_size(model)
    with pytest.raises(ModelLoadError, match=known):
        load_model(model, weights="imagenet", labels_file=None, input_size=None)


def test_a_stand_in_is_loaded_with_its_options_and_the_size_of_the_settings() -> None:
    model = load_model("stand-in:batch_ms=0", weights="", labels_file=None, input_size=(96, 48))

    assert (model.name, model.input_size, model.classes) == ("stand-in", (96, 48), 1000)


def test_a_classifier_file_without_labels_is_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"flowers\.keras has no labels: name a labels file"):
        load_model("flowers.keras", weights="", labels_file=None, input_size=None)


def test_a_missing_labels_file_is_named() -> None:
    with pytest.raises(ModelLoadError, match=r"nowhere\.txt does not exist"):
        load_model("resnet50", weights="random", labels_file="nowhere.txt", input_size=None)


@pytest.mark.parametrize(
    "work",
    [
        pytest.param("import imageserve.models.catalog", id="the catalog"),
        pytest.param("import imageserve.models.stand_in", id="the stand-in's module"),
        pytest.param(
            "from imageserve.models import load_model;"
            "load_model('stand-in', weights='', labels_file=None, input_size=None)",
            id="loading a stand-in",
        ),
    ],
)
def test_no_heavy_library_comes_along(work: str) -> None:
    heavy = "{'numpy', 'keras', 'tensorflow'}"
    code = f"import sys; {work}; print(sorted({heavy} & set(sys.modules)))"
    source = str(Path(imageserve.__file__).parents[1])

    printed = subprocess.check_output([sys.executable, "-c", code], cwd=source, text=True)

    assert printed == "[]\n"
