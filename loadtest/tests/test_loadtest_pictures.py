"""Pictures: the expected answers are those that the service really gives."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserve.decoding import DecodingPolicy, decode
from imageserve.errors import RequestError
from imageserve.models import stand_in
from imageserve.preparation import Preparation
from imageserve_loadtest.pictures import (
    Picture,
    PictureSampler,
    PicturesError,
    broken,
    generated,
    labelled,
    stand_in_label,
    unlabelled,
)
from imageserve_loadtest.scenario import BROKEN_KINDS

IMAGES = Path(__file__).resolve().parents[2] / "loadtest" / "images"


@given(st.binary(max_size=1000))
def test_the_hash_of_pixels_is_the_same_as_in_the_stand_in(pixels: bytes) -> None:
    assert stand_in_label(pixels) == stand_in.stand_in_label(pixels)


@pytest.mark.parametrize("size", [(16, 16), (64, 96), (224, 224)], ids=str)
def test_a_generated_picture_has_the_label_that_the_stand_in_gives_it(
    size: tuple[int, int],
) -> None:
    pictures = generated(16, size, seed=1)

    for picture in pictures:
        pixels = decode(picture.data, Preparation(size), DecodingPolicy())
        assert stand_in.stand_in_label(pixels) == picture.label, picture.name
    assert {picture.name.rpartition(".")[2] for picture in pictures} == {
        "png",
        "gif",
        "webp",
        "bmp",
    }


def test_thousands_of_generated_pictures_differ_and_so_do_their_labels() -> None:
    pictures = generated(2_000, (32, 32), seed=1)

    assert len({picture.data for picture in pictures}) == 2_000
    assert len({picture.label for picture in pictures}) == 2_000


def test_the_same_seed_draws_the_same_pictures() -> None:
    assert generated(5, (16, 16), seed=1) == generated(5, (16, 16), seed=1)
    assert generated(5, (16, 16), seed=1) != generated(5, (16, 16), seed=2)


@pytest.mark.parametrize("kind", [kind for kind in BROKEN_KINDS if kind != "poison"])
def test_a_broken_picture_is_answered_with_one_of_its_codes(kind: str) -> None:
    for picture in broken([kind], (64, 64), seed=3):
        with pytest.raises(RequestError) as raised:
            decode(picture.data, Preparation((64, 64)), DecodingPolicy())
        assert raised.value.code in picture.codes, picture.name


def test_a_stand_in_fails_on_poison() -> None:
    (picture, *_) = broken(["poison"], (8, 8), seed=1)

    assert decode(picture.data, Preparation((8, 8)), DecodingPolicy())[:3] == bytes([255, 0, 255])


def test_the_shipped_pictures_have_labels() -> None:
    pictures = labelled(IMAGES)

    assert len(pictures) == len([f for f in IMAGES.iterdir() if f.suffix != ".csv"])
    assert all(picture.label and picture.data for picture in pictures)


def test_a_folder_may_have_pictures_that_are_broken_on_purpose(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label,error\na.jpg,cat,\nb.jpg,,corrupt_image\n")
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "b.jpg").write_bytes(b"b")

    assert labelled(tmp_path) == [
        Picture("a.jpg", b"a", "cat"),
        Picture("b.jpg", b"b", None, frozenset({"corrupt_image"})),
    ]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        pytest.param(None, "there is no .*labels.csv.*--learn", id="no table"),
        pytest.param("file,label\n", "names no picture", id="an empty table"),
        pytest.param("file,label\nnone.jpg,cat\n", "line 2: none.jpg cannot be read", id="no file"),
        pytest.param("file,label\na.jpg,\n", "line 2: needs a file, and either", id="no answer"),
        pytest.param("file,label,error\na.jpg,cat,x\n", "either a label or an error", id="both"),
        pytest.param("name\na.jpg\n", "line 2: needs a file", id="other columns"),
    ],
)
def test_pictures_that_cannot_be_used_are_named(
    tmp_path: Path, table: str | None, said: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    if table is not None:
        (tmp_path / "labels.csv").write_text(table)

    with pytest.raises(PicturesError, match=said):
        labelled(tmp_path)


def test_without_labels_all_files_of_a_folder_are_pictures(tmp_path: Path) -> None:
    with pytest.raises(PicturesError, match="has no files"):
        unlabelled(tmp_path)
    (tmp_path / "labels.csv").write_text("file,label\n")
    (tmp_path / "b.jpg").write_bytes(b"b")
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "folder").mkdir()

    assert unlabelled(tmp_path) == [Picture("a.jpg", b"a"), Picture("b.jpg", b"b")]


def sampler_of(
    good: int, *, share: float = 0.0, per_request: int = 1, seed: str = "1"
) -> PictureSampler:
    pictures = [Picture(str(i), b"", str(i)) for i in range(good)]
    broken = [Picture("broken", b"", None, frozenset({"x"}))]
    return PictureSampler(pictures, broken, broken_share=share, per_request=per_request, seed=seed)


def test_all_pictures_are_drawn_before_one_is_repeated() -> None:
    sampler = sampler_of(10, per_request=2)

    drawn = [picture.name for _ in range(5) for picture in sampler.draw()]

    assert sorted(drawn) == sorted(map(str, range(10)))


def test_each_pod_draws_in_its_own_order() -> None:
    orders = [
        [sampler.draw()[0].name for _ in range(50)] for sampler in (sampler_of(50), sampler_of(50))
    ]
    other = sampler_of(50, seed="2")

    assert orders[0] == orders[1]
    assert [other.draw()[0].name for _ in range(50)] != orders[0]


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.1, 50, 150), (1.0, 1000, 1000)])
def test_the_share_of_requests_with_a_broken_picture_is_as_asked_for(
    share: float, low: int, high: int
) -> None:
    sampler = sampler_of(10, share=share, per_request=3)

    broken = [sum(picture.label is None for picture in sampler.draw()) for _ in range(1000)]

    assert low <= sum(broken) <= high
    assert max(broken) <= 1
