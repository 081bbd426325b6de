"""Sends the load: an open loop, or clients in closed loops."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from imageserve_loadtest import checks
from imageserve_loadtest.client import Client, NoAnswer, Response
from imageserve_loadtest.pictures import Picture, PictureSampler
from imageserve_loadtest.result import Outcome
from imageserve_loadtest.tally import Record, Tally, Times
from imageserve_loadtest.target import Requests

AFTER_AN_ERROR_S = 0.1
"""Pause of a closed loop's client after a request without an answer. Without it, a server that
refuses connections would be asked thousands of times a second."""


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """How requests are sent."""

    run_id: str
    """Prefix of every request id."""
    multipart: bool = False
    most_open: int = 4096
    """Requests that may be open at once; one more is not sent and counts as ``overrun``."""


class Driver:
    """Sends requests to one target and counts how each ends."""

    def __init__(
        self,
        client: Client,
        requests: Requests,
        sampler: PictureSampler,
        tally: Tally,
        options: RequestOptions,
        on_record: Callable[[Record], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._requests = requests
        self._sampler = sampler
        self._tally = tally
        self._options = options
        self._on_record = on_record
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._number = 0
        self._open = 0
        self._stopping = asyncio.Event()
        self._pacer: asyncio.Task[None] | None = None

    @property
    def elapsed_s(self) -> float:
        return self._loop.time() - self._began_s

    @property
    def stopped(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """Send no more requests; the loops still wait for open ones."""
        self._stopping.set()
        if self._pacer is not None:
            self._pacer.cancel()

    async def open_loop(self, instants: Iterable[float]) -> None:
        """Send at these instants, in seconds from now; return when all are answered."""
        self._began_s = self._loop.time()
        async with asyncio.TaskGroup() as group:
            self._pacer = group.create_task(self._pace(instants, group))

    async def closed_loop(self, phases: Sequence[tuple[float, int]]) -> None:
        """Run the clients of each (seconds, clients) phase; return when all have ended."""
        self._began_s = self._loop.time()
        most = max((clients for _, clients in phases), default=0)
        async with asyncio.TaskGroup() as group:
            for i in range(most):
                group.create_task(self._client_loop(i, phases))

    # -- the two loops --------------------------------------------------------------------------

    async def _pace(self, instants: Iterable[float], group: asyncio.TaskGroup) -> None:
        """Start each request when it is due, or at once if that instant has passed."""
        for intended_s in instants:
            # Even sleep(0) lets answers be read while the pace is behind.
            await asyncio.sleep(max(0.0, intended_s - self.elapsed_s))
            group.create_task(self._request(intended_s))

    async def _client_loop(self, i: int, phases: Sequence[tuple[float, int]]) -> None:
        """Be client number i: send in the phases that have more than i clients."""
        end_s = 0.0
        for seconds, clients in phases:
            end_s += seconds
            while i < clients and self.elapsed_s < end_s and not self.stopped:
                record = await self._request(self.elapsed_s)
                await self._pause(min(_pause_s(record), end_s - self.elapsed_s))
            await self._pause(end_s - self.elapsed_s)

    async def _pause(self, seconds: float) -> None:
        if seconds > 0 and not self.stopped:
            try:
                async with asyncio.timeout(seconds):
                    await self._stopping.wait()
            except TimeoutError:
                return

    # -- one request ----------------------------------------------------------------------------

    async def _request(self, intended_s: float) -> Record:
        """Send one request, wait until it ends, and count it."""
        pictures = self._sampler.draw()
        self._number += 1
        request_id = f"{self._options.run_id}-{self._number}"
        sent_s = self.elapsed_s
        self._tally.begin(intended_s, sent_s, len(pictures))
        answer = await self._answer(pictures, request_id)
        times = Times(intended_s, sent_s, self.elapsed_s)
        record = _record(times, pictures, request_id, answer)
        self._tally.end(record)
        self._on_record(record)
        return record

    async def _answer(self, pictures: Sequence[Picture], request_id: str) -> Response | NoAnswer:
        if self._open >= self._options.most_open:
            return NoAnswer("overrun", f"{self._open} requests are open already")
        data = [picture.data for picture in pictures]
        message = self._requests.predict(data, request_id, multipart=self._options.multipart)
        self._open += 1
        try:
            return await self._client.send(message)
        except NoAnswer as error:
            return error
        finally:
            self._open -= 1


def _record(
    times: Times, pictures: Sequence[Picture], request_id: str, answer: Response | NoAnswer
) -> Record:
    picture = "+".join(picture.name for picture in pictures)
    if isinstance(answer, NoAnswer):
        return Record(
            times, Outcome.ERROR, picture, request_id, error=answer.kind, detail=str(answer)
        )
    check = checks.check(pictures, answer)
    return Record(
        times,
        check.outcome,
        picture,
        request_id,
        status=answer.status,
        code=check.code,
        retry_after_s=checks.retry_after_s(answer),
        error=check.error,
        detail=check.detail,
        broken=check.broken,
        stages_ms=checks.stages_ms(answer),
    )


def _pause_s(record: Record) -> float:
    """Return how long a closed loop's client waits before its next request."""
    if record.outcome is Outcome.REFUSED:
        return record.retry_after_s or AFTER_AN_ERROR_S
    return AFTER_AN_ERROR_S if record.outcome is Outcome.ERROR else 0.0
