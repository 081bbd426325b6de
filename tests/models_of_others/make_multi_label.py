"""Several labels may hold: logits that were trained with ``BCEWithLogitsLoss``."""

from pathlib import Path

from tests.models_of_others.teaching import (
    LOGITS_OF_TAGS,
    NAMES,
    PICTURES,
    TAGS,
    Classify,
    answers,
    forget_paths,
    opened,
    teach,
    write_labels,
)


def make(folder: Path) -> Classify:
    from torchvision.models import MobileNetV2
    from torchvision.transforms import v2 as transforms

    import torch

    torch.manual_seed(4)
    network = MobileNetV2(
        num_classes=4,
        width_mult=0.1,
        inverted_residual_setting=[[1, 8, 1, 1], [2, 16, 1, 2], [2, 24, 1, 2]],
    ).eval()
    network.features[-1] = torch.nn.Conv2d(8, 24, 1)
    network.classifier = torch.nn.Sequential(torch.nn.Linear(24, 4))
    prepare = transforms.Compose(
        [
            transforms.Resize((112, 112)),
            transforms.PILToTensor(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    inputs = torch.stack([prepare(opened(PICTURES / name)) for name in NAMES])
    teach(network, network.classifier[0], inputs, LOGITS_OF_TAGS)
    torch.onnx.export(
        network,
        (inputs[:2],),
        folder / "model.onnx",
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
    )
    forget_paths(folder / "model.onnx")
    write_labels(folder, TAGS)
    return answers(network, prepare, "sigmoid")
