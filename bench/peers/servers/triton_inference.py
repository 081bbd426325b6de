"""Triton, the second step of the ensemble: the model. A model of its Python backend."""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from bench.peers.servers.shared import Model


class TritonPythonModel:
    """Triton's dynamic batcher hands over the requests that make one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        del args
        self.model = Model()

    def execute(self, requests: list[Any]) -> list[Any]:
        parts = [pb_utils.get_input_tensor_by_name(each, "PIXELS").as_numpy() for each in requests]
        answers = iter(self.model.answers(np.concatenate(parts)))
        return [_response([next(answers) for _ in part]) for part in parts]


def _response(answers: list[dict[str, Any]]) -> Any:
    texts = np.array([[json.dumps(answer).encode()] for answer in answers], dtype=np.object_)
    return pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", texts)])
