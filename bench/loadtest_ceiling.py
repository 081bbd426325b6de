"""How fast the load test itself can send on one core.

``python -m bench.loadtest_ceiling``: the server is another process that answers every request at
once with the same few bytes. Answers are checked as always: the server knows the picture's label.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from imageserve_loadtest.client import Address, Client, precise_loop
from imageserve_loadtest.driver import Driver, RequestOptions
from imageserve_loadtest.pictures import Picture, PictureSampler
from imageserve_loadtest.result import SearchStep
from imageserve_loadtest.schedule import POISSON, RateSegment, instants
from imageserve_loadtest.search import best_rate, next_rate
from imageserve_loadtest.tally import Tally
from imageserve_loadtest.target import Requests

PICTURE = Picture("picture", b"x" * 5_000, "label")
BODY = b'{"success": true, "predictions": [{"label": "label", "probability": 0.9}]}\n'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"Server-Timing: decode;dur=0.1, queue;dur=0.1, model;dur=0.1, total;dur=0.3\r\n"
    b"X-Request-Id: 0123456789abcdef\r\nContent-Length: " + str(len(BODY)).encode() + b"\r\n\r\n"
)
LATE_MS = 10.0
"""If the 99th percentile of lateness is above it, the rate was not really sent."""


class TrivialServer(asyncio.Protocol):
    """Answers as soon as a complete request has arrived."""

    def __init__(self) -> None:
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._missing == 0:
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().rpartition(b"content-length: ")[2].partition(b"\r\n")[0])
            self._missing = length - len(body)
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._transport.write(ANSWER + BODY)


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(TrivialServer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def load(port: int, rate_per_s: float | None, seconds: float, clients: int = 16) -> Tally:
    """Send at a rate, or as fast as this many clients can."""
    address = Address("http", "127.0.0.1", port)
    client, tally = Client(address), Tally(seconds)
    driver = Driver(
        client, Requests(address), PictureSampler([PICTURE]), tally, RequestOptions("bench")
    )
    if rate_per_s is None:
        await driver.closed_loop([(seconds, clients)])
    else:
        segment = RateSegment(seconds, rate_per_s, rate_per_s)
        await driver.open_loop(instants([segment], POISSON, seed=1))
    client.close()
    return tally


@contextmanager
def trivial_server(core: int) -> Iterator[int]:
    """Run the server on a core of its own; yield its port."""
    command = [sys.executable, "-m", "bench.loadtest_ceiling", "--serve", str(core)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.terminate()


def run(port: int, rate_per_s: float | None, seconds: float) -> Tally:
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        return runner.run(load(port, rate_per_s, seconds))


def row(name: str, tally: Tally, seconds: float, cpu_s: float) -> str:
    counts = tally.counts()
    assert counts.good == counts.sent, counts
    late = tally.lateness.percentiles_ms([50.0, 99.0])
    latency = tally.latency.good.percentiles_ms([50.0, 99.0])
    figures = [late[50.0], late[99.0], tally.lateness.max_ms, latency[50.0], latency[99.0]]
    cells = [name, f"{counts.sent / seconds:,.0f}", *(f"{figure or 0:.2f}" for figure in figures)]
    return f"| {' | '.join(cells)} | {cpu_s / seconds:.0%} |"


def measured(port: int, rate_per_s: float | None, seconds: float) -> tuple[Tally, str]:
    cpu_s = time.process_time()
    tally = run(port, rate_per_s, seconds)
    name = "closed loop, 16 clients" if rate_per_s is None else f"open loop, {rate_per_s:,.0f}/s"
    return tally, row(name, tally, seconds, time.process_time() - cpu_s)


def search_ceiling(port: int, seconds: float) -> None:
    """Search for the highest rate that is still sent in time."""
    steps: list[SearchStep] = []
    while (rate_per_s := next_rate(2000.0, steps)) is not None:
        tally, text = measured(port, rate_per_s, seconds)
        print(text, flush=True)
        late_ms = tally.lateness.percentile_ms(99) or 0.0
        steps.append(SearchStep(rate_per_s, late_ms <= LATE_MS, rate_per_s, None, late_ms))
    print(f"\nhighest rate sent in time (p99 <= {LATE_MS:g} ms): {best_rate(steps):,.0f}/s")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.loadtest_ceiling")
    parser.add_argument("--seconds", type=float, default=5.0, help="per step")
    parser.add_argument("--serve", type=int, metavar="CORE", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    cores = sorted(os.sched_getaffinity(0))
    if options.serve is not None:
        os.sched_setaffinity(0, {options.serve})
        asyncio.run(serve())
        return
    os.sched_setaffinity(0, {cores[0]})
    print("| load | sent/s | late p50, ms | p99 | max | latency p50, ms | p99 | of a core |")
    print("|---|---|---|---|---|---|---|---|")
    with trivial_server(cores[-1]) as port:
        print(measured(port, None, options.seconds)[1], flush=True)
        search_ceiling(port, options.seconds)


if __name__ == "__main__":
    main()
