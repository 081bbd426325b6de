"""A fixed batch of one picture, as ``torch.onnx.export`` writes without ``dynamic_shapes``."""

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
    from torchvision.models import DenseNet
    from torchvision.transforms import v2 as transforms

    import torch

    torch.manual_seed(7)
    network = DenseNet(4, (1, 1, 1), num_init_features=8, bn_size=2, num_classes=3).eval()
    prepare = transforms.Compose(
        [
            transforms.Resize(128, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(112),
            transforms.PILToTensor(),
            transforms.ToDtype(torch.float32, scale=True),
        ]
    )
    inputs = torch.stack([prepare(opened(PICTURES / name)) for name in NAMES])
    teach(network, network.classifier, inputs, LOGITS_OF_LABELS)
    last = torch.nn.Sequential(network, torch.nn.Softmax(1))
    torch.onnx.export(
        last,
        (inputs[:1],),
        folder / "model.onnx",
        external_data=False,
    )
    forget_paths(folder / "model.onnx")
    write_labels(folder)
    return answers(last, prepare, "none")
