"""timm: the middle 0.875 of a picture, bicubic; its ``config.json`` says so."""

import shutil
import tempfile
from pathlib import Path

from tests.models_of_others.teaching import (
    LABELS,
    LOGITS_OF_LABELS,
    NAMES,
    PICTURES,
    Classify,
    answers,
    forget_paths,
    opened,
    teach,
)


def make(folder: Path) -> Classify:
    import timm
    from timm.models import save_for_hf

    import torch

    torch.manual_seed(1)
    network = timm.create_model(
        "resnet18",
        layers=(1, 1, 1, 1),
        channels=(8, 8, 8, 16),
        num_classes=3,
        pretrained_cfg_overlay={"crop_pct": 0.875, "input_size": (3, 96, 96)},
    ).eval()
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
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
    with tempfile.TemporaryDirectory() as saved:
        save_for_hf(network, saved, {"label_names": list(LABELS)})
        shutil.copy(Path(saved, "config.json"), folder)
    return answers(network, prepare)
