"""The imageserve.yaml of a model folder."""

import re
from dataclasses import astuple
from pathlib import Path

import pytest

from imageserve.errors import ModelLoadError
from imageserve.models.catalog import SCALINGS, Scaling
from imageserve.models.folder import ModelFacts, read_facts
from imageserve.preparation import Preparation

ROOT = Path(__file__).parents[2]

UNREADABLE = Path("/", "x" * 300)
"""Too long a name: it cannot be read even by root, whom no permission stops."""


def write(folder: Path, facts: str | bytes | None) -> Path:
    if facts is not None:
        content = facts.encode() if isinstance(facts, str) else facts
        (folder / "imageserve.yaml").write_bytes(content)
    return folder


def test_a_folder_that_cannot_be_read_is_named_with_what_to_do() -> None:
    with pytest.raises(ModelLoadError, match=r"cannot be read .*: allow it"):
        read_facts(UNREADABLE)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(None, ModelFacts(), id="no file"),
        pytest.param("# nothing yet\n", ModelFacts(), id="nothing"),
        pytest.param("input_size: 64", ModelFacts((64, 64)), id="one number is both"),
        pytest.param("input_size: [64, 48]", ModelFacts((64, 48)), id="height and width"),
        pytest.param("version: 3", ModelFacts(version="3"), id="a whole number"),
        pytest.param("version: '2.10'", ModelFacts(version="2.10"), id="digits in quotes"),
        pytest.param(
            "input_size: 224\ninterpolation: bicubic\nscaling: -1..1\nversion: spring-1",
            ModelFacts((224, 224), "bicubic", "-1..1", "spring-1"),
            id="what 0.1.0 knew",
        ),
        pytest.param(
            "resize: crop\nresize_to: 256\ncrop_rounding: down\nantialias: false\ncolour: bgr\n"
            "layout: nchw\nscaling: {divide: 2, mean: [1, 2, 3], std: 4}\nactivation: softmax\n"
            "embedding: avg_pool",
            ModelFacts(
                scaling=Scaling((0.125,) * 3, (-0.25, -0.5, -0.75)),
                resize="crop",
                resize_to=256,
                crop_rounding="down",
                antialias=False,
                colour="bgr",
                layout="nchw",
                activation="softmax",
                embedding="avg_pool",
            ),
            id="a crop, as in PyTorch",
        ),
        pytest.param(
            "resize: pad\npad: 0\ncolour: grey\nscaling: {mean: 0.5}",
            ModelFacts(resize="pad", pad=0, colour="grey", scaling=Scaling((1.0,), (-0.5,))),
            id="bars beside a grey picture",
        ),
    ],
)
def test_the_facts_are_read(tmp_path: Path, content: str | None, expected: ModelFacts) -> None:
    assert read_facts(write(tmp_path, facts=content)) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("a: [", "imageserve.yaml: is not valid YAML: ", id="not YAML"),
        pytest.param(b"\xff\xfe\xfa", "imageserve.yaml: is not valid YAML: ", id="not text"),
        pytest.param("224", "must be a mapping, lines of 'key: value'", id="a number"),
        pytest.param("size: 224", "size: is unknown; known are input_size, ", id="an unknown key"),
        pytest.param("input_size: big", r"input_size: must be \[height, width\] or", id="no size"),
        pytest.param(
            "input_size: [224]", r"input_size: must be \[height, width\] or", id="half a size"
        ),
        pytest.param("input_size: 7", "8 to 4096 pixels .it is 7.", id="a small size"),
        pytest.param("input_size: true", "input_size: must be", id="a truth value"),
        pytest.param("interpolation: cubic", "must be one of nearest, bilinear", id="cubic"),
        pytest.param("scaling: 0-1", "must be one of none, 0..1, -1..1, torch", id="no scaling"),
        pytest.param("resize: stretch", "resize: must be one of squash, crop, pad", id="resize"),
        pytest.param("resize_to: 7", "resize_to: must be a whole number from 8", id="resize_to"),
        pytest.param("antialias: 'no'", "antialias: must be true or false", id="antialias"),
        pytest.param("pad: [0, 0, 0]", "pad: must be a whole number from 0 to 255", id="pad"),
        pytest.param("colour: gray", "colour: must be one of rgb, bgr, grey, rgba", id="colour"),
        pytest.param("layout: chw", "layout: must be one of nhwc, nchw", id="layout"),
        pytest.param("crop_rounding: up", "must be one of even, down", id="crop_rounding"),
        pytest.param("scaling: {std: 0}", r"scaling.std: must be a number from 1e-06", id="std"),
        pytest.param("scaling: {gain: 2}", "scaling.gain: is unknown; known are divide", id="gain"),
        pytest.param(
            "scaling: {mean: [1, 2]}",
            "mean: must be one number, or a list with one",
            id="two means",
        ),
        pytest.param(
            "scaling: {mean: [1, 2, 3], std: [1, 2, 3, 4]}",
            "mean and std must have equally many numbers",
            id="means of three colours, deviations of four",
        ),
        pytest.param("version: 2.10", "in quotes .it is 2.1.", id="a version that YAML rounds"),
        pytest.param(
            "version: a b", "version: must be 1 to 64 letters", id="a version of two words"
        ),
        pytest.param("version:", "version: must be", id="an empty version"),
    ],
)
def test_facts_that_cannot_be_used_are_named_with_what_they_must_be(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    with pytest.raises(ModelLoadError, match=said) as caught:
        read_facts(write(tmp_path, facts=content))
    assert str(tmp_path / "imageserve.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_facts_that_may_not_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "imageserve.yaml").mkdir()

    with pytest.raises(ModelLoadError, match=r"imageserve\.yaml: cannot be read"):
        read_facts(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("resize: pad\nresize_to: 256", "'resize_to' is for 'resize: crop' and 'resize: squash'"),
        ("resize: crop\nresize_to: 200", "make 'resize_to' at least as large, or leave it out"),
        ("pad: 114", "'pad' is for 'resize: pad': choose this, or leave 'pad' out"),
        ("crop_rounding: down", "'crop_rounding' is for 'resize_to': set this"),
        ("interpolation: bicubic\nantialias: false", "choose nearest or bilinear, or leave"),
    ],
)
def test_keys_that_do_not_fit_together_are_refused_with_what_to_do(
    tmp_path: Path, content: str, said: str
) -> None:
    facts = read_facts(write(tmp_path, facts=content))

    with pytest.raises(ModelLoadError, match=f"^the preparation cannot be used: .*{said}"):
        facts.preparation((224, 224))


def test_blue_first_is_rgb_on_its_way() -> None:
    assert ModelFacts(colour="bgr").preparation((8, 8)) == Preparation((8, 8))


SECTION = (
    (ROOT / "docs" / "model-folders.md").read_text().partition("## How pictures are prepared")[2]
)


def test_the_documentation_says_what_each_named_scaling_computes(tmp_path: Path) -> None:
    rows = re.findall(r"^\| `(\S+)` \| (`(?:divide|mean).*?) \|", SECTION, re.MULTILINE)
    assert {name for name, _ in rows} | {"none"} == set(SCALINGS)

    for name, words in rows:
        told = ", ".join(re.findall(r"`((?:divide|mean|std): .*?)`", words))
        read = read_facts(write(tmp_path, facts=f"scaling: {{{told}}}")).scaling
        assert isinstance(read, Scaling)
        for ours, theirs in zip(astuple(read)[:2], astuple(SCALINGS[name])[:2], strict=True):
            assert ours * (3 // len(ours)) == pytest.approx(theirs)
