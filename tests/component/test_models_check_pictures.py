"""``models check --accuracy`` and ``--show``, with the bundled model and with small files."""

import csv
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.onnx_files import LABELS, write_labels, write_onnx

from imageserve.cli import models as command
from imageserve.decoding import DecodingPolicy, decode
from imageserve.decoding.before_after import before_and_after, drawn_picture
from imageserve.errors import ImageserveError, SettingsError
from imageserve.models.catalog import KNOWN
from imageserve.preparation import Preparation

PICTURES = 70


def run(*options: object, **environ: str) -> None:
    environ = {"BATCH_SIZE": "4", **environ}
    assert command.main(["check", *map(str, options)], environ) == 0


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A model folder of three labels, which takes pictures of 8x8."""
    folder = tmp_path / "small"
    folder.mkdir()
    write_onnx(folder / "model.onnx")
    write_labels(folder / "labels.txt")
    return folder


def put(folder: Path, *names: str, colour: str = "red") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (20, 10), colour).save(folder / name)


# Keras converts its variables in a way that NumPy 2 warns about, in loading; serving does not.
@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)
def test_the_accuracy_of_the_bundled_model_is_what_its_training_script_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keras = pytest.importorskip("keras")
    import train_shapes
    from draw_shapes import LABELS as SHAPES

    pictures = drawn(tmp_path / "set", SHAPES)
    (tmp_path / "set" / "star" / "broken.jpg").write_bytes(b"\xff\xd8\xff and no more")
    (tmp_path / "set" / "star" / ".hidden").write_bytes(b"")
    model = keras.saving.load_model(KNOWN["shapes"].model_file)
    expected = train_shapes.report_accuracy(model, pictures)
    capsys.readouterr()
    table = tmp_path / "confusion.csv"

    run("shapes", "--accuracy", tmp_path / "set", "--json", "--confusion", table)

    out, err = capsys.readouterr()
    accuracy: dict[str, Any] = json.loads(out)["accuracy"]
    assert accuracy["pictures"] == PICTURES
    assert accuracy["top_1"] == pytest.approx(expected)
    assert 0.75 < accuracy["top_1"] < 0.85
    assert accuracy["top_1"] <= accuracy["top_5"] <= 1
    assert accuracy["mistakes"][0]["label"] == SHAPES[3]
    assert accuracy["broken"]["files"] == 1
    assert "broken.jpg: " in err
    assert f"{PICTURES + 1} of {PICTURES + 1} pictures, " in err
    (_, *columns), *rows = csv.reader(table.read_text("utf-8").splitlines())
    assert columns == list(SHAPES)
    cells = {
        (row[0], column): int(n) for row in rows for column, n in zip(columns, row[1:], strict=True)
    }
    assert sum(cells.values()) == PICTURES
    assert sum(cells[label, label] for label in SHAPES) / PICTURES == pytest.approx(expected)


def drawn(folder: Path, labels: Sequence[str]) -> Any:
    """Draw pictures into the folders of their labels, every fifth one into a wrong one."""
    import train_shapes
    from draw_shapes import draw

    random = np.random.default_rng(5)
    images, classes = [], []
    for number in range(PICTURES):
        label = labels[number % len(labels)]
        picture = draw(label, random)
        named = labels[3] if number % 5 == 0 else label
        put_into = folder / named / "deeper"
        put_into.mkdir(parents=True, exist_ok=True)
        picture.save(put_into / f"{number}.png", compress_level=1)
        images.append(train_shapes.model_input(picture))
        classes.append(labels.index(named))
    return train_shapes.Pictures(np.stack(images), np.asarray(classes))


def test_a_report_in_lines_shows_the_commonest_mistakes(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in LABELS:
        put(tmp_path / "set" / label, *(f"{n}.png" for n in range(3)))

    run(f"{small}/", "--accuracy", tmp_path / "set")

    lines = capsys.readouterr().out.splitlines()
    # All pictures are alike, so one label gets them all; there are too few labels for top-5.
    assert "accuracy 33.33 % right (top-1), of 9 pictures" in lines
    assert "mistakes 6; the commonest:" in lines
    assert sum(line.strip().startswith("3 of 3  ") for line in lines) == 2
    assert lines[-1] == "result   small can be served"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "holds no folders: put the pictures of each label into a folder of its name"),
        (["loose.png"], "holds no folders: put the pictures of each label into a folder"),
        ([f"{LABELS[0]}/", f"{LABELS[1]}/"], "hold no pictures"),
        ([f"{LABELS[0]}/a.png", "zebra/b.png"], "1 of 2 folders name no class of the model: zebra"),
        ([f"{LABELS[0]}/notes.txt"], "none of 1 files in"),
    ],
)
def test_a_folder_that_cannot_be_measured_is_refused_before_the_work(
    small: Path,
    tmp_path: Path,
    names: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in names:
        if name.endswith(".png"):
            put((folder / name).parent, Path(name).name)
        elif name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).parent.mkdir()
            (folder / name).write_text("no picture")

    with pytest.raises(SettingsError, match=said):
        run(f"{small}/", "--accuracy", folder)
    # Only what is no picture is found out later.
    assert ("warm" in capsys.readouterr().out) == said.startswith("none of")


@pytest.mark.usefixtures("capsys")
def test_several_labels_at_a_time_have_no_accuracy_here(small: Path, tmp_path: Path) -> None:
    write_onnx(small / "model.onnx", head="Sigmoid")
    put(tmp_path / "set" / LABELS[0], "a.png")

    with pytest.raises(SettingsError, match="several labels may hold for a picture of small"):
        run(f"{small}/", "--accuracy", tmp_path / "set")


@pytest.mark.usefixtures("capsys")
def test_a_file_that_cannot_be_written_is_told_before_the_work(small: Path, tmp_path: Path) -> None:
    put(tmp_path / "set" / LABELS[0], "a.png")
    nowhere = tmp_path / "nowhere" / "file"

    with pytest.raises(ImageserveError, match=f"--confusion: {nowhere} cannot be written"):
        run(f"{small}/", "--accuracy", tmp_path / "set", "--confusion", nowhere)
    with pytest.raises(ImageserveError, match=f"--show: {nowhere} cannot be written"):
        run(f"{small}/", "--show", nowhere)
    with pytest.raises(SettingsError, match="--confusion: needs --accuracy"):
        run(f"{small}/", "--confusion", tmp_path / "file")


@pytest.mark.usefixtures("capsys")
def test_pictures_are_decoded_with_the_settings_of_web_servers(small: Path, tmp_path: Path) -> None:
    put(tmp_path / "set" / LABELS[0], "a.png")

    run(f"{small}/", "--accuracy", tmp_path / "set")
    with pytest.raises(SettingsError, match="none of 1 files"):
        run(f"{small}/", "--accuracy", tmp_path / "set", IMAGE_FORMATS="jpeg")


def test_pictures_are_decoded_a_few_batches_ahead_only(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "set" / LABELS[0], *(f"{n}.png" for n in range(50)))
    from imageserve.cli import models_check
    from imageserve.models.accuracy import Accuracy

    begun, most = [], []
    decode_one, count = models_check._decode, Accuracy.add

    def decode_slowly(*given: Any) -> bytes:
        begun.append(given)
        return decode_one(*given)

    def add(accuracy: Accuracy, scores: Any, classes: Any) -> None:
        count(accuracy, scores, classes)
        most.append(len(begun) - accuracy.pictures)

    monkeypatch.setattr(models_check, "_decode", decode_slowly)
    monkeypatch.setattr(Accuracy, "add", add)
    run(f"{small}/", "--accuracy", tmp_path / "set")

    assert len(begun) == 50
    assert max(most) <= 3 * 4


# -- before and after ------------------------------------------------------------------------------


def test_a_picture_is_shown_before_and_after(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "mine", "a.png", colour="blue")
    (tmp_path / "mine" / "0.txt").write_text("no picture")

    run(f"{small}/", "--show", tmp_path / "both.png", "--pictures", tmp_path / "mine")

    assert f"shown    in {tmp_path}/both.png: {tmp_path}/mine/a.png" in capsys.readouterr().out
    with Image.open(tmp_path / "both.png") as both:
        assert both.format == "PNG"
        # Left 20x10 as 448x224; right 8x8, 56 times as large.
        assert both.size == (448 + 16 + 448, 448)
        assert both.getpixel((224, 112)) == (0, 0, 255)
        assert both.getpixel((700, 400)) == (0, 0, 255)
        assert both.getpixel((224, 400)) == (128, 128, 128)

    run(f"{small}/", "--show", tmp_path / "both.png")
    assert "a drawn picture; --pictures names" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("preparation", "frame"),
    [
        (Preparation((64, 64)), (0, 0, 447, 279)),
        (Preparation((64, 64), resize="crop", resize_to=80), (111, 27, 335, 251)),
        (Preparation((64, 64), resize="pad", pad=9), (0, 0, 447, 279)),
        (Preparation((32, 64), resize="crop", colour="grey"), (0, 28, 447, 251)),
        (Preparation((64, 64), colour="rgba"), (0, 0, 447, 279)),
    ],
)
def test_the_frame_is_around_what_counts_and_the_right_half_is_what_the_model_gets(
    preparation: Preparation, frame: tuple[int, int, int, int]
) -> None:
    png = drawn_picture()
    policy = DecodingPolicy()

    both = Image.open(io.BytesIO(before_and_after(png, preparation, policy)))

    pixels = np.asarray(both)
    is_frame = (pixels[:, :448] == (230, 0, 90)).all(axis=2)
    rows, columns = np.flatnonzero(is_frame.any(axis=1)), np.flatnonzero(is_frame.any(axis=0))
    assert (columns[0], rows[0], columns[-1], rows[-1]) == pytest.approx(frame, abs=1)
    height, width, colours = preparation.shape
    times = (both.width - 464) // width
    got = pixels[: height * times : times, 464::times]
    given = np.frombuffer(decode(png, preparation, policy), np.uint8).reshape(
        height, width, colours
    )
    np.testing.assert_array_equal(got, given[..., :3] if colours > 1 else given.repeat(3, axis=2))


def test_the_drawn_picture_is_the_same_each_time() -> None:
    pixels = Image.open(io.BytesIO(drawn_picture())).tobytes()

    assert zlib.crc32(pixels) == zlib.crc32(Image.open(io.BytesIO(drawn_picture())).tobytes())
