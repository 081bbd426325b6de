"""KServe: a transformer of two processes that decodes, and a predictor that runs the model.

Pictures are not batched: KServe's batcher is a sidecar of its own, which is no Python package.
"""

import json
import os
import subprocess
import sys
from base64 import b64decode
from typing import Any

import numpy as np
from kserve import InferInput, InferOutput, InferRequest, InferResponse, ModelServer
from kserve import Model as KServeModel
from kserve.errors import InvalidInput
from kserve.predictor_config import PredictorConfig

from bench.peers.servers.shared import PORT, WEB_PROCESSES, Model, decoded

NAME = "classify"
PREDICTOR_PORT = int(os.environ.get("PEER_SECOND_PORT", "8001"))


class Transformer(KServeModel):  # type: ignore[misc]
    """Takes pictures in base64 by the v1 protocol; the v2 one takes no bytes that are no text."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self.ready = True

    @property
    def predictor_config(self) -> PredictorConfig:
        """Where the predictor is; ModelServer's own setting does not reach a second process."""
        return PredictorConfig(f"127.0.0.1:{PREDICTOR_PORT}", predictor_protocol="grpc-v2")

    def preprocess(self, payload: dict[str, Any], headers: dict[str, str]) -> InferRequest:
        del headers
        (instance,) = payload["instances"]
        try:
            pixels = decoded(b64decode(instance["image"]["b64"]))
        except OSError as error:
            raise InvalidInput(f"cannot decode the picture: {error}") from error
        tensor = InferInput("PIXELS", [1, *pixels.shape], "UINT8")
        tensor.set_data_from_numpy(pixels[np.newaxis])
        return InferRequest(NAME, [tensor])

    def postprocess(self, result: InferResponse, headers: dict[str, str]) -> dict[str, Any]:
        del headers
        return {"predictions": [json.loads(text) for text in result.outputs[0].data]}


class Predictor(KServeModel):  # type: ignore[misc]
    """The model."""

    def __init__(self) -> None:
        super().__init__(NAME)
        self.model = Model()
        self.ready = True

    def predict(self, payload: InferRequest, headers: dict[str, str]) -> InferResponse:
        del headers
        answers = self.model.answers(payload.inputs[0].as_numpy())
        texts = [json.dumps(answer) for answer in answers]
        output = InferOutput("ANSWER", [len(texts)], "BYTES", data=texts)
        return InferResponse(payload.id or "", NAME, [output])


if __name__ == "__main__":
    if sys.argv[1:] == ["predictor"]:
        http_port = int(os.environ["PEER_THIRD_PORT"])
        ModelServer(http_port=http_port, grpc_port=PREDICTOR_PORT).start([Predictor()])
    else:
        with subprocess.Popen([sys.executable, "-m", __spec__.name, "predictor"]) as predictor:
            try:
                server = ModelServer(http_port=PORT, workers=WEB_PROCESSES, enable_grpc=False)
                server.start([Transformer()])
            finally:
                predictor.terminate()
