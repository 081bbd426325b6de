"""``imageserve models import``: a classifier from elsewhere becomes a model folder."""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageserve.cli.extras import sentence
from imageserve.config.choices import ACTIVATIONS, COLOURS, INTERPOLATIONS, LAYOUTS, RESIZES
from imageserve.config.reader import EnvText, parsed
from imageserve.config.settings import Settings
from imageserve.errors import ModelLoadError, SettingsError
from imageserve.models.catalog import SCALINGS
from imageserve.models.files import IMAGENET_LABELS, file_errors, only_file, read_labels
from imageserve.models.folder import (
    FACTS,
    LABELS_FILES,
    NO_FACTS,
    ModelFacts,
    huggingface_labels,
    read_facts,
)
from imageserve.models.runtimes import ONNX
from imageserve.preparation import Preparation

if TYPE_CHECKING:
    from imageserve.models.importing import Original, Wanted

_DEFAULT_SIZE = (224, 224)
_FACTS: Mapping[str, tuple[str, str]] = {
    "input_size": ("SIZE", "height and width, such as 224 or 224x320, where the file is open"),
    "resize": ("HOW", f"one of {', '.join(RESIZES)}"),
    "resize_to": ("PIXELS", "length of the shorter side before the crop"),
    "interpolation": ("HOW", f"one of {', '.join(INTERPOLATIONS)}"),
    "scaling": ("NAME", f"one of {', '.join(SCALINGS)}; written --scaling=-1..1"),
    "colour": ("COLOURS", f"one of {', '.join(COLOURS)}"),
    "layout": ("LAYOUT", f"one of {', '.join(LAYOUTS)}"),
    "embedding": ("TENSOR", "the inner tensor that is given as the embedding"),
    "activation": ("HOW", f"what becomes of the answers: one of {', '.join(ACTIVATIONS)}"),
}


def add_import(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``import`` to the actions of ``imageserve models``."""
    about = "make a model folder of an ONNX file or a PyTorch module"
    parser = actions.add_parser(
        "import",
        help=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{sentence(about)}. Scaling, layout and head move into\n"
        "its graph; size, crop and interpolation into imageserve.yaml. Nothing is put in place\n"
        "unless its probabilities are those of the original within 0.0001 (0.01 in 16 bits).",
        epilog="example:\n  imageserve models import resnet18.onnx --like torchvision "
        "--labels labels.txt --to ./resnet18\n  imageserve models check ./resnet18\n"
        "  MODEL=./resnet18 imageserve run",
    )
    parser.add_argument(
        "original",
        metavar="MODEL",
        help="an .onnx file, or module:function, a Python function that returns a torch.nn.Module "
        "or it and its labels (needs torch)",
    )
    parser.add_argument(
        "--like",
        required=True,
        choices=("torchvision", "timm", "keras"),
        help="how pictures were prepared. torchvision: crop 256 to 224, bilinear, ImageNet's mean "
        "and std. timm: the same, bicubic. keras: squashed, 0..255. What config.json, "
        "preprocessor_config.json or imageserve.yaml beside the file say comes first, and what "
        "the other options say before that",
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="one a line in class order, or imagenet (default: those beside the file)",
    )
    parser.add_argument("--to", type=Path, metavar="DIR", help="the folder (default: ./NAME)")
    _add_parts(parser)
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="compare the answers for these, too"
    )
    parser.set_defaults(action=_import)


def _add_parts(parser: argparse.ArgumentParser) -> None:
    """Add the options that change single parts of the preparation."""
    for name, (metavar, text) in _FACTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=text)
    parser.add_argument(
        "--crop-pct", type=float, metavar="PART", help="instead of --resize-to: 0.875 is 256 to 224"
    )
    parser.add_argument("--output", metavar="NAME", help="which of several outputs has the answers")


def _import(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    try:
        from imageserve.models.importing import import_model
    except ImportError as error:
        raise ModelLoadError(
            f"nothing can be imported here ({error}): pip install onnx onnxruntime"
        ) from error
    from imageserve.cli.models_understood import prepared

    wanted = _wanted(options)
    with _original(options, wanted) as (original, labels):
        folder = options.to or Path(original.name)
        done = import_model(
            original,
            wanted,
            labels,
            folder,
            partial(_pictures, options.pictures, environ),
        )
    size = sum(path.stat().st_size for path in folder.glob("model.onnx*")) / 2**20
    model = done.model
    print(
        f"{folder}: {size:.1f} MiB, version {model.version}, {model.classes} labels; pictures: "
        f"{prepared(model.preparation)}"
    )
    print(
        f"of {done.found.pictures} pictures {done.found.same_best} have the same first label as "
        f"the original, probabilities within {done.found.largest_difference:.1g}"
    )
    assumed = ", ".join(_assumed(options, wanted))
    if assumed:
        print(f"taken from --like {options.like}, because nothing else says it: {assumed}")
    return 0


def _assumed(options: argparse.Namespace, wanted: "Wanted") -> Iterator[str]:
    """Yield what only ``--like`` has said."""
    from imageserve.models.importing import LIKE

    like, said = LIKE[options.like].facts, _said(options)
    for name in ("resize", "interpolation", "scaling"):
        if getattr(said, name) is None:
            yield f"{name} {getattr(like, name)}"
    if wanted.crop_pct is not None and said.resize_to is None and options.crop_pct is None:
        yield f"crop to {wanted.crop_pct}"


def _said(options: argparse.Namespace) -> ModelFacts:
    """Return what the options say, then the files beside the original."""
    beside = read_facts(Path(options.original).parent) if _is_file(options.original) else NO_FACTS
    given = {
        name: parsed(f"--{name.replace('_', '-')}", FACTS[name], EnvText(getattr(options, name)))
        for name in _FACTS
        if getattr(options, name) is not None
    }
    return ModelFacts(**given).over(beside)


def _wanted(options: argparse.Namespace) -> "Wanted":
    """Return what the options say, then the files beside the original, then ``--like``."""
    from imageserve.models.importing import LIKE

    like = LIKE[options.like]
    said = _said(options)
    crop_pct = None if said.resize else like.crop_pct
    if options.crop_pct is not None:
        if not 0.1 <= options.crop_pct <= 1:
            raise SettingsError("--crop-pct: must be a number from 0.1 to 1")
        crop_pct = options.crop_pct
        if options.resize_to is None:
            said = replace(said, resize_to=None)
    return replace(like, facts=said.over(like.facts), crop_pct=crop_pct)


def _is_file(original: str) -> bool:
    return original.endswith(ONNX.file_ending)


@contextmanager
def _original(
    options: argparse.Namespace, wanted: "Wanted"
) -> Iterator[tuple["Original", tuple[str, ...]]]:
    """Yield the original and its labels; a PyTorch module is a temporary file meanwhile."""
    from imageserve.models.importing import Original

    if _is_file(options.original):
        path = Path(options.original)
        with file_errors(path):
            path.open("rb").close()
        labels = _labels(options.labels, path.parent)
        yield Original(path.stem, path, output=options.output), labels
        return
    if ":" not in options.original:
        raise SettingsError("MODEL: must be an .onnx file, or module:function for PyTorch")
    torch_module = _torch_module()
    module, own = torch_module.made_by(options.original)
    labels = own if own and options.labels is None else _labels(options.labels, None)
    height, width = wanted.facts.input_size or _DEFAULT_SIZE
    *_, colours = wanted.facts.preparation((height, width)).shape
    with tempfile.TemporaryDirectory(prefix="imageserve-") as folder:
        path = Path(folder, "module.onnx")
        call = torch_module.write(module, path, (colours, height, width))
        name = options.original.rpartition(":")[2]
        yield Original(name, path, call, torch_module.ANSWERS), labels


def _torch_module() -> Any:
    try:
        from imageserve.models import torch_module
    except ImportError as error:
        raise ModelLoadError(
            f"a PyTorch module needs torch here ({error}): pip install torch, or export it to "
            "ONNX where torch is, and import the file"
        ) from error
    return torch_module


def _labels(named: str | None, beside: Path | None) -> tuple[str, ...]:
    if named == "imagenet":
        return read_labels(IMAGENET_LABELS)
    if named is not None:
        return read_labels(Path(named))
    found = (only_file(beside, *LABELS_FILES) or huggingface_labels(beside)) if beside else None
    if found is None:
        raise SettingsError(
            "--labels: must be given, a file with one label a line in class order, or imagenet"
        )
    return read_labels(found)


def _pictures(
    folder: Path | None, environ: Mapping[str, str], preparation: Preparation
) -> list[bytes]:
    """Return the pictures in a folder, prepared as the web server does it."""
    if folder is None:
        return []
    from imageserve.cli.models_check import decodable

    settings = Settings.from_env(environ)
    return [pixels for _, pixels in decodable(folder, preparation, settings)]
