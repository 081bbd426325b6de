"""What schemathesis needs to know of this API; it loads this file in an environment of its own.

- Bodies are pictures: those in the folder PICTURES, by their endings.
- What the description cannot say of parameters.
- An object in an answer may have no property that the description leaves out.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies as st

_FILES = sorted(Path(os.environ["PICTURES"]).iterdir())
_PICTURES = {path.name: path.read_bytes() for path in _FILES}

for _kind in {path.suffix[1:] for path in _FILES}:
    _of_kind = [data for name, data in _PICTURES.items() if name.endswith(_kind)]
    schemathesis.openapi.media_type(f"image/{_kind}", st.sampled_from(_of_kind))
schemathesis.openapi.media_type("application/octet-stream", st.sampled_from([*_PICTURES.values()]))


def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    for schema in raw_schema["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)


def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    query, headers = case.query or {}, case.headers or {}
    if case.meta.generation.mode.is_positive and query.get("output") in ("scores", "embedding"):
        # They choose labels. OpenAPI cannot say that one parameter rules out another.
        case.query = {name: query[name] for name in query if name not in ("top", "min")}
    with suppress(KeyError, ValueError):
        if 0 < float(headers["X-Request-Timeout"]) < 1:  # Most answers need time.
            headers["X-Request-Timeout"] = "7.5"
    if case.path == "/predict" and len(query) % 2:
        headers["Accept"] = "application/octet-stream"


for _hook in (before_load_schema, before_call):
    schemathesis.hook(_hook)
