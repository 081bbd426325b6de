"""EfficientNet-Lite0 made by ``tools/make_imagenet.py``, and what PyTorch says of photographs."""

from pathlib import Path

PHOTOGRAPHS = Path(__file__).with_name("photographs")


# label -> probability of the three likeliest, by torchvision and efficientnet_lite_pytorch;
# tests/torch/test_imagenet.py computes them again.
CROPPED_ANSWERS = {
    "chelsea.jpg": {"tiger_cat": 0.3976, "Egyptian_cat": 0.3355, "tabby": 0.1810},
    "coffee.jpg": {"espresso": 0.9546, "cup": 0.0132, "consomme": 0.0074},
}
SQUEEZED_ANSWERS = {
    "chelsea.jpg": {"Egyptian_cat": 0.7666, "tiger_cat": 0.1006, "tabby": 0.0783},
    "coffee.jpg": {"espresso": 0.9005, "cup": 0.0352, "coffee_mug": 0.0133},
}


def squeeze(folder: Path) -> None:
    """Let a folder that was made squeeze pictures, and cut nothing away."""
    facts = folder / "imageserve.yaml"
    cropped = facts.read_text()
    squeezed = cropped.replace("resize: crop\nresize_to: 256\n", "resize: squash\n")
    assert squeezed != cropped
    facts.write_text(squeezed)
