"""``ask_tritonclient.py http|grpc ADDRESS PICTURE...``: ask with tritonclient, print what came.

Runs in an environment that has tritonclient and nothing of imageserve.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

MODEL = "shapes"
CLASSES = 3


def main(kind: str, address: str, *paths: str) -> dict[str, Any]:
    triton = import_module(f"tritonclient.{kind}")
    client = triton.InferenceServerClient(address)
    files = np.array([[Path(path).read_bytes()] for path in paths], dtype=np.object_)
    image = triton.InferInput("image", list(files.shape), "BYTES")
    image.set_data_from_numpy(files)
    best = triton.InferRequestedOutput("probabilities", class_count=CLASSES)

    every = client.infer(MODEL, [image], request_id="of-triton")
    classified = client.infer(MODEL, [image], outputs=[best], timeout=5_000_000)
    found = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(MODEL),
        "server": as_dict(client.get_server_metadata()),
        "model": as_dict(client.get_model_metadata(MODEL)),
        "id": as_dict(every.get_response())["id"],
        "probabilities": every.as_numpy("probabilities").tolist(),
        "classes": [
            [text.decode() for text in row] for row in classified.as_numpy("probabilities")
        ],
        "unknown": refusal(lambda: client.infer("nothing", [image])),
    }
    if kind == "http":  # These extensions are Triton's own over gRPC.
        found["config"] = client.get_model_config(MODEL)
        found["statistics"] = client.get_inference_statistics(MODEL)
    return found


def as_dict(answer: Any) -> Any:
    """Return an answer in JSON's types; over gRPC it is a message."""
    if isinstance(answer, dict):
        return answer
    as_json = import_module("google.protobuf.json_format")
    return as_json.MessageToDict(answer, preserving_proto_field_name=True)


def refusal(call: Any) -> str:
    try:
        call()
    except InferenceServerException as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
