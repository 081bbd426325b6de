"""A PyTorch module as an ONNX file, for `models import`. The door to PyTorch for that."""

import contextlib
import io
import logging
import os
import pkgutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import torch
from imageserve.errors import ModelLoadError
from imageserve.models.foreign import first_line
from imageserve.models.onnx_file import USUAL_OPSET

ANSWERS = "answers"

Call = Callable[[NDArray[Any]], NDArray[Any]]


def made_by(reference: str) -> tuple[Any, tuple[str, ...] | None]:
    """Call ``module:function`` and return its module, ready to answer, and its labels if it has.

    The module is looked for in the current folder too, as ``python -m`` does. Raises
    ModelLoadError.
    """
    sys.path.insert(0, os.getcwd())
    try:
        made = pkgutil.resolve_name(reference)()
    except Exception as error:  # it is foreign code
        raise ModelLoadError(
            f"{reference} cannot be called ({type(error).__name__}: {first_line(error)}): name a "
            "module and a function in it that returns a torch.nn.Module, or it and its labels"
        ) from error
    finally:
        sys.path.remove(os.getcwd())
    module, labels = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise ModelLoadError(
            f"{reference} returns {type(module).__name__}: return a torch.nn.Module, or it and "
            "its labels"
        )
    return module.cpu().eval(), None if labels is None else tuple(str(each) for each in labels)


def write(module: Any, path: Path, shape: tuple[int, int, int]) -> Call:
    """Write a module as ONNX for any number of pictures, and return its own answer to numbers.

    Of several outputs the first has the answers; its name is `ANSWERS`. ``shape`` is that of one
    picture: colours, height and width. Raises ModelLoadError.
    """
    axes = {"images": {0: "n"}, ANSWERS: {0: "n"}}
    names = {"input_names": ["images"], "output_names": [ANSWERS], "dynamic_axes": axes}
    try:
        with torch.inference_mode(), _quiet():
            # The exporter that needs no package but torch. Two pictures: with one, the number of
            # pictures may become part of the graph.
            torch.onnx.export(
                module,
                (torch.zeros(2, *shape),),
                str(path),
                dynamo=False,
                opset_version=USUAL_OPSET,
                **names,
            )
    except Exception as error:  # torch may raise anything for a module that it cannot trace
        raise ModelLoadError(
            f"torch cannot write the module as ONNX ({first_line(error)}): give the size of its "
            "pictures with --input-size, or export it yourself and import the file"
        ) from error

    def call(numbers: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            answers = module(torch.from_numpy(numbers))
            first = answers if isinstance(answers, torch.Tensor) else answers[0]
            return np.asarray(first.float().numpy())

    return call


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself out of the output."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
