"""Twice as many pictures as two web processes can decode: what is refused, and what it costs.

The web processes have a core of their own. The load tool, Redis and a model that costs nothing
have the others, so that nothing but decoding is short.
"""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.redis_server import free_port
from tests.system.client import Client

from bench.chaos.accounts import goodput_per_s, percentile_ms
from bench.chaos.arena import Arena, Scale
from bench.chaos.load import Record, Shape, closed_loop, open_loop
from bench.processes import cpu_s
from bench.report import Verdict, number, percent
from imageserve_loadtest.result import Outcome

OVERLOAD = 2.0
CLIENTS = 32
"""As many as keep both web processes busy, and few enough that none is refused."""

LEAST_GOODPUT = 0.8
MOST_REFUSAL_SHARE = 1 / 6
MOST_REFUSAL_MS = 20.0
MOST_PROBE_S = 1.0
MOST_AGE_MS = 1000
_PROBE_EVERY_S = 0.05


def settings(scale: Scale) -> dict[str, str]:
    del scale
    return {
        "MODEL": "stand-in:batch_ms=0,image_ms=0,size=224",
        "BATCH_SIZE": "32",
        "QUEUE_LIMIT": "100000",
        "WEB_SLOTS": "256",
        "WEB_PROBE_PORT": str(free_port()),
    }


@dataclass(slots=True)
class _Phase:
    """What one load has shown."""

    records: Sequence[Record]
    web_cpu_s: float
    goodput_per_s: float

    def count(self, outcome: Outcome) -> int:
        return sum(record.outcome is outcome for record in self.records)

    @property
    def answer_s(self) -> float:
        """Processor time of the web processes per answer, where nothing was refused."""
        return self.web_cpu_s / max(1, self.count(Outcome.GOOD))


def overload_web(arena: Arena) -> list[Verdict]:
    seconds, warm_s = arena.scale.seconds, min(5.0, arena.scale.seconds / 5)
    with _pinned(arena):
        peak = _phase(arena, closed_loop(CLIENTS, max(seconds / 4, 3 * warm_s)), warm_s)
        with _probing(int(arena.stack.env["WEB_PROBE_PORT"])) as probes, arena.fault():
            rate = OVERLOAD * max(peak.goodput_per_s, 1 / peak.answer_s)
            over = _phase(arena, open_loop(rate, seconds), warm_s)
    arena.done["refusals"] = over.count(Outcome.REFUSED)
    arena.done["probes"] = len(probes.seconds)
    return [*_about_load(peak, over), *_about_lateness(arena, probes)]


def _phase(arena: Arena, shape: Shape, warm_s: float) -> _Phase:
    before, seen = _web_cpu_s(arena), len(arena.records)
    with arena.load(shape):
        began = time.time()
    records = arena.records[seen:]
    goodput = goodput_per_s(records, began + warm_s, began + shape.seconds)
    return _Phase(records, _web_cpu_s(arena) - before, goodput)


def _web_cpu_s(arena: Arena) -> float:
    return sum(map(cpu_s, arena.stack.web.children()))


def _about_load(peak: _Phase, over: _Phase) -> list[Verdict]:
    goodput = over.goodput_per_s / peak.goodput_per_s
    answer_s = peak.answer_s
    refusals_s = over.web_cpu_s - answer_s * over.count(Outcome.GOOD)
    refusal_s = max(0.0, refusals_s) / max(1, over.count(Outcome.REFUSED))
    refused = [r.latency_s for r in over.records if r.outcome is Outcome.REFUSED]
    half_ms = percentile_ms(refused, 0.5) or 0.0
    return [
        Verdict(
            f"goodput >= {percent(LEAST_GOODPUT)} of peak ({number(peak.goodput_per_s)}/s)",
            f"{number(over.goodput_per_s)}/s, {percent(goodput)}",
            goodput >= LEAST_GOODPUT,
        ),
        Verdict(
            f"a refusal within a sixth of the processor time of an answer "
            f"({number(1000 * answer_s)} ms)",
            f"{number(1000 * refusal_s)} ms, {percent(refusal_s / answer_s)}",
            refusal_s <= MOST_REFUSAL_SHARE * answer_s,
        ),
        Verdict(
            f"half of the refusals within {MOST_REFUSAL_MS:g} ms",
            f"{number(half_ms)} ms",
            half_ms <= MOST_REFUSAL_MS,
        ),
    ]


def _about_lateness(arena: Arena, probes: "_Probes") -> list[Verdict]:
    told = arena.stack.web.lines("more pictures come")
    oldest_ms = max((line["oldest_ms"] for line in told), default=0)
    return [
        Verdict(
            f"each probe within {MOST_PROBE_S:g} s",
            f"{number(1000 * max(probes.seconds))} ms",
            max(probes.seconds) <= MOST_PROBE_S,
        ),
        Verdict("no probe failed", str(probes.failures), not probes.failures),
        Verdict(
            f"each request read within {MOST_AGE_MS:,} ms of its arrival",
            f"{oldest_ms} ms",
            oldest_ms <= MOST_AGE_MS,
        ),
    ]


# -- cores and probes -----------------------------------------------------------------------------


@contextmanager
def _pinned(arena: Arena) -> Iterator[None]:
    """Give the web processes a core, and everything else the others, where there are others."""
    cores = sorted(os.sched_getaffinity(0))
    rest = set(cores[1:] or cores)
    web = [arena.stack.web.pid, *arena.stack.web.children()]
    others = [os.getpid(), arena.stack.redis.pid, *(w.pid for w in arena.stack.workers)]
    for pids, chosen in ((web, {cores[0]}), (others, rest)):
        for pid in pids:
            _pin(pid, chosen)
    try:
        yield
    finally:
        _pin(os.getpid(), set(cores))


def _pin(pid: int, cores: Iterable[int]) -> None:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)


@dataclass(slots=True)
class _Probes:
    seconds: list[float] = field(default_factory=list)
    failures: int = 0


@contextmanager
def _probing(port: int) -> Iterator[_Probes]:
    """Ask the probes all the time, as a kubelet does now and then."""
    probes, ended, client = _Probes(), threading.Event(), Client(port)

    def ask() -> None:
        while not ended.wait(_PROBE_EVERY_S):
            for path in ("/healthz", "/readyz"):
                began = time.monotonic()
                probes.failures += client.status_of(path) != 200
                probes.seconds.append(time.monotonic() - began)

    thread = threading.Thread(target=ask, name="probes", daemon=True)
    thread.start()
    try:
        yield probes
    finally:
        ended.set()
        thread.join()
