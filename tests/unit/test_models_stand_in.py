import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import imageserve
from imageserve.errors import ModelLoadError, ModelOutOfMemory
from imageserve.models.folder import ModelFacts
from imageserve.models.stand_in import (
    StandIn,
    is_stand_in,
    parse_stand_in,
    stand_in_class,
    stand_in_label,
)
from imageserve.predictions import Asked
from imageserve.preparation import Preparation

RAISES, DIES, NO_MEMORY = (255, 0, 255), (0, 255, 255), (255, 255, 0)


def pictures(n: int, size: int = 4) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 200, (n, size, size, 3), dtype=np.uint8)


def poisoned(n: int, first_pixel: tuple[int, int, int]) -> NDArray[np.uint8]:
    images = pictures(n)
    images[-1, 0, 0] = first_pixel
    return images


def slept_ms(model: str, n: int) -> float:
    slept: list[float] = []
    made = parse_stand_in(model)
    StandIn(
        made.preparation, batch_ms=made.batch_ms, image_ms=made.image_ms, sleep=slept.append
    ).predict(pictures(n), top=1)
    return sum(slept) * 1000


def test_each_picture_gets_the_fingerprint_of_its_own_pixels() -> None:
    images = pictures(3)

    answers = StandIn(sleep=lambda _: None).predict(images, top=1)

    assert [a[0].label for a in answers] == [stand_in_label(i.tobytes()) for i in images]
    assert len({a[0].label for a in answers}) == 3


def test_the_fingerprint_is_twelve_hexadecimal_digits_of_blake2b() -> None:
    assert stand_in_label(b"pixels") == "918861296737"


def test_the_runners_up_are_fillers_with_falling_probabilities() -> None:
    (answer,) = StandIn(sleep=lambda _: None).predict(pictures(1), top=4)

    assert [p.label for p in answer[1:]] == ["other-1", "other-2", "other-3"]
    assert [p.probability for p in answer] == pytest.approx([0.9, 0.05, 0.025, 0.0125])


def test_no_more_predictions_than_classes_are_given() -> None:
    model = StandIn(sleep=lambda _: None)

    (answer,) = model.predict(pictures(1), top=5000)

    assert len(answer) == model.classes
    assert sum(p.probability for p in answer) <= 1


@pytest.mark.parametrize(
    ("model", "n", "expected_ms"),
    [
        pytest.param("stand-in", 1, 15.5, id="one picture"),
        pytest.param("stand-in", 32, 31, id="a batch"),
        pytest.param("stand-in:batch_ms=400,image_ms=0", 8, 400, id="a cost for the batch"),
        pytest.param("stand-in:batch_ms=0,image_ms=2.5", 8, 20, id="a cost for each picture"),
    ],
)
def test_a_call_takes_the_declared_time(model: str, n: int, expected_ms: float) -> None:
    assert slept_ms(model, n) == pytest.approx(expected_ms)


@pytest.mark.parametrize(
    ("model", "demanded", "expected"),
    [
        pytest.param("stand-in", None, (224, 224), id="default"),
        pytest.param("stand-in:size=64", None, (64, 64), id="an option"),
        pytest.param("stand-in: size = 64 , batch_ms = 0", None, (64, 64), id="spaces"),
        pytest.param("stand-in", (96, 48), (96, 48), id="demanded by the settings"),
        pytest.param("stand-in:size=64", (64, 64), (64, 64), id="both, and equal"),
    ],
)
def test_the_size_comes_from_the_name_or_the_settings(
    model: str, demanded: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    assert parse_stand_in(model, ModelFacts(demanded)).preparation.size == expected


def test_the_settings_say_how_its_pictures_are_prepared() -> None:
    given = ModelFacts(interpolation="box", resize="crop", colour="grey")

    made = parse_stand_in("stand-in:size=64", given)

    assert made.preparation == Preparation((64, 64), "crop", interpolation="box", colour="grey")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param("stand-in:speed=9", "unknown option 'speed'; known are batch_ms", id="key"),
        pytest.param("stand-in:", "unknown option ''", id="nothing after the colon"),
        pytest.param("stand-in:size", "size= is not allowed", id="no value"),
        pytest.param("stand-in:batch_ms=-1", "0 or more", id="negative time"),
        pytest.param("stand-in:image_ms=inf", "0 or more", id="endless time"),
        pytest.param("stand-in:image_ms=soon", "0 or more", id="a word for a time"),
        pytest.param("stand-in:size=0", "whole pixels", id="no pixels"),
        pytest.param("stand-in:size=12.5", "whole pixels", id="half a pixel"),
        pytest.param("stand-in:size=99999", "whole pixels", id="too many pixels"),
        pytest.param("stand-in:poison=yes", "0 or 1", id="a word for a switch"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(model: str, message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        parse_stand_in(model)


def test_a_size_other_than_the_settings_demand_is_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"64x64 .* and the settings demand 224x224"):
        parse_stand_in("stand-in:size=64", ModelFacts((224, 224)))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        pytest.param("stand-in", True, id="plain"),
        pytest.param("stand-in:size=64", True, id="with options"),
        pytest.param("stand-in-2", False, id="only the beginning"),
        pytest.param("resnet50", False, id="a network"),
    ],
)
def test_a_stand_in_is_known_by_its_name(model: str, expected: bool) -> None:
    assert is_stand_in(model) is expected


def test_poison_raises() -> None:
    with pytest.raises(RuntimeError, match="poison"):
        parse_stand_in("stand-in:poison=1,batch_ms=0").predict(poisoned(3, RAISES), top=1)


def test_poison_runs_out_of_memory_unless_the_picture_is_alone() -> None:
    model = parse_stand_in("stand-in:poison=1,batch_ms=0,image_ms=0")

    with pytest.raises(ModelOutOfMemory, match="batch of 2"):
        model.predict(poisoned(2, NO_MEMORY), top=1)
    assert len(model.predict(poisoned(1, NO_MEMORY), top=1)) == 1


def test_poison_ends_the_process_at_once() -> None:
    code = """
import atexit, numpy
from imageserve.models.stand_in import parse_stand_in
atexit.register(print, "cleaned up")
image = numpy.zeros((1, 2, 2, 3), numpy.uint8)
image[0, 0, 0] = 0, 255, 255
parse_stand_in("stand-in:poison=1").predict(image, 1)
"""
    source = str(Path(imageserve.__file__).parents[1])

    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")


@pytest.mark.parametrize("first_pixel", [RAISES, NO_MEMORY, DIES])
def test_without_the_option_nothing_is_poison(first_pixel: tuple[int, int, int]) -> None:
    model = StandIn(batch_ms=0, image_ms=0)

    assert len(model.predict(poisoned(2, first_pixel), top=1)) == 2


def test_its_scores_and_its_embedding_belong_to_the_picture() -> None:
    model = parse_stand_in("stand-in:batch_ms=0,image_ms=0,classes=50,embedding=20")
    pictures = np.stack([np.full((2, 2, 3), n, np.uint8) for n in range(3)])

    answers, vectors = model.predict_more(pictures, [Asked(1, want="embedding")] * 3)

    labels = [answer[0].label for answer in answers]
    assert vectors["scores"].shape == (3, 50)
    assert vectors["scores"].argmax(axis=1).tolist() == [stand_in_class(x, 50) for x in labels]
    embedding = vectors["embedding"].astype(np.uint8).tolist()
    assert [bytes(row) for row in embedding] == [(x * 2)[:20].encode() for x in labels]
    assert model.outputs.vectors == ("scores", "embedding")


def test_it_gives_as_many_labels_as_it_has_classes() -> None:
    model = parse_stand_in("stand-in:batch_ms=0,image_ms=0,classes=3000")

    (answer,) = model.predict(np.zeros((1, 2, 2, 3), np.uint8), 3000)

    assert len({prediction.label for prediction in answer}) == 3000


def test_without_the_option_it_has_no_embedding() -> None:
    model = parse_stand_in("stand-in:batch_ms=0,image_ms=0")

    _, vectors = model.predict_more(np.zeros((1, 2, 2, 3), np.uint8), [Asked(1, want="embedding")])

    assert model.outputs.vectors == ("scores",)
    assert [*vectors] == ["scores"]
