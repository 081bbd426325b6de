"""What the target says of itself: whether it is ready, what it serves, how long its queue is."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imageserve.loadtest.client import Client
from imageserve.loadtest.message import NoAnswer, Requests, TargetError
from imageserve.loadtest.pictures import STAND_IN
from imageserve.loadtest.result import QueueSample

_POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What ``GET /models`` tells of one model; empty where the target has no such page."""

    name: str = ""
    input_size: tuple[int, ...] = ()
    """Height and width in pixels."""

    @property
    def is_stand_in(self) -> bool:
        return self.name == STAND_IN and len(self.input_size) == 2


class TargetPages:
    """Reads the pages of one target, over a connection that is not part of the load."""

    def __init__(self, client: Client, requests: Requests) -> None:
        self._client = client
        self._requests = requests

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until ``/readyz`` answers 200; a time-out of 0 asks nothing.

        Raises:
            TargetError: it did not in time.
        """
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        while timeout_s:
            problem = await self._unready()
            if not problem:
                return
            if loop.time() >= end_s:
                url = self._requests.address.url
                raise TargetError(f"{url} is not ready after {timeout_s:g} s: {problem}")
            await asyncio.sleep(min(_POLL_S, timeout_s))

    async def model(self, name: str | None) -> ModelFacts:
        """Return the facts of a model, the first where none is named.

        Raises:
            TargetError: there is a list of models, and this one is not in it.
        """
        models = (await self._page("/models")).get("models")
        if not isinstance(models, dict) or not models:
            return ModelFacts(name or "")
        name = name or next(iter(models))
        if name not in models:
            raise TargetError(f"there is no model {name!r}; there are {', '.join(models)}")
        size = models[name].get("input_size") if isinstance(models[name], dict) else None
        right = isinstance(size, list) and all(type(side) is int and side > 0 for side in size)
        return ModelFacts(name, tuple(size) if right and size else ())

    async def queue(self, model: str, at_s: float) -> QueueSample | None:
        """Return what ``/status`` says of a model's queue; None where it says nothing."""
        models = (await self._page("/status")).get("models")
        status = models.get(model) if isinstance(models, dict) else None
        return _sample(status, at_s) if isinstance(status, dict) else None

    async def _unready(self) -> str:
        try:
            response = await self._client.ask(self._requests.get("/readyz"))
        except NoAnswer as error:
            return str(error)
        return "" if response.status == 200 else f"/readyz answers {response.status}"

    async def _page(self, path: str) -> Mapping[str, Any]:
        """Return a page's JSON; nothing where there is no such page."""
        try:
            response = await self._client.ask(self._requests.get(path))
            page = json.loads(response.body) if response.status == 200 else {}
        except (NoAnswer, ValueError):
            return {}
        return page if isinstance(page, dict) else {}


def _sample(status: Mapping[str, Any], at_s: float) -> QueueSample | None:
    numbers = [status.get(key) for key in ("queued", "in_flight", "capacity_per_s")]
    workers = status.get("workers")
    if not all(isinstance(number, (int, float)) for number in numbers):
        return None
    queued, in_flight, capacity = numbers
    return QueueSample(
        at_s=at_s,
        queued=int(queued or 0),
        in_flight=int(in_flight or 0),
        capacity_per_s=float(capacity or 0.0),
        workers=len(workers) if isinstance(workers, list) else 0,
    )
