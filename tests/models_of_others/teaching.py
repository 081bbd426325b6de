"""What the ten small networks are taught: three photographs.

Their weights are random, but the last layer is solved for the answers below. So a wrong preparation
shows: random answers would be nearly the same for all pictures.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PICTURES = Path(__file__).with_name("pictures")
"""Photographs of scikit-image's data, all in the public domain (CC0): Stefan van der Walt's cat
Chelsea, a cup by Pikolo Espresso Bar and Rachel Michetti, a rocket by SpaceX. Cut and made smaller,
so that they are landscape and portrait, larger and smaller than what models take."""

NAMES = ("cat.jpg", "cup.jpg", "rocket.png")
LABELS = ("cat", "cup", "rocket")
TAGS = ("alive", "furry", "brown", "outdoors")

LOGITS_OF_LABELS = np.eye(3) * 2
LOGITS_OF_TAGS = np.array([[2, 1, 0.5, -1.0], [-1, -2, 1, -0.5], [-2, -1, -1, 2.0]])
LOGITS_OF_CAT = np.array([[1.5], [-1.0], [-0.5]])

Classify = Callable[[Path], list[float]]
"""The answer of a kind's own library to a picture, a number for each label."""


def solved(
    features: NDArray[np.floating[Any]], logits: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return weights (features, classes) and bias with which a last layer gives these logits."""
    mean = features.mean(axis=0)
    weights = np.linalg.pinv(features - mean) @ (logits - logits.mean(axis=0))
    return weights.astype(np.float32), (logits.mean(axis=0) - mean @ weights).astype(np.float32)


def teach(network: Any, layer: Any, inputs: Any, logits: NDArray[np.floating[Any]]) -> None:
    """Solve the last layer of a PyTorch network, a ``torch.nn.Linear``."""
    import torch

    seen: list[Any] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        network(inputs)
        hook.remove()
        weights, bias = solved(seen[0].reshape(len(inputs), -1).double().numpy(), logits)
        layer.weight.copy_(torch.from_numpy(weights.T))
        layer.bias.copy_(torch.from_numpy(bias))


def answers(network: Any, prepare: Callable[[Any], Any], activation: str = "softmax") -> Classify:
    """Return how PyTorch itself classifies; ``prepare`` makes a tensor of a Pillow image."""
    import torch

    def classify(picture: Path) -> list[float]:
        with torch.no_grad():
            numbers = network(prepare(opened(picture))[None])[0].float()
        if activation != "none":
            numbers = numbers.softmax(0) if activation == "softmax" else numbers.sigmoid()
        found: list[float] = numbers.tolist()
        return found

    return classify


def opened(picture: Path) -> Any:
    from PIL import Image

    return Image.open(picture).convert("RGB")


def forget_paths(path: Path) -> None:
    """Take the lines of Python that each node comes from out of an ONNX file of PyTorch.

    They name folders of the machine that wrote it, and are half of the file.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        del node.metadata_props[:]
    path.write_bytes(model.SerializeToString())


def write_labels(folder: Path, labels: Sequence[str] = LABELS) -> None:
    (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
