"""Half precision inside and outside: ``network.half()``, exported."""

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
    import timm

    import torch

    torch.manual_seed(8)
    network = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=64,
        embed_dim=24,
        depth=1,
        num_heads=3,
        num_classes=3,
        pretrained_cfg_overlay={"crop_pct": 0.9, "crop_mode": "squash", "input_size": (3, 64, 64)},
    ).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    inputs = torch.stack([prepare(opened(PICTURES / name)) for name in NAMES])
    teach(network, network.head, inputs, LOGITS_OF_LABELS)
    network.half()
    torch.onnx.export(
        network,
        (inputs[:2].half(),),
        folder / "model.onnx",
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
    )
    forget_paths(folder / "model.onnx")
    write_labels(folder)
    return answers(network, lambda picture: prepare(picture).half())
