"""A preparation: what fits together, its fingerprint, its JSON, and its geometry."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from imageserve.config.choices import CROP_ROUNDINGS, INTERPOLATIONS, RESIZES
from imageserve.preparation import (
    COLOURS,
    LONGEST_SIDE,
    Geometry,
    Preparation,
    decode_preparation,
    encode_preparation,
)

SIDES = st.integers(1, LONGEST_SIDE)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "size": st.lists(SIDES, min_size=2, max_size=2),
    "resize": st.sampled_from(RESIZES),
    "resize_to": SIDES,
    "interpolation": st.sampled_from(INTERPOLATIONS),
    "antialias": st.booleans(),
    "colour": st.sampled_from(list(COLOURS)),
    "pad": st.integers(0, 255),
    "crop_rounding": st.sampled_from(CROP_ROUNDINGS),
}


@st.composite
def preparations(draw: st.DrawFn) -> Preparation:
    others = {key: value for key, value in FIELDS.items() if key != "size"}
    told: dict[str, Any] = draw(st.fixed_dictionaries({"size": FIELDS["size"]}, optional=others))
    try:
        return Preparation(**{**told, "size": tuple(told["size"])})
    except ValueError:
        assume(False)
        raise


# -- what fits together ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"resize": "pad", "resize_to": 256},
            "'resize_to' is for 'resize: crop' and 'resize: squash': leave it out, or choose one",
        ),
        (
            {"resize": "crop", "resize_to": 223},
            "'resize_to' is 223 and a side of the input 224: make 'resize_to' at least as large",
        ),
        ({"pad": 1}, "'pad' is for 'resize: pad': choose this, or leave 'pad' out"),
        ({"resize": "crop", "pad": 255}, "'pad' is for 'resize: pad': choose this"),
        (
            {"antialias": False, "interpolation": "bicubic"},
            "'antialias: false' does not go with 'interpolation: bicubic': choose nearest or bil",
        ),
        ({"crop_rounding": "down"}, "'crop_rounding' is for 'resize_to': set this, or leave both"),
    ],
    ids=str,
)
def test_fields_that_do_not_fit_together_are_refused_with_what_to_do(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Preparation((112, 224), **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"resize": "crop", "resize_to": 224},
        {"resize": "squash", "resize_to": 256, "crop_rounding": "down"},
        {"resize": "pad", "pad": 255},
        {"antialias": False},
        {"antialias": False, "interpolation": "nearest", "resize": "crop"},
    ],
    ids=str,
)
def test_fields_that_fit_together_are_a_preparation(fields: dict[str, Any]) -> None:
    assert Preparation((112, 224), **fields).shape == (112, 224, 3)


@pytest.mark.parametrize(("colour", "count"), COLOURS.items())
def test_the_bytes_are_counted_by_the_colours(colour: str, count: int) -> None:
    preparation = Preparation((5, 7), colour=colour)

    assert preparation.shape == (5, 7, count)
    assert preparation.bytes == 35 * count


# -- the fingerprint -------------------------------------------------------------------------------


def test_the_fingerprint_stays_the_same_in_later_releases() -> None:
    # Pods of two releases side by side compare it.
    crop = Preparation((224, 224), "crop", 256, "bicubic")

    assert Preparation((224, 224)).fingerprint == "c5f15cc91353"
    assert crop.fingerprint == "3eb20dbfde65"


@given(preparations(), preparations())
def test_two_preparations_share_a_fingerprint_only_if_they_are_equal(
    one: Preparation, other: Preparation
) -> None:
    assert (one.fingerprint == other.fingerprint) == (one == other)


def test_each_field_counts_for_the_fingerprint() -> None:
    crop = Preparation((8, 9), "crop", 16)
    all_of_them = [
        crop,
        replace(crop, size=(9, 8)),
        replace(crop, resize="squash"),
        replace(crop, resize_to=17),
        replace(crop, interpolation="nearest"),
        replace(crop, antialias=False),
        replace(crop, colour="grey"),
        replace(crop, crop_rounding="down"),
        Preparation((8, 9), "pad"),
        Preparation((8, 9), "pad", pad=1),
    ]

    assert len({each.fingerprint for each in all_of_them}) == len(all_of_them)


# -- as JSON ---------------------------------------------------------------------------------------


def test_defaults_are_left_out() -> None:
    assert encode_preparation(Preparation((8, 9))) == {"size": [8, 9]}


@given(preparations())
def test_what_was_written_is_read(preparation: Preparation) -> None:
    assert (
        decode_preparation(json.loads(json.dumps(encode_preparation(preparation)))) == preparation
    )


@given(JSON | st.fixed_dictionaries({}, optional={key: FIELDS[key] | JSON for key in FIELDS}))
def test_whatever_is_read_is_a_preparation_or_a_value_error(told: Any) -> None:
    try:
        read = decode_preparation(told)
    except ValueError:
        return
    assert decode_preparation(encode_preparation(read)) == read
    assert all(value == getattr(read, key) for key, value in told.items() if key != "size")


@pytest.mark.parametrize(
    "told",
    [
        None,
        [224, 224],
        {},
        {"resize": "crop"},
        {"size": 224},
        {"size": [224]},
        {"size": [224, 224.0]},
        {"size": [True, 224]},
        {"size": [0, 224]},
        {"size": [LONGEST_SIDE + 1, 224]},
        {"size": [8, 8], "resize": "stretch"},
        {"size": [8, 8], "resize": ["crop"]},
        {"size": [8, 8], "resize": "crop", "resize_to": None},
        {"size": [8, 8], "resize": "crop", "resize_to": 7},
        {"size": [8, 8], "antialias": 1},
        {"size": [8, 8], "colour": "bgr"},
        {"size": [8, 8], "pad": 256, "resize": "pad"},
        {"size": [8, 8], "crop_rounding": "up"},
        {"size": [8, 8], "sharpen": True},
    ],
    ids=str,
)
def test_anything_else_is_no_preparation(told: Any) -> None:
    with pytest.raises(ValueError, match=r"preparation (has|is no object)|resize_to"):
        decode_preparation(told)


# -- geometry --------------------------------------------------------------------------------------


@given(preparations(), SIDES, SIDES)
def test_a_part_of_the_picture_fills_the_result_or_fits_into_it(
    preparation: Preparation, width: int, height: int
) -> None:
    found = preparation.geometry(width, height)

    left, top, right, bottom = found.box
    assert 0 <= left < right <= width * (1 + 1e-9)
    assert 0 <= top < bottom <= height * (1 + 1e-9)
    for side, begin, wanted in zip(found.size, found.corner, preparation.size, strict=True):
        assert side >= 1
        if preparation.resize == "pad":
            assert begin >= 0
            assert begin + side <= wanted
        else:
            assert begin <= 0
            assert begin + side >= wanted


def test_only_the_middle_of_a_long_picture_is_resized() -> None:
    preparation = Preparation((24, 20), "crop", 30)

    assert preparation.geometry(80, 10) == Geometry((0, 0, 80, 10), (30, 240), (-3, -110))
    assert preparation.geometry(300, 30) == Geometry((140, 3, 160, 27), (24, 20), (0, 0))
    assert preparation.geometry(1, 60_000).size == (24, 20)


def test_nothing_of_a_picture_is_lost_to_rounding() -> None:
    assert Preparation((8, 8), "pad").geometry(1, 60_000).size == (8, 1)
    assert Preparation((4_096, 8), "crop").geometry(1, 1).box == (0, 0, 1, 1)
