"""The client for code without asyncio: `AsyncClient` in one background thread.

So every deadline and every Ctrl-C ends what is under way, which blocking sockets could not.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent import futures
from functools import partial
from itertools import islice
from typing import Any, Self, TypeVar, Unpack

from imageserve.client.asynchronous import DEFAULT_CONCURRENCY, DEFAULT_TIMEOUT_S, AsyncClient
from imageserve.client.pictures import Picture
from imageserve.client.results import Outcome, Result
from imageserve.client.wire import Options

T = TypeVar("T")


class Client:
    """Classifies pictures; of any thread, and of any process that is forked with it."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        **http: Any,
    ) -> None:
        """As of `AsyncClient`."""
        self._make = partial(AsyncClient, url, api_key=api_key, timeout=timeout, **http)
        self._client = self._make()
        self._process = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        _finished(self._submit(self._mine.aclose()))

    def classify(self, picture: Picture, **options: Unpack[Options]) -> Result:
        """Classify one picture, as `AsyncClient.classify`."""
        return _finished(self._submit(self._mine.classify(picture, **options)))

    def classify_many(
        self,
        pictures: Iterable[Picture],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        in_order: bool = True,
        progress: Callable[[int], None] | None = None,
        **options: Unpack[Options],
    ) -> Generator[Outcome]:
        """Classify any number of pictures, as `AsyncClient.classify_many`."""
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more, not {concurrency}")
        each = enumerate(pictures)
        waiting: list[futures.Future[Outcome]] = []
        done = 0
        try:
            while True:
                for index, picture in islice(each, concurrency - len(waiting)):
                    waiting.append(self._submit(self._mine.outcome(index, picture, options)))
                if not waiting:
                    return
                wanted = waiting[:1] if in_order else waiting
                first, _ = futures.wait(wanted, return_when=futures.FIRST_COMPLETED)
                ready = first.pop()
                waiting.remove(ready)
                done += 1
                if progress:
                    progress(done)
                yield ready.result()
        finally:
            for future in waiting:
                future.cancel()

    @property
    def _mine(self) -> AsyncClient:
        """The client of this process: connections are not shared with one that was forked."""
        if self._process != os.getpid():
            self._process, self._client = os.getpid(), self._make()
        return self._client

    def _submit(self, work: Coroutine[Any, Any, T]) -> futures.Future[T]:
        return asyncio.run_coroutine_threadsafe(work, _background.loop())


def _finished(future: futures.Future[T]) -> T:
    try:
        return future.result()
    finally:
        future.cancel()  # It is still under way only where Ctrl-C came.


class _Background:
    """The event loop of all clients of a process, in a thread that ends with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                name = "imageserve-client"
                threading.Thread(target=self._loop.run_forever, name=name, daemon=True).start()
            return self._loop


_background = _Background()
# A forked process has the loop, but not its thread.
os.register_at_fork(after_in_child=_background.__init__)  # type: ignore[misc]
