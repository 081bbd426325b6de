"""The client for asyncio; `Client` is this one behind a thread."""

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable
from itertools import islice
from typing import Any, Self, Unpack

import httpx2

from imageserve.client.errors import ClientError, Unreachable
from imageserve.client.patience import Patience
from imageserve.client.pictures import Picture, contents
from imageserve.client.results import Outcome, Result
from imageserve.client.wire import Options, Request, read_answer

DEFAULT_URL = "http://localhost:8000"
DEFAULT_TIMEOUT_S = 60.0
DEFAULT_CONCURRENCY = 16
CONNECT_S, IDLE_S = 5.0, 30.0

_REFUSED = (httpx2.ConnectError, httpx2.ConnectTimeout)
_BROKEN = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.TimeoutException)


class AsyncClient:
    """Classifies pictures; of one event loop, to be closed or used by ``async with``."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        **http: Any,
    ) -> None:
        """``url`` and ``api_key``: by default IMAGESERVE_URL and IMAGESERVE_API_KEY.

        ``timeout``: seconds for one picture, with all waiting. ``http``: more arguments of
        ``httpx2.AsyncClient``, such as ``verify`` or ``proxy``. Raises ValueError for a bad URL.
        """
        self.url = (url or os.environ.get("IMAGESERVE_URL") or DEFAULT_URL).rstrip("/")
        self.timeout_s = timeout
        self._api_key = (api_key or os.environ.get("IMAGESERVE_API_KEY") or "").strip()
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, not {self.url!r}")
        self._was_reached = False
        self._http = httpx2.AsyncClient(
            **{
                "timeout": httpx2.Timeout(None, connect=CONNECT_S),  # `classify` limits the rest.
                "limits": httpx2.Limits(keepalive_expiry=IDLE_S),
                "verify": self.url.startswith("https:"),  # To load all authorities takes 0.1 s.
                **http,
            }
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def classify(self, picture: Picture, **options: Unpack[Options]) -> Result:
        """Classify one picture. Raises ClientError.

        It is sent again, while there is time, where the server is busy or the connection breaks.
        """
        request = Request(uuid.uuid4().hex, self._api_key, options)
        timeout_s = options.get("timeout", self.timeout_s)
        patience = Patience(timeout_s, request.id)
        try:
            async with asyncio.timeout(timeout_s):
                end = asyncio.get_running_loop().time() + timeout_s
                body = (
                    picture
                    if isinstance(picture, bytes)
                    else await asyncio.to_thread(contents, picture)
                )
                return await self._send(request, body, patience, end)
        except TimeoutError:
            raise patience.ran_out() from patience.last

    async def _send(self, request: Request, body: bytes, patience: Patience, end: float) -> Result:
        now = asyncio.get_running_loop().time
        while True:
            try:
                return await self._send_once(request, body, end - now())
            except ClientError as error:
                await asyncio.sleep(patience.pause_s(error, end - now()))

    async def _send_once(self, request: Request, body: bytes, left_s: float) -> Result:
        try:
            response = await self._http.post(
                f"{self.url}/predict",
                params=request.query,
                headers=request.headers(left_s),
                content=body,
            )
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            said = f"{self.url} cannot be reached: {str(error) or type(error).__name__}"
            unreachable = Unreachable(said, "unreachable", request_id=request.id)
            # A server that was there comes back. One that never was may be a wrong address.
            refused = isinstance(error, _REFUSED)
            unreachable.passes = self._was_reached if refused else isinstance(error, _BROKEN)
            raise unreachable from error
        self._was_reached = True
        headers, answer = response.headers, response.content
        return read_answer(response.status_code, headers, answer, self.url, request.id)

    async def classify_many(
        self,
        pictures: Iterable[Picture],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        in_order: bool = True,
        progress: Callable[[int], None] | None = None,
        **options: Unpack[Options],
    ) -> AsyncGenerator[Outcome]:
        """Classify any number of pictures, so many at a time; each has the whole timeout.

        Yields an outcome for each, in order or as they come, and takes the next picture only
        then. ``progress`` is told how many are done.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more, not {concurrency}")
        each = enumerate(pictures)
        waiting: list[asyncio.Task[Outcome]] = []
        done = 0
        try:
            while True:
                for index, picture in islice(each, concurrency - len(waiting)):
                    task = asyncio.create_task(self.outcome(index, picture, options))
                    waiting.append(task)
                if not waiting:
                    return
                wanted = waiting[:1] if in_order else waiting
                first, _ = await asyncio.wait(wanted, return_when=asyncio.FIRST_COMPLETED)
                ready = first.pop()
                waiting.remove(ready)
                done += 1
                if progress:
                    progress(done)
                yield ready.result()
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def outcome(self, index: int, picture: Picture, options: Options) -> Outcome:
        """Classify one picture of many; its error is returned."""
        try:
            return Outcome(index, picture, await self.classify(picture, **options))
        except ClientError as error:
            return Outcome(index, picture, error)
