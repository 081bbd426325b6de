"""The target's HTTP API: the requests that are sent, and the pages that describe the target."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imageserve_loadtest.client import Address, Client, NoAnswer, TargetError
from imageserve_loadtest.pictures import ModelFacts
from imageserve_loadtest.result import QueueSnapshot

BOUNDARY = "imageserve-loadtest-7f3c9a1e5d"
_CRLF = "\r\n"
_POLL_S = 0.25
_WEB = "web_capacity_per_s"


@dataclass(frozen=True, slots=True)
class Requests:
    """Writes requests to one target as bytes."""

    address: Address
    api_key: str = ""
    query: str = ""
    """Such as ``?top=1``."""
    priority: str = ""
    """What ``X-Priority`` says; "": it is not sent."""

    def get(self, path: str) -> bytes:
        return f"GET {self.address.path}{path} HTTP/1.1{_CRLF}{self._headers()}{_CRLF}".encode()

    def predict(
        self, pictures: Sequence[bytes], request_id: str, *, multipart: bool = False
    ) -> bytes:
        """Write a ``POST /predict``: one picture as the body, several as a form."""
        if multipart or len(pictures) > 1:
            kind, body = f"multipart/form-data; boundary={BOUNDARY}", form(pictures)
        else:
            kind, body = "application/octet-stream", pictures[0]
        priority = f"X-Priority: {self.priority}{_CRLF}" if self.priority else ""
        head = (
            f"POST {self.address.path}/predict{self.query} HTTP/1.1{_CRLF}{self._headers()}"
            f"{priority}X-Request-Id: {request_id}{_CRLF}Content-Type: {kind}{_CRLF}"
            f"Content-Length: {len(body)}{_CRLF}{_CRLF}"
        )
        return head.encode() + body

    def _headers(self) -> str:
        key = f"Authorization: Bearer {self.api_key}{_CRLF}" if self.api_key else ""
        return f"Host: {self.address.authority}{_CRLF}{key}"


def form(pictures: Sequence[bytes]) -> bytes:
    """Write pictures as a multipart form whose parts are all named ``image``."""
    parts = [
        f"--{BOUNDARY}{_CRLF}"
        f'Content-Disposition: form-data; name="image"; filename="{i}"{_CRLF}'
        f"Content-Type: application/octet-stream{_CRLF}{_CRLF}".encode()
        + picture
        + b"\r\n"
        for i, picture in enumerate(pictures)
    ]
    return b"".join(parts) + f"--{BOUNDARY}--{_CRLF}".encode()


class TargetPages:
    """Reads ``/readyz``, ``/models`` and ``/status`` over a connection that is not measured."""

    def __init__(self, client: Client, requests: Requests) -> None:
        self._client = client
        self._requests = requests

    async def wait_ready(self, timeout_s: float, tell: Callable[[str], None]) -> None:
        """Wait until ``/readyz`` answers 200; do not ask at all where the time-out is 0.

        ``tell`` is told once what it waits for, where it has to.

        Raises:
            TargetError: it did not within the time-out.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        url, is_told = self._requests.address.url, False
        while timeout_s:
            problem = await self._readiness_problem()
            if not problem:
                return
            if loop.time() >= end_s:
                raise TargetError(f"{url} is not ready after {timeout_s:g} s: {problem}")
            if not is_told:
                tell(f"{url} is not ready ({problem}): waiting for {timeout_s:g} s at most")
                is_told = True
            await asyncio.sleep(min(_POLL_S, timeout_s))

    async def model(self, name: str | None) -> ModelFacts:
        """Return the facts about a model; ``None`` means the first one.

        Raises:
            TargetError: the target lists its models, and this one is not among them.
        """
        models = (await self._page("/models")).get("models")
        if not isinstance(models, dict) or not models:
            return ModelFacts(name or "")
        name = name or next(iter(models))
        if name not in models:
            raise TargetError(f"there is no model {name!r}; there are {', '.join(models)}")
        told = models[name] if isinstance(models[name], dict) else {}
        size, stand_in = told.get("input_size"), told.get("stand_in")
        if not _keeps_pixels(told.get("preparation")):
            stand_in = False
        valid = isinstance(size, list) and all(type(side) is int and side > 0 for side in size)
        return ModelFacts(
            name,
            tuple(size) if valid and size else (),
            stand_in if isinstance(stand_in, bool) else None,
        )

    async def queue(self, model: str, at_s: float) -> QueueSnapshot | None:
        """Return what ``/status`` says about a model's queue; None where it says nothing."""
        models = (await self._page("/status")).get("models")
        status = models.get(model) if isinstance(models, dict) else None
        return _snapshot(status, at_s) if isinstance(status, dict) else None

    async def _readiness_problem(self) -> str:
        try:
            response = await self._client.send(self._requests.get("/readyz"))
        except NoAnswer as error:
            return str(error)
        return "" if response.status == 200 else f"/readyz answers {response.status}"

    async def _page(self, path: str) -> Mapping[str, Any]:
        """Return a page's JSON object; an empty one where the page does not exist."""
        try:
            response = await self._client.send(self._requests.get(path))
            page = json.loads(response.body) if response.status == 200 else {}
        except (NoAnswer, ValueError):
            return {}
        return page if isinstance(page, dict) else {}


def _keeps_pixels(preparation: Any) -> bool:
    """Whether a picture of the input size crosses as it is; old servers do not say it, and it does.

    Only then a client knows the label of a stand-in.
    """
    if not isinstance(preparation, dict):
        return True
    told = preparation.get("resize"), preparation.get("resize_to"), preparation.get("colour")
    return told == ("squash", None, "rgb")


def _snapshot(status: Mapping[str, Any], at_s: float) -> QueueSnapshot | None:
    numbers = [status.get(key) for key in ("queued", "in_flight", "capacity_per_s")]
    workers = status.get("workers")
    if not all(isinstance(number, (int, float)) for number in numbers):
        return None
    queued, in_flight, capacity = numbers
    return QueueSnapshot(
        at_s=at_s,
        queued=int(queued or 0),
        in_flight=int(in_flight or 0),
        capacity_per_s=float(capacity or 0.0),
        workers=len(workers) if isinstance(workers, list) else 0,
        # A new server says null until it has decoded a picture, an old one says nothing.
        web_capacity_per_s=_number(status[_WEB]) if _WEB in status else None,
    )


def _number(value: Any) -> float:
    """Return a number of a page; 0 for anything else."""
    return float(value) if isinstance(value, (int, float)) else 0.0
