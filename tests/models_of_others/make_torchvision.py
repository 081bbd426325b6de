"""torchvision: colours first, logits, ImageNet's means, the middle of a resized picture."""

from pathlib import Path

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
    from torchvision.models import ShuffleNet_V2_X0_5_Weights, ShuffleNetV2

    import torch

    torch.manual_seed(0)
    network = ShuffleNetV2([1, 1, 1], [8, 8, 16, 32, 32], num_classes=3).eval()
    prepare = ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.transforms()
    inputs = torch.stack([prepare(opened(PICTURES / name)) for name in NAMES])
    teach(network, network.fc, inputs, LOGITS_OF_LABELS)
    torch.onnx.export(
        network,
        (inputs[:2],),
        folder / "model.onnx",
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
    )
    forget_paths(folder / "model.onnx")
    write_labels(folder)
    return answers(network, prepare)
