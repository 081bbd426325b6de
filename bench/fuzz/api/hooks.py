"""What schemathesis needs to know of this API; it loads this file in an environment of its own.

- Bodies are pictures: those in the folder PICTURES, by their endings.
- What the description cannot say of parameters.
- An object in an answer may have no property that the description leaves out.
"""

import json
import os
from base64 import b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies as st

_LENGTH = "Inference-Header-Content-Length"
_OUTPUTS: list[dict[str, Any]] = [
    {"name": "probabilities"},
    {"name": "embedding", "parameters": {"binary_data": True}},
    {"name": "probabilities", "parameters": {"classification": 3}},
]
_OF_REQUESTS = (
    "InferenceRequest",
    "RequestParameters",
    "Input",
    "TensorParameters",
    "AskedOutput",
    "OutputParameters",
)
"""What is unknown in these is passed over, as the protocol says."""
_FILES = sorted(Path(os.environ["PICTURES"]).iterdir())
_PICTURES = {path.name: path.read_bytes() for path in _FILES}

for _kind in {path.suffix[1:] for path in _FILES}:
    _of_kind = [data for name, data in _PICTURES.items() if name.endswith(_kind)]
    schemathesis.openapi.media_type(f"image/{_kind}", st.sampled_from(_of_kind))
schemathesis.openapi.media_type("application/octet-stream", st.sampled_from([*_PICTURES.values()]))


def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    for name, schema in raw_schema["components"]["schemas"].items():
        if "properties" in schema and name not in _OF_REQUESTS:
            schema.setdefault("additionalProperties", False)


def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    query, headers = case.query or {}, case.headers or {}
    if case.meta.generation.mode.is_positive:
        _fit_together(case, query, headers)
    with suppress(KeyError, ValueError):
        if 0 < float(headers["X-Request-Timeout"]) < 1:  # Most answers need time.
            headers["X-Request-Timeout"] = "7.5"
    if case.path == "/predict" and len(query) % 2:
        headers["Accept"] = "application/octet-stream"


def _fit_together(case: Any, query: dict[str, Any], headers: Any) -> None:
    """Make what is allowed by itself allowed together: OpenAPI cannot say it."""
    if query.get("output") in ("scores", "embedding"):  # The others choose labels.
        case.query = {name: query[name] for name in query if name not in ("top", "min")}
    if "version" in (case.path_parameters or {}) and len(headers) % 2:
        case.path_parameters["version"] = "1"
    if not case.path.endswith("/infer"):
        return
    headers.pop(_LENGTH, None)
    if case.media_type == "application/json":
        _send_pictures(case.body)
        return
    headers[_LENGTH] = "0"  # The body is one picture.
    if isinstance(case.body, dict):  # That of the call before, which was JSON.
        case.body = [*_PICTURES.values()][len(case.body) % len(_FILES)]


def _send_pictures(body: dict[str, Any]) -> None:
    """Write pictures into a request of the inference protocol, and ask for one of its outputs."""
    length = len(json.dumps(body))
    count = length % 3 + 1
    start = length % len(_FILES)
    data = [b64encode(each).decode() for each in [*_PICTURES.values()][start:][:count]]
    body["inputs"] = [{"name": "image", "datatype": "BYTES", "shape": [len(data), 1], "data": data}]
    body["outputs"] = [_OUTPUTS[length % len(_OUTPUTS)]]
    parameters = body.get("parameters", {})
    parameters.pop("timeout", None)  # Most answers need time.
    if "priority" in parameters:  # To JSON Schema 2743.0 is a whole number.
        parameters["priority"] = int(parameters["priority"])


for _hook in (before_load_schema, before_call):
    schemathesis.hook(_hook)
