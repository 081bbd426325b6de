"""What an engine may be asked for, and how many processors there are for it."""

import os
from pathlib import Path

import pytest

from imageserve.errors import ModelLoadError
from imageserve.models.engine import Engine
from imageserve.models.processors import usable_processors
from imageserve.models.version import content_version, is_version

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        pytest.param(Engine(precision="float16"), "PRECISION=float16 is for Keras", id="precision"),
        pytest.param(Engine(xla=True), "XLA is for Keras", id="XLA"),
    ],
)
def test_onnx_runtime_refuses_what_only_keras_has(engine: Engine, said: str) -> None:
    with pytest.raises(ModelLoadError, match=f"{said}.*MODEL_RUNTIME=keras"):
        engine.check_onnx()
    engine.check_keras()


def test_torch_has_no_xla() -> None:
    with pytest.raises(ModelLoadError, match="the torch backend has none"):
        Engine(backend="torch", xla=True).check_keras()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, ALL, id="no cgroup: what affinity leaves"),
        pytest.param({"cpu.max": "max 100000\n"}, ALL, id="v2 without a limit"),
        pytest.param({"cpu.max": "100000 100000\n"}, 1, id="v2, one processor"),
        pytest.param({"cpu.max": "50000 100000\n"}, 1, id="v2, half of one"),
        pytest.param({"cpu.max": "150000 100000\n"}, min(2, ALL), id="v2, one and a half"),
        pytest.param({"cpu.max": "99900000 100000\n"}, ALL, id="v2, more than there are"),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            ALL,
            id="v1 without a limit",
        ),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            1,
            id="v1, one processor",
        ),
    ],
)
def test_the_processors_are_those_that_the_container_may_use(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)

    assert usable_processors(tmp_path) == expected


def test_the_version_of_a_file_is_the_beginning_of_its_checksum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"weights")

    assert content_version(tmp_path / "a") == "9a129038d9a0"


def test_the_version_of_a_folder_changes_with_any_content_or_name(tmp_path: Path) -> None:
    def version() -> str:
        return content_version(tmp_path)

    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "data").write_bytes(b"weights")
    first = version()
    assert version() == first
    (tmp_path / "variables" / "data").write_bytes(b"weighty")
    second = version()
    (tmp_path / "variables" / "data").rename(tmp_path / "variables" / "date")
    assert len({first, second, version()}) == 3


def test_a_model_that_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="gone does not exist: correct its path"):
        content_version(tmp_path / "gone")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", True),
        ("2024-05.a_b", True),
        ("x" * 65, False),
        ("", False),
        (".a", False),
        ("a b", False),
    ],
)
def test_a_version_is_a_short_word(text: str, expected: bool) -> None:
    assert is_version(text) is expected
