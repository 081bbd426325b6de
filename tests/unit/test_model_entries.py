"""Model entries: one model from plain settings, or several from MODELS_FILE."""

from pathlib import Path

import pytest

from imageserve.config.settings import Settings
from imageserve.errors import SettingsError
from imageserve.models import Engine
from imageserve.models.entries import (
    ModelEntry,
    engine_of,
    load_entry,
    model_entries,
    worker_entry,
)
from imageserve.models.folder import ModelFacts
from imageserve.preparation import Preparation

SEVERAL = """
flowers:
  queue: flower_queue
  network: /models/flowers.keras
  input_size: [120, 160]
  interpolation: bicubic
  weights: random
  labels: /models/flowers.txt
resnet50:
  queue: resnet_queue
small:
  queue: small_queue
  network: stand-in:size=32
  input_size: 64
"""


def settings(**environ: str) -> Settings:
    return Settings.from_env(environ)


def from_file(tmp_path: Path, content: str | bytes, **environ: str) -> Settings:
    file = tmp_path / "models.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return settings(MODELS_FILE=str(file), **environ)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param(
            {}, ModelEntry("shapes", "image_queue", Preparation((96, 96))), id="nothing set"
        ),
        pytest.param(
            {"MODEL": "resnet50", "IMAGE_QUEUE": "q", "MODEL_WEIGHTS": "random"},
            ModelEntry(
                "resnet50", "q", Preparation((224, 224)), network="resnet50", weights="random"
            ),
            id="a network",
        ),
        pytest.param(
            {"MODEL": "resnet50", "INPUT_SIZE": "160", "INTERPOLATION": "box"},
            ModelEntry(
                "resnet50",
                "image_queue",
                Preparation((160, 160), interpolation="box"),
                "resnet50",
                given=ModelFacts((160, 160), "box"),
            ),
            id="a network at another size",
        ),
        pytest.param(
            {"MODEL": "/models/flowers.keras", "INPUT_SIZE": "64x32"},
            ModelEntry(
                "flowers",
                "image_queue",
                Preparation((64, 32)),
                network="/models/flowers.keras",
                given=ModelFacts((64, 32)),
            ),
            id="a file is named without its folder and ending",
        ),
        pytest.param(
            {"MODEL": "stand-in:size=64"},
            ModelEntry(
                "stand-in", "image_queue", Preparation((64, 64)), network="stand-in:size=64"
            ),
            id="a stand-in is named without its options",
        ),
    ],
)
def test_plain_settings_are_one_model(environ: dict[str, str], expected: ModelEntry) -> None:
    read = settings(**environ)

    assert model_entries(read) == {expected.name: expected}
    assert worker_entry(read) == expected


@pytest.mark.parametrize("model", ["flowers.keras", "flowers.onnx", "./flowers"])
@pytest.mark.parametrize("interpolation", ["", "box"])
def test_what_a_file_elsewhere_needs_is_not_known(model: str, interpolation: str) -> None:
    assert worker_entry(settings(MODEL=model, INTERPOLATION=interpolation)).preparation is None


FACTS = "input_size: [120, 160]\ninterpolation: bicubic"


def flowers(tmp_path: Path, facts: str = FACTS) -> str:
    folder = tmp_path / "flowers"
    folder.mkdir()
    (folder / "imageserve.yaml").write_text(facts)
    return str(folder)


def test_size_and_interpolation_come_from_the_folder(tmp_path: Path) -> None:
    folder = flowers(tmp_path)

    entry = worker_entry(settings(MODEL=folder))

    expected = ModelEntry(
        "flowers", "image_queue", Preparation((120, 160), interpolation="bicubic"), folder
    )
    assert entry == expected
    over = worker_entry(settings(MODEL=f"{folder}/", INTERPOLATION="box"))
    assert over.preparation == Preparation((120, 160), interpolation="box")
    assert over.given == ModelFacts(interpolation="box")


def test_values_that_an_entry_lacks_come_from_its_folder(tmp_path: Path) -> None:
    folder = flowers(tmp_path)

    def entry(more: str = "") -> ModelEntry:
        content = f"f: {{queue: q, network: {folder}{more}}}"
        return worker_entry(from_file(tmp_path, content))

    assert entry() == ModelEntry("f", "q", Preparation((120, 160), interpolation="bicubic"), folder)
    assert entry(", interpolation: box, input_size: 64") == ModelEntry(
        "f",
        "q",
        Preparation((64, 64), interpolation="box"),
        folder,
        given=ModelFacts((64, 64), "box"),
    )


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param("size: 7", id="an unknown key"),
        pytest.param("input_size: 9\nresize_to: 8\nresize: crop", id="sizes that do not fit"),
    ],
)
def test_what_a_folder_says_wrong_is_left_to_who_loads_it(tmp_path: Path, facts: str) -> None:
    folder = flowers(tmp_path, facts)

    assert worker_entry(settings(MODEL=folder)).preparation is None
    file = from_file(tmp_path, f"f: {{queue: q, network: {folder}}}")
    assert worker_entry(file).preparation is None


@pytest.mark.parametrize("facts", ["resize: crop\nresize_to: 32\ninput_size: 32", "pad: [", ""])
def test_settings_that_need_their_folder_are_left_to_who_loads_it(
    tmp_path: Path, facts: str
) -> None:
    folder = flowers(tmp_path, facts)
    bars = from_file(tmp_path, f"f: {{queue: q, network: {folder}, input_size: 64, pad: 114}}")

    assert worker_entry(bars).preparation is None
    if facts.startswith("resize"):
        assert worker_entry(settings(MODEL=folder, INPUT_SIZE="64")).preparation is None


def test_settings_that_do_not_fit_together_stop_with_their_reason(tmp_path: Path) -> None:
    content = "f: {queue: q, network: f.onnx, input_size: 9, resize: crop, resize_to: 8}"

    with pytest.raises(SettingsError, match="'resize_to' is 8 and a side of the input 9"):
        worker_entry(from_file(tmp_path, content))


def test_a_model_is_loaded_under_the_name_of_its_entry() -> None:
    entry = ModelEntry("small", "q", Preparation((32, 32)), network="stand-in:size=32,version=3")

    model = load_entry(entry, engine_of(settings()))

    assert (model.name, model.version, model.preparation.size) == ("small", "3", (32, 32))


def test_the_engine_comes_from_the_settings() -> None:
    everything = {
        "MODEL_RUNTIME": "onnx",
        "KERAS_BACKEND": "jax",
        "PRECISION": "bfloat16",
        "XLA": "1",
        "MODEL_THREADS": "3",
    }

    assert engine_of(settings()) == Engine()
    assert engine_of(settings(**everything)) == Engine("onnx", "jax", "bfloat16", True, 3)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(SettingsError, match="MODEL: unknown model 'resnet51'"):
        model_entries(settings(MODEL="resnet51"))


def test_labels_come_from_their_setting(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.touch()

    entry = worker_entry(settings(MODEL="a.keras", INPUT_SIZE="8", MODEL_LABELS=str(labels)))

    assert entry.labels == str(labels)


def test_a_file_names_several_models_and_the_first_is_the_default(tmp_path: Path) -> None:
    read = from_file(tmp_path, SEVERAL, INTERPOLATION="nearest", MODEL_WEIGHTS="imagenet")

    entries = model_entries(read)

    assert list(entries.values()) == [
        ModelEntry(
            "flowers",
            "flower_queue",
            Preparation((120, 160), interpolation="bicubic"),
            "/models/flowers.keras",
            "random",
            "/models/flowers.txt",
            ModelFacts((120, 160), "bicubic"),
        ),
        ModelEntry(
            "resnet50",
            "resnet_queue",
            Preparation((224, 224), interpolation="nearest"),
            "resnet50",
            given=ModelFacts(interpolation="nearest"),
        ),
        ModelEntry(
            "small",
            "small_queue",
            Preparation((64, 64), interpolation="nearest"),
            "stand-in:size=32",
            given=ModelFacts((64, 64), "nearest"),
        ),
    ]
    assert worker_entry(read) == entries["flowers"]


def test_model_chooses_the_entry_that_a_worker_serves(tmp_path: Path) -> None:
    assert worker_entry(from_file(tmp_path, SEVERAL, MODEL="small")).queue == "small_queue"


def test_a_worker_of_a_model_that_is_not_in_the_file_stops(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MODEL: 'vgg' is not in MODELS_FILE, which has flow"):
        worker_entry(from_file(tmp_path, SEVERAL, MODEL="vgg"))


def test_an_empty_value_counts_as_left_out(tmp_path: Path) -> None:
    content = "shapes: {queue: q, network: , weights: '', labels: '', input_size: }"

    assert worker_entry(from_file(tmp_path, content)) == ModelEntry(
        "shapes", "q", Preparation((96, 96))
    )


def test_a_number_may_be_a_models_name(tmp_path: Path) -> None:
    assert list(model_entries(from_file(tmp_path, "7: {queue: q, network: shapes}"))) == ["7"]


SHAPES = "network: shapes"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("", "must map at least one name", id="nothing"),
        pytest.param("- shapes", "must map at least one name", id="a list"),
        pytest.param("{}", "must map at least one name", id="no model"),
        pytest.param("a: [", "is not valid YAML", id="not YAML"),
        pytest.param(b"\xff\xfe\xfa", "is not valid YAML", id="not text"),
        pytest.param("shapes:", "shapes: must be a mapping", id="an empty entry"),
        pytest.param("shapes: q", "shapes: must be a mapping", id="an entry of text"),
        pytest.param(
            "shapes: {list: q}", "shapes.list: is unknown; known are queue", id="an unknown key"
        ),
        pytest.param("shapes: {}", "shapes.queue: is missing", id="no queue"),
        pytest.param("shapes: {queue: 'a b'}", "shapes.queue: must be 1 to 200", id="a space"),
        pytest.param(
            "shapes: {queue: 3}", "shapes.queue: must be 1 to 200", id="a number for a queue"
        ),
        pytest.param(
            "shapes: {queue: q, interpolation: cubic}", "interpolation: must be one of", id="cubic"
        ),
        pytest.param("shapes: {queue: q, input_size: big}", "input_size: must be", id="size: text"),
        pytest.param(
            f"a: {{queue: q, {SHAPES}}}\nb: {{queue: q, {SHAPES}}}", "share a queue", id="shared"
        ),
    ],
)
def test_a_file_that_cannot_be_used_stops_with_its_reason(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    read = from_file(tmp_path, content)

    with pytest.raises(SettingsError, match=said) as caught:
        model_entries(read)

    assert str(caught.value).startswith("MODELS_FILE: ")


def test_a_file_that_vanished_stops_with_its_reason(tmp_path: Path) -> None:
    read = from_file(tmp_path, SEVERAL)
    (tmp_path / "models.yaml").unlink()

    with pytest.raises(SettingsError, match=r"MODELS_FILE: .*models\.yaml: cannot be read"):
        model_entries(read)
