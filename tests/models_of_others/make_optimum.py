"""Hugging Face: a folder as Optimum writes it, with the file's sides all left open."""

import tempfile
from pathlib import Path
from typing import Any

from tests.models_of_others.teaching import (
    LABELS,
    LOGITS_OF_LABELS,
    NAMES,
    PICTURES,
    Classify,
    answers,
    opened,
    teach,
)


def make(folder: Path) -> Classify:
    from optimum.exporters.onnx import main_export
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    import torch

    torch.manual_seed(3)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=64,
        initializer_range=0.5,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    network = ViTForImageClassification(config).eval()
    processor = ViTImageProcessor(size={"height": 64, "width": 64})

    def prepare(picture: Any) -> Any:
        return processor(picture, return_tensors="pt")["pixel_values"][0]

    inputs = torch.stack([prepare(opened(PICTURES / name)) for name in NAMES])
    teach(network, network.classifier, inputs, LOGITS_OF_LABELS)
    with tempfile.TemporaryDirectory() as saved:
        network.save_pretrained(saved)
        processor.save_pretrained(saved)
        main_export(saved, folder, task="image-classification", do_validation=False)
    return answers(lambda pictures: network(pictures).logits, prepare)
