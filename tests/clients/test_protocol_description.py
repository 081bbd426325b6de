"""Answers are as a description of the Open Inference Protocol says that others wrote: MLServer's.

Its wheel is installed, and nothing of it is imported.
"""

import json
from base64 import b64encode
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.clients.conftest import PICTURES, ROOT
from tests.system.client import Reply
from tests.system.stack import Stack

MODEL, VERSION = "{model_name}", "{model_version}"


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    places = (ROOT / ".venv-mlserver").glob("lib/*/site-packages/mlserver/rest/openapi")
    text = next(places).joinpath("dataplane.json").read_text()
    found: dict[str, Any] = json.loads(text.replace('"type": "bytes"', '"type": "string"'))
    return found


def described(description: dict[str, Any], path: str, method: str, reply: Reply) -> None:
    """Check an answer's status and body."""
    told = description["paths"][path][method]["responses"][str(reply.status)]
    for kind, content in told.get("content", {}).items():
        assert reply.headers["content-type"] == kind
        # References in it are looked up from its root.
        Draft202012Validator({**description, **content["schema"]}).validate(reply.json)


def version_of(stack: Stack) -> str:
    return str(stack.http.get("/v2/models/shapes").json["versions"][0])


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        f"/v2/models/{MODEL}",
        f"/v2/models/{MODEL}/ready",
        f"/v2/models/{MODEL}/versions/{VERSION}",
        f"/v2/models/{MODEL}/versions/{VERSION}/ready",
    ],
)
def test_what_is_told_of_server_and_model(
    stack: Stack, description: dict[str, Any], path: str
) -> None:
    reply = stack.http.get(path.replace(MODEL, "shapes").replace(VERSION, version_of(stack)))

    assert reply.status == 200
    described(description, path, "get", reply)


def test_a_model_that_is_not_there(stack: Stack, description: dict[str, Any]) -> None:
    reply = stack.http.get("/v2/models/nothing")

    assert reply.status == 404
    described(description, f"/v2/models/{MODEL}", "get", reply)


@pytest.mark.parametrize(("name", "status"), [("image", 200), ("pictures", 400)])
@pytest.mark.parametrize("version", ["", f"/versions/{VERSION}"])
def test_inference(
    stack: Stack, description: dict[str, Any], name: str, status: int, version: str
) -> None:
    files = [b64encode(path.read_bytes()).decode() for path in PICTURES]
    image = {"name": name, "shape": [len(files), 1], "datatype": "BYTES", "data": files}
    body = json.dumps({"id": "1", "inputs": [image]}).encode()
    path = f"/v2/models/{MODEL}{version}/infer"
    address = path.replace(MODEL, "shapes").replace(VERSION, version_of(stack))

    reply = stack.http.ask("POST", address, body, {"Content-Type": "application/json"})

    assert reply.status == status, reply.text
    described(description, path, "post", reply)
