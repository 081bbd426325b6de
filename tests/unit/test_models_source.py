"""What is loaded for a model's name or path, by which runtime, with which labels."""

from pathlib import Path

import pytest

from imageserve.errors import ModelLoadError
from imageserve.models.catalog import KNOWN
from imageserve.models.files import IMAGENET_LABELS, is_version
from imageserve.models.folder import ModelFacts
from imageserve.models.source import find_source, model_version


def folder(path: Path, *names: str, facts: str = "") -> str:
    path.mkdir()
    for name in names:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).touch()
    (path / "imageserve.yaml").write_text(facts)
    return str(path)


@pytest.mark.parametrize("name", ["model.keras", "model.onnx", "folder/"])
def test_a_path_that_cannot_be_read_is_named_with_what_to_do(name: str) -> None:
    # Too long a name: it cannot be read even by root, whom no permission stops.
    with pytest.raises(ModelLoadError, match=r"cannot be read .*: allow it"):
        find_source(f"/{'x' * 300}/{name}", "labels.txt")


def test_a_network_has_its_labels_and_its_scaling() -> None:
    source = find_source("resnet50", None)

    assert (source.runtime, source.path, source.labels) == ("keras", None, IMAGENET_LABELS)
    assert source.facts == ModelFacts((224, 224), scaling="caffe")


def test_own_labels_take_the_place_of_a_networks() -> None:
    assert find_source("resnet50", "mine.txt").labels == Path("mine.txt")


def test_the_bundled_model_is_a_file() -> None:
    assert find_source("shapes", None, "keras").path == KNOWN["shapes"].model_file


@pytest.mark.parametrize(
    ("model", "wanted", "runtime"),
    [
        pytest.param("a.keras", None, "keras", id="a Keras file"),
        pytest.param("a.keras", "keras", "keras", id="a Keras file, said so"),
        pytest.param("a.onnx", None, "onnx", id="an ONNX file"),
        pytest.param("a.onnx", "onnx", "onnx", id="an ONNX file, said so"),
    ],
)
def test_a_file_is_run_by_what_it_was_written_for(
    model: str, wanted: str | None, runtime: str
) -> None:
    source = find_source(f"/models/{model}", "labels.txt", wanted)

    assert (source.name, source.runtime) == ("a", runtime)
    assert source.path == Path("/models", model)


@pytest.mark.parametrize(
    ("names", "wanted", "file"),
    [
        pytest.param(["model.keras"], None, "model.keras", id="Keras alone"),
        pytest.param(["model.onnx"], None, "model.onnx", id="ONNX alone"),
        pytest.param(["model.keras", "model.onnx"], None, "model.keras", id="both: Keras"),
        pytest.param(["model.keras", "model.onnx"], "onnx", "model.onnx", id="both: as told"),
        pytest.param(["saved_model/saved_model.pb"], None, "saved_model", id="a SavedModel"),
        pytest.param(["saved_model.pb"], None, ".", id="a SavedModel itself"),
    ],
)
def test_a_folder_is_run_by_what_it_holds_and_what_is_wanted(
    tmp_path: Path, names: list[str], wanted: str | None, file: str
) -> None:
    facts = "input_size: 64\nscaling: torch\nversion: '7'"
    path = folder(tmp_path / "flowers", *names, "labels.txt", facts=facts)

    source = find_source(path, None, wanted)

    assert source.path == Path(path, file)
    assert (source.name, source.labels) == ("flowers", Path(path, "labels.txt"))
    assert source.facts == ModelFacts((64, 64), scaling="torch", version="7")


def test_the_settings_name_labels_for_a_folder_too(tmp_path: Path) -> None:
    path = folder(tmp_path / "flowers", "model.onnx")

    assert find_source(path, "mine.txt").labels == Path("mine.txt")


@pytest.mark.parametrize(
    ("model", "wanted", "said"),
    [
        pytest.param(
            "resnet50",
            "onnx",
            "run 'imageserve models export resnet50 --runtime onnx --to DIR', then set MODEL=DIR",
            id="a network that was not exported",
        ),
        pytest.param(
            "shapes", "onnx", "models export shapes --runtime onnx --to DIR", id="the bundled model"
        ),
        pytest.param(
            "a.keras", "onnx", "models export a.keras --runtime onnx --to DIR", id="a Keras file"
        ),
        pytest.param("a.onnx", "keras", "leave MODEL_RUNTIME out", id="ONNX for Keras"),
    ],
)
def test_the_wrong_runtime_is_refused_with_what_to_do(model: str, wanted: str, said: str) -> None:
    with pytest.raises(ModelLoadError, match=said):
        find_source(model, "labels.txt", wanted)


def test_a_folder_that_was_not_exported_is_refused_with_the_command(tmp_path: Path) -> None:
    path = folder(tmp_path / "flowers", "model.keras", "labels.txt")

    with pytest.raises(ModelLoadError, match=f"models export {path} --runtime onnx --to {path}'"):
        find_source(path, None, "onnx")


def test_an_exported_folder_is_refused_for_keras(tmp_path: Path) -> None:
    path = folder(tmp_path / "flowers", "model.onnx", "labels.txt")

    with pytest.raises(ModelLoadError, match="which is for ONNX Runtime: leave MODEL_RUNTIME out"):
        find_source(path, None, "keras")


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "flowers", "model.keras")

    with pytest.raises(ModelLoadError, match=r"put labels\.txt into the model's folder"):
        find_source(path, None)


def test_what_the_settings_say_overrides_what_the_folder_says(tmp_path: Path) -> None:
    facts = "{input_size: [64, 48], interpolation: box}"
    path = folder(tmp_path / "flowers", "model.keras", "labels.txt", facts=facts)

    source = find_source(path, None, given=ModelFacts((64, 64), resize="pad"))

    assert source.facts == ModelFacts((64, 64), "box", resize="pad")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        pytest.param(
            [],
            "holds no model: put model.keras, saved_model/, model.onnx or onnx/model.onnx into it",
            id="empty",
        ),
        pytest.param(
            ["model.keras", "labels.txt", "labels.json"],
            "holds labels.txt and labels.json: keep one",
            id="labels twice",
        ),
        pytest.param(
            ["model.keras", "saved_model/saved_model.pb"],
            "holds model.keras and saved_model: keep one",
            id="two for Keras",
        ),
    ],
)
def test_a_folder_that_is_not_clear_is_refused(tmp_path: Path, names: list[str], said: str) -> None:
    with pytest.raises(ModelLoadError, match=said):
        find_source(folder(tmp_path / "flowers", *names), None)


def test_a_file_in_the_old_format_of_keras_is_answered_with_how_to_write_it_anew(
    tmp_path: Path,
) -> None:
    (tmp_path / "model.h5").touch()

    with pytest.raises(ModelLoadError, match=r"is in HDF5, .* write it anew with keras"):
        find_source(str(tmp_path / "model.h5"), None)
    with pytest.raises(ModelLoadError, match=r"is in HDF5, .* write it anew with keras"):
        find_source(f"{tmp_path}/", None)


def test_a_file_of_weights_alone_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.weights.h5").touch()

    with pytest.raises(ModelLoadError, match="holds weights alone: save the whole model"):
        find_source(str(tmp_path / "mine.weights.h5"), None)


def test_another_file_in_place_of_a_folder_is_answered_with_the_endings_that_are_known(
    tmp_path: Path,
) -> None:
    (tmp_path / "model.pt").touch()

    with pytest.raises(ModelLoadError, match=r"a model in one file ends in \.keras or \.onnx"):
        find_source(str(tmp_path / "model.pt"), None)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="nowhere does not exist: correct its path"):
        find_source(str(tmp_path / "nowhere"), None)


# -- the version ----------------------------------------------------------------------------------


def version_of(model: str, labels: list[str], labels_file: str | None = None) -> str:
    return model_version(find_source(model, labels_file), "0123456789ab", labels)


def test_labels_and_facts_are_part_of_the_version(tmp_path: Path) -> None:
    path = folder(tmp_path / "flowers", "model.keras", "labels.txt")
    versions = [version_of(path, ["rose", "tulip"]), version_of(path, ["rose", "iris"])]
    for facts in ("scaling: torch", "interpolation: box", "input_size: 8", "input_size: [8, 9]"):
        Path(path, "imageserve.yaml").write_text(facts)
        versions.append(version_of(path, ["rose", "tulip"]))

    assert len(set(versions)) == len(versions)
    assert all(is_version(each) and each.startswith("0123456789ab-") for each in versions)


def test_a_version_that_the_folder_names_is_shown_as_it_is(tmp_path: Path) -> None:
    path = folder(tmp_path / "flowers", "model.keras", "labels.txt", facts="version: spring")

    assert version_of(path, ["rose"]) == version_of(path, ["tulip"]) == "spring"


def test_what_changes_nothing_leaves_the_version(tmp_path: Path) -> None:
    path = folder(tmp_path / "flowers", "model.keras", "labels.txt")
    before = version_of(path, ["rose"])

    Path(path, "imageserve.yaml").write_text("# What it needs:\nscaling: none\n")

    assert version_of(path, ["rose"]) == before


def test_the_version_of_a_model_of_imageserve_is_that_of_its_weights() -> None:
    assert version_of("resnet50", ["tench"]) == "0123456789ab"
    assert version_of("resnet50", ["Schleie"], "mine.txt").startswith("0123456789ab-")


def test_the_longest_version_of_weights_leaves_room_for_the_rest() -> None:
    source = find_source("a.onnx", "labels.txt")

    assert is_version(model_version(source, "x" * 64, ["a"]))
