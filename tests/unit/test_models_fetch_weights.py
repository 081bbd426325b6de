"""Weights in a folder: fetched once, whole, and checked; and the command that does it."""

import hashlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imageserve
from imageserve.cli import models as command
from imageserve.cli import models_fetch
from imageserve.errors import ModelLoadError
from imageserve.models import Engine
from imageserve.models.fetch.weights import Fetched, download, fetch_weights

WEIGHTS = b"a file of weights"
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
SOURCE = Path(imageserve.__file__).parents[1]

FETCH = """
import os, sys
from imageserve.cli import models
from imageserve.errors import ModelLoadError
try:
    sys.exit(models.main(["fetch", "mobilenet_v2", "--to", sys.argv[1]], os.environ))
except ModelLoadError as error:
    print("refused:", error)
"""


def save(name: str, path: Path) -> None:
    path.write_bytes(WEIGHTS)


def never(name: str, path: Path) -> None:
    pytest.fail(f"{name} is fetched again")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_weights_are_put_into_a_new_folder_with_their_checksum(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "models"

    done = fetch_weights("resnet50", folder, save)

    assert done == Fetched(folder / "resnet50.weights.h5", SHA256, len(WEIGHTS), is_new=True)
    assert done.path.read_bytes() == WEIGHTS
    assert names_in(folder) == ["resnet50.weights.h5", "resnet50.weights.h5.sha256"]


def test_the_checksum_file_is_one_that_sha256sum_checks(tmp_path: Path) -> None:
    fetch_weights("resnet50", tmp_path, save)

    checked = subprocess.run(
        ["sha256sum", "--check", "resnet50.weights.h5.sha256"], cwd=tmp_path, check=False
    )
    assert checked.returncode == 0


def test_weights_that_are_there_are_checked_and_kept(tmp_path: Path) -> None:
    fetch_weights("resnet50", tmp_path, save)

    done = fetch_weights("resnet50", tmp_path, never)

    assert (done.is_new, done.sha256, done.size) == (False, SHA256, len(WEIGHTS))


def test_weights_that_have_changed_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = fetch_weights("resnet50", tmp_path, save).path
    path.write_bytes(WEIGHTS[:-1])

    with pytest.raises(ModelLoadError, match=r"checksum differs.*remove both to fetch it anew"):
        fetch_weights("resnet50", tmp_path, never)


@pytest.mark.parametrize("record", ["", "\n", f"{'0' * 64}  resnet50.weights.h5\n"])
def test_a_checksum_that_is_not_theirs_is_refused(tmp_path: Path, record: str) -> None:
    path = fetch_weights("resnet50", tmp_path, save).path
    path.with_name(f"{path.name}.sha256").write_text(record)

    with pytest.raises(ModelLoadError, match="is not what was fetched"):
        fetch_weights("resnet50", tmp_path, never)


def test_weights_without_a_checksum_are_nobodys_to_overwrite(tmp_path: Path) -> None:
    mine = tmp_path / "resnet50.weights.h5"
    mine.write_bytes(b"trained for a week")

    with pytest.raises(ModelLoadError, match=r"was not fetched: .*\.sha256 is missing"):
        fetch_weights("resnet50", tmp_path, save)
    assert mine.read_bytes() == b"trained for a week"


def test_a_checksum_whose_weights_never_came_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "resnet50.weights.h5.sha256").write_text("of an earlier try\n")

    assert fetch_weights("resnet50", tmp_path, save).is_new
    assert not fetch_weights("resnet50", tmp_path, never).is_new


def test_a_download_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(name: str, path: Path) -> None:
        path.write_bytes(WEIGHTS[:5])
        raise ModelLoadError("the network is gone")

    with pytest.raises(ModelLoadError, match="the network is gone"):
        fetch_weights("resnet50", tmp_path, fail)
    assert names_in(tmp_path) == []


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(ModelLoadError, match="file/models cannot be used: "):
        fetch_weights("resnet50", tmp_path / "file" / "models", save)


@pytest.mark.parametrize("name", ["shapes", "stand-in", "resnet18"])
def test_only_networks_have_weights_to_fetch(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelLoadError, match="'imageserve models list' shows them"):
        fetch_weights(name, tmp_path, save)
    assert names_in(tmp_path) == []


def test_the_command_fetches_every_name_and_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(models_fetch, "download", lambda name, path, engine: save(name, path))
    fetch_weights("resnet50", tmp_path, save)

    assert command.main(["fetch", "resnet50", "mobilenet_v2", "--to", str(tmp_path)], {}) == 0

    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path}/resnet50.weights.h5: already there, checksum right, ")
    assert second.startswith(f"{tmp_path}/mobilenet_v2.weights.h5: fetched, ")
    assert first.endswith(f"sha256 {SHA256}")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fetch"],
        ["fetch", "resnet50"],
        ["fetch", "--to", "x"],
    ],
)
def test_the_command_refuses_what_it_cannot_do(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments, {})
    assert "usage: imageserve models" in capsys.readouterr().err


# Keras converts its variables in a way that NumPy 2 warns about.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
def test_a_worker_reads_what_keras_has_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keras = pytest.importorskip("keras")
    from imageserve.models import keras_model, load_model

    real = keras.applications.MobileNetV2

    def build(weights: str) -> Any:
        """Stand in for Keras's function: seeded weights take the place of a download."""
        assert weights == "imagenet"
        keras.utils.clear_session()  # Names begin anew, as in a process of its own.
        keras.utils.set_random_seed(keras_model.RANDOM_SEED)
        return real(weights=None)

    with monkeypatch.context() as patch:
        patch.setattr(keras.applications, "MobileNetV2", build)
        get = partial(download, engine=Engine())
        done, again = (fetch_weights("mobilenet_v2", tmp_path / name, get) for name in ("a", "b"))

    assert done.sha256 == again.sha256, "two that fetch at once must not disagree"
    fetched, expected = (
        load_model("mobilenet_v2", weights=weights, labels_file=None)
        for weights in (str(done.path), "random")
    )
    picture = np.full((1, 224, 224, 3), 128, np.uint8)
    assert fetched.predict(picture, top=1000) == expected.predict(picture, top=1000)


def test_without_a_network_the_command_says_what_to_do_instead(tmp_path: Path) -> None:
    pytest.importorskip("keras")
    # A proxy that is not there, whatever network this machine has; a Keras home of its own.
    nowhere = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    home = {"KERAS_HOME": str(tmp_path / "home"), "PYTHONPATH": str(SOURCE)}

    ended = subprocess.run(
        [sys.executable, "-c", FETCH, str(tmp_path / "models")],
        env={**os.environ, **nowhere, "no_proxy": "", **home},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert "refused: the ImageNet weights of mobilenet_v2 could not be downloaded" in ended.stdout
    assert "path of a weights file" in ended.stdout
    assert names_in(tmp_path / "models") == []
