"""``ask_kserve.py http|grpc ADDRESS PICTURE...``: ask with KServe's clients, print what came.

Runs in an environment that has kserve and nothing of imageserve.
"""

import asyncio
import json
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

MODEL = "shapes"


async def main(kind: str, address: str, *paths: str) -> dict[str, Any]:
    ask = _over_http if kind == "http" else _over_grpc
    return await ask(address, np.array([[Path(path).read_bytes()] for path in paths], np.object_))


async def _over_http(address: str, files: Any) -> dict[str, Any]:
    client, url = InferenceRESTClient(RESTConfig(protocol="v2", timeout=30)), f"http://{address}"
    # JSON has no bytes, and the client leaves it to its caller what stands for them.
    texts = np.array([[b64encode(row[0])] for row in files], np.object_)
    asked = {"json": _request(texts, binary=False), "binary": _request(files, binary=True)}
    return {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, MODEL),
        **{
            form: _told(await client.infer(url, request, model_name=MODEL))
            for form, request in asked.items()
        },
    }


async def _over_grpc(address: str, files: Any) -> dict[str, Any]:
    async with InferenceGRPCClient(address, timeout=30) as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model_ready": await client.is_model_ready(MODEL),
            "binary": _told(await client.infer(_request(files, binary=True))),
        }


def _request(pictures: Any, *, binary: bool) -> Any:
    image = InferInput("image", list(pictures.shape), "BYTES")
    image.set_data_from_numpy(pictures, binary_data=binary)
    return InferRequest(MODEL, [image], request_id="of-kserve")


def _told(answer: Any) -> dict[str, Any]:
    (output,) = answer.outputs
    rows = np.asarray(output.as_numpy()).reshape(output.shape)
    return {"id": answer.id, "output": output.name, "probabilities": rows.tolist()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(*sys.argv[1:]))))
