"""An open loop of HTTP clients in one process: pictures come at their own instants, with deadlines.

``python -m bench.open_loop PORT PICTURE FORM OFFER``, where the last one is the JSON of an `Offer`,
prints one line of JSON: the `Outcomes` of each class of clients. A client hangs up at its deadline.
Latency counts from when a picture was due, so a server or a sender that stalls cannot hide it.
"""

import heapq
import json
import selectors
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from bench.closed_loop import Client, Form, picture_request
from imageserve_loadtest.schedule import POISSON, RateSegment, instants

BURSTS = "bursts"
BURST_S = 0.5
QUIET_S = 2.0
BURST_FACTOR = 3.0
"""Of the mean rate; a quiet time brings half of it, so the mean over both is as asked for."""

_STEP_S = 0.02


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of clients: their share of all requests, and how long each waits."""

    share: float
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Offer:
    """The load of one measurement."""

    arrivals: str
    """``poisson`` or ``bursts``."""
    rate: float
    warm_up_s: float
    """Requests of this time are sent but not counted."""
    seconds: float
    kinds: Sequence[Kind]
    seed: int = 1

    @property
    def all_s(self) -> float:
        return self.warm_up_s + self.seconds


@dataclass(slots=True)
class Outcomes:
    """What became of the requests of one class."""

    offered: int = 0
    in_time: int = 0
    late: int = 0
    """Answers that came after the deadline, and requests that had none by then."""
    refused: int = 0
    """Answers other than 200, and connections that failed."""

    @property
    def share(self) -> float:
        """The share that was answered in time."""
        return self.in_time / self.offered if self.offered else 1.0


def segments(offer: Offer) -> list[RateSegment]:
    """Return how the rate changes over time."""
    if offer.arrivals == POISSON:
        return [RateSegment(offer.all_s, offer.rate, offer.rate)]
    burst, quiet = BURST_FACTOR * offer.rate, offer.rate / 2
    pairs = [RateSegment(QUIET_S, quiet, quiet), RateSegment(BURST_S, burst, burst)]
    return pairs * (1 + int(offer.all_s / (BURST_S + QUIET_S)))


def schedule(offer: Offer) -> Iterator[tuple[float, int]]:
    """Yield when each request is due, in seconds, and the number of its class."""
    drawn = Random(f"classes/{offer.seed}")
    shares = [kind.share for kind in offer.kinds]
    for due in instants(segments(offer), POISSON, offer.seed):
        if due >= offer.all_s:
            return
        yield due, drawn.choices(range(len(shares)), shares)[0]


@dataclass(slots=True)
class _Request:
    """One request that is on its way."""

    end: float
    outcomes: Outcomes
    client: Client | None
    """None once it is answered."""


def judge(outcomes: Outcomes, status: int | None, *, is_late: bool) -> None:
    """Count one request; ``status`` is None where it had no answer by its deadline."""
    outcomes.offered += 1
    if status is not None and status != 200:
        outcomes.refused += 1
    elif is_late or status is None:
        outcomes.late += 1
    else:
        outcomes.in_time += 1


class OpenLoop:
    """Sends an offer's requests, each over a connection that is idle, or over a new one."""

    def __init__(self, port: int, picture: bytes, form: Form, offer: Offer) -> None:
        self._port = port
        self._offer = offer
        self._requests = [picture_request(form, picture, each.deadline_s) for each in offer.kinds]
        self._selector = selectors.DefaultSelector()
        self._idle: deque[Client] = deque()
        self._running: dict[Client, _Request] = {}
        self._ends: list[tuple[float, int, _Request]] = []
        self._counted = [Outcomes() for _ in offer.kinds]
        self._not_counted = Outcomes()

    def run(self) -> list[Outcomes]:
        began = time.perf_counter()
        for number, (due, kind) in enumerate(schedule(self._offer)):
            self._work_until(began + due)
            self._send(number, began, due, kind)
        while self._running:
            self._work_until(time.perf_counter() + _STEP_S)
        return self._counted

    def _send(self, number: int, began: float, due: float, kind: int) -> None:
        is_counted = due >= self._offer.warm_up_s
        outcomes = self._counted[kind] if is_counted else self._not_counted
        end = began + due + self._offer.kinds[kind].deadline_s
        client = self._idle.pop() if self._idle else Client(self._port, self._selector)
        if not client.start(self._requests[kind], is_broken=False):
            judge(outcomes, 0, is_late=False)
            return
        self._running[client] = request = _Request(end, outcomes, client)
        heapq.heappush(self._ends, (end, number, request))

    def _work_until(self, until: float) -> None:
        """Take answers, and hang up where a deadline passes, until this instant."""
        while (now := time.perf_counter()) < until:
            self._hang_up(now)
            next_end = self._ends[0][0] if self._ends else until
            for key, _ in self._selector.select(max(0.0, min(until, next_end) - now)):
                self._go_on(key.data)
        self._hang_up(time.perf_counter())

    def _go_on(self, client: Client) -> None:
        answer = client.go_on()
        if client not in self._running:  # The server has closed a connection that was idle.
            client.close()
            self._idle.remove(client)
            return
        if answer is None:
            return
        request = self._running.pop(client)
        request.client = None
        judge(request.outcomes, answer[0], is_late=time.perf_counter() > request.end)
        self._idle.append(client)

    def _hang_up(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            request = heapq.heappop(self._ends)[2]
            if request.client is not None:
                self._running.pop(request.client)
                request.client.close()
                judge(request.outcomes, None, is_late=True)


def as_json(offer: Offer) -> str:
    return json.dumps(asdict(offer))


def from_json(text: str) -> Offer:
    told: dict[str, Any] = json.loads(text)
    return Offer(**{**told, "kinds": [Kind(**kind) for kind in told["kinds"]]})


def main(arguments: list[str]) -> None:
    port, picture, form, offer = arguments
    loop = OpenLoop(int(port), Path(picture).read_bytes(), Form(form), from_json(offer))
    print(json.dumps([asdict(outcomes) for outcomes in loop.run()]))


if __name__ == "__main__":
    main(sys.argv[1:])
