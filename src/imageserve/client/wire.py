"""A request of ``/predict`` and its answer (docs/http-api.md). No I/O."""

import json
import re
import sys
from array import array
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, TypedDict

from imageserve import __version__
from imageserve.client.errors import PASSING, ClientError, NotImageserve, Unavailable, kind
from imageserve.client.results import Prediction, Result

BYTES = "application/octet-stream"


class Options(TypedDict, total=False):
    """What may be asked for beside a picture; what is left out, the server decides."""

    top: int | Literal["all"]
    min: float
    model: str
    output: Literal["labels", "scores", "embedding"]
    priority: Literal["interactive", "background"]
    timeout: float
    """Seconds in which an answer must come, with all waiting; by default the client's."""
    headers: Mapping[str, str]
    """More headers to send, such as ``traceparent``; the client's own have the last word."""


class Request:
    """What is sent for one picture, each time that it is sent."""

    def __init__(self, request_id: str, api_key: str, options: Options) -> None:
        """Raises TypeError where an option is unknown."""
        if unknown := options.keys() - Options.__annotations__.keys():
            raise TypeError(f"unknown option {', '.join(sorted(unknown))}")
        self.id = request_id
        texts = {name: options.get(name) for name in ("top", "model", "output")}
        self.query = {name: str(value) for name, value in texts.items() if value is not None}
        if (least := options.get("min")) is not None:
            self.query["min"] = f"{least:.9f}"
        self._headers = {
            "Content-Type": BYTES,
            "User-Agent": f"imageserve-client/{__version__}",
            "X-Request-Id": self.id,
        }
        if options.get("output", "labels") != "labels":
            self._headers["Accept"] = BYTES
        if priority := options.get("priority"):
            self._headers["X-Priority"] = priority
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        own = {name.lower() for name in (*self._headers, "X-Request-Timeout")}
        more = options.get("headers", {}).items()
        self._headers |= {name: value for name, value in more if name.lower() not in own}

    def headers(self, left_s: float) -> dict[str, str]:
        """Return the headers while so much time is left.

        The server is told a little less, so that its own reason arrives before we give up.
        """
        told_s = max(left_s - min(0.2, 0.1 * left_s), 0.001)
        return {**self._headers, "X-Request-Timeout": f"{told_s:.3f}"}


def read_answer(
    status: int, headers: Mapping[str, str], body: bytes, url: str, request_id: str
) -> Result:
    """Return what an answer says. Raises ClientError where it has neither labels nor a vector.

    ``headers``: their names are found in any case. ``request_id``: what was sent.
    """
    request_id = headers.get("X-Request-Id", request_id)
    if status == 200:
        with suppress(ValueError, KeyError, TypeError):
            return _result(headers, body, request_id)
    error = _error(status, body, url, request_id)
    error.passes = status in PASSING
    error.retry_after_s = retry_after_s(headers.get("Retry-After"))
    raise error


def _result(headers: Mapping[str, str], body: bytes, request_id: str) -> Result:
    """Raises ValueError, KeyError or TypeError where it is no answer of imageserve."""
    predictions: tuple[Prediction, ...] = ()
    vector = array("f")
    if headers.get("Content-Type") == BYTES:
        vector.frombytes(body)
        if sys.byteorder == "big":
            vector.byteswap()
    else:
        answer = json.loads(body)["predictions"]
        predictions = tuple(Prediction(each["label"], each["probability"]) for each in answer)
    version = headers.get("X-Model-Version", "")
    return Result(predictions, vector, version, request_id, timing_ms(headers))


def _error(status: int, body: bytes, url: str, request_id: str) -> ClientError:
    answer: Any = None
    with suppress(ValueError):
        answer = json.loads(body)
    match answer:
        case {"error": {"code": str(code), "message": str(message)}}:
            return kind(status, code)(message, code, status=status, request_id=request_id)
    # Not our words: a proxy's in front of us, or another server's.
    if status in PASSING:
        said = f"{url} answers {status}"
        return Unavailable(said, "unavailable", status=status, request_id=request_id)
    said = f"{url} answers {status}; is it imageserve?"
    return NotImageserve(said, "not_imageserve", status=status, request_id=request_id)


def retry_after_s(text: str | None) -> float | None:
    """Read ``Retry-After``; None where it gives no seconds. imageserve never sends a date."""
    return float(text) if text is not None and re.fullmatch(r"[0-9]{1,9}", text) else None


def timing_ms(headers: Mapping[str, str]) -> dict[str, float]:
    """Read ``Server-Timing``: ``decode;dur=1.5, queue;dur=0.2``."""
    times = {}
    for part in headers.get("Server-Timing", "").split(","):
        name, found, duration = part.strip().partition(";dur=")
        if found:
            with suppress(ValueError):
                times[name] = float(duration)
    return times
