"""Triton, the first step of the ensemble: decode. A model of its Python backend."""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from bench.peers.servers.shared import decoded


class TritonPythonModel:
    """IMAGE is a picture's bytes, PIXELS what the model takes."""

    def execute(self, requests: list[Any]) -> list[Any]:
        return [_answer(request) for request in requests]


def _answer(request: Any) -> Any:
    try:
        pictures = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()
        pixels = np.stack([decoded(picture) for picture in pictures.flat])
    except Exception as error:
        failed = pb_utils.TritonError(f"cannot decode the picture: {error}")
        return pb_utils.InferenceResponse(error=failed)
    return pb_utils.InferenceResponse([pb_utils.Tensor("PIXELS", pixels)])
