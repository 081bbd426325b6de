"""Settings that libraries read once, when they are imported, which importing a test does."""

import os

import pytest

import torch

os.environ["KERAS_BACKEND"] = "torch"
os.environ["USE_TF"] = "0"  # transformers would import TensorFlow, only because it is there.


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run first what must not find TensorFlow: where it is there, Keras's own helpers import it."""
    items.sort(key=lambda item: item.path.name != "test_torch_backend.py")


def _declare_operators() -> torch.library.Library | None:
    """Let torchvision be imported where its compiled operators do not fit this PyTorch.

    PyPI has it for CUDA only. Beside a PyTorch without CUDA its library does not load, and
    torchvision fails on the first operator that it describes. Transforms need none of them.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    else:
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_operators = _declare_operators()
