"""One colour, as for digits: the grey of Pillow, 28x28, MNIST's mean and deviation."""

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
    from torchvision import transforms

    import torch
    from torch import nn

    torch.manual_seed(6)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 5),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Linear(8 * 6 * 6, 3),
    ).eval()
    prepare = transforms.Compose(
        [
            transforms.Grayscale(),
            transforms.Resize((28, 28)),
            transforms.ToTensor(),
            transforms.Normalize(0.1307, 0.3081),
        ]
    )
    inputs = torch.stack([prepare(opened(PICTURES / name)) for name in NAMES])
    teach(network, network[-1], inputs, LOGITS_OF_LABELS)
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
