"""Weights in a file beside the model, as PyTorch writes large ones; pictures with bars."""

from pathlib import Path
from typing import Any

from tests.models_of_others.teaching import (
    LOGITS_OF_LABELS,
    NAMES,
    PICTURES,
    Classify,
    answers,
    forget_paths,
    opened,
    teach,
    write_labels,
)


def make(folder: Path) -> Classify:
    from PIL import Image, ImageOps
    from torchvision.models.regnet import BlockParams, RegNet
    from torchvision.transforms import functional

    import torch

    torch.manual_seed(9)
    blocks = BlockParams([1, 1], [16, 32], [8, 8], [1.0, 1.0], [2, 2])
    network = RegNet(blocks, num_classes=3, stem_width=8).eval()

    def prepare(picture: Any) -> Any:
        padded = ImageOps.pad(picture, (120, 120), Image.Resampling.BILINEAR, "#727272")
        return functional.normalize(
            functional.to_tensor(padded), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        )

    inputs = torch.stack([prepare(opened(PICTURES / name)) for name in NAMES])
    teach(network, network.fc, inputs, LOGITS_OF_LABELS)
    torch.onnx.export(
        network,
        (inputs[:2],),
        folder / "model.onnx",
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    forget_paths(folder / "model.onnx")
    write_labels(folder)
    return answers(network, prepare)
