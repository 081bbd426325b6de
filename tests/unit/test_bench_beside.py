"""The benchmark's figures for a worker beside the bare model."""

import pytest
from bench.beside import Beside, section
from bench.runtimes import NETWORKS, RUNTIMES


def beside(worker: list[float], **raw: list[float]) -> Beside:
    made = Beside(worker)
    made.raw.update(raw)
    return made


def test_each_round_is_compared_with_the_faster_way_to_call_the_model() -> None:
    measured = beside([95.0, 190.0], slow=[90.0, 100.0], fast=[100.0, 200.0])

    assert measured.best_raw == [100.0, 200.0]
    assert measured.shares == [0.95, 0.95]
    assert measured.latest() == "worker 190 images/s, bare model slow 100, fast 200"


@pytest.mark.parametrize(
    ("onnx", "met"),
    [
        pytest.param([139.0], False, id="not fast enough"),
        pytest.param([140.0], True, id="just fast enough"),
    ],
)
def test_onnx_is_compared_with_tensorflow_of_the_same_run(onnx: list[float], met: bool) -> None:
    verdicts = section(
        {
            ("resnet50", "tensorflow"): beside([100.0], predict_on_batch=[80.0], fast=[101.0]),
            ("resnet50", "onnx"): beside(onnx, run=[1000.0]),
        },
        seconds=5.0,
    ).verdicts

    assert [verdict.is_met for verdict in verdicts] == [True, False, met]
    assert verdicts[2].target == "ONNX >= 1.4x TensorFlow, resnet50"


def test_each_runtime_has_its_row_and_a_single_way_to_call_it_is_the_fast_one() -> None:
    made = section({("resnet50", "onnx"): beside([99.0], run=[100.0])}, seconds=5.0)

    (row,) = made.rows
    assert list(row) == ["resnet50, onnx", "", "100", "99.0", "99.0 %"]
    assert len(made.verdicts) == 1


def test_every_runtime_has_settings_for_its_worker() -> None:
    assert [runtime.name for runtime in RUNTIMES] == ["tensorflow", "jax", "torch", "onnx"]
    assert all(runtime.settings for runtime in RUNTIMES[1:])
    file = NETWORKS["shapes"].file
    assert file is not None
    assert file.is_file()
