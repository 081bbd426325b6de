"""One measurement: the load client against one system, and the CPU time of its processes."""

import json
import math
import statistics
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.closed_loop import DRAIN_S, Counts, Form
from bench.plan import Plan
from bench.processes import python


class Target(Protocol):
    """A system that takes pictures at a port."""

    @property
    def name(self) -> str: ...

    @property
    def web_port(self) -> int: ...

    def cpu_s(self) -> Mapping[str, float]:
        """Return the CPU time of every role so far."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the load client asks for."""

    clients: int
    form: Form = Form.MULTIPART
    broken_every: int = 0
    patience_s: float = DRAIN_S
    """How long to wait for outstanding answers at the end."""

    def options(self) -> list[str]:
        broken = f"--broken-every={self.broken_every}"
        return [f"--form={self.form}", broken, f"--patience-s={self.patience_s}"]


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement of one system; times are infinite where no picture was classified."""

    counts: Counts
    cpu_s: Mapping[str, float]

    @property
    def per_second(self) -> float:
        return self.counts.images / self.counts.seconds

    @property
    def latency_ms(self) -> float:
        return statistics.median(self.counts.latencies_ms or [math.inf])

    @property
    def p99_ms(self) -> float:
        """The latency that 99 of 100 answers did not exceed."""
        ordered = sorted(self.counts.latencies_ms or [math.inf])
        return ordered[math.ceil(0.99 * len(ordered)) - 1]

    @property
    def tail(self) -> float:
        """How many times the median the 99th percentile is."""
        return self.p99_ms / self.latency_ms

    def cpu_ms(self, role: str) -> float:
        """CPU time per image that the processes of one role took."""
        images = self.counts.images
        return 1000 * self.cpu_s[role] / images if images else math.inf

    @property
    def total_cpu_ms(self) -> float:
        return sum(map(self.cpu_ms, self.cpu_s))


def run_as_json(run: Run) -> dict[str, Any]:
    told = asdict(run)
    told["counts"]["latencies_ms"] = [round(ms, 2) for ms in run.counts.latencies_ms]
    return told


def run_from_json(told: Mapping[str, Any]) -> Run:
    return Run(Counts(**told["counts"]), told["cpu_s"])


def measured(target: Target, demand: Demand, plan: Plan, picture: Path) -> Run:
    """Load one system for a while.

    Raises SystemExit where any answer was not a 200: then the numbers would mean nothing.
    """
    run = load(target, demand, plan, picture)
    if run.counts.errors or not run.counts.images:
        raise SystemExit(
            f"bench: {target.name}: {run.counts.errors} errors, {run.counts.images} answers: "
            f"{run.counts.failed}"
        )
    return run


def load(
    target: Target,
    demand: Demand,
    plan: Plan,
    picture: Path,
    meanwhile: Callable[[], None] = lambda: None,
) -> Run:
    """Load one system for a while, whatever it answers.

    ``meanwhile`` is called once, when the time that counts begins; it may take a part of it.
    """
    with subprocess.Popen(
        _command(target, demand, plan, picture), stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        most_s = plan.warm_up_s + plan.seconds + demand.patience_s + 20
        overdue = threading.Timer(most_s, client.kill)
        overdue.start()
        try:
            _expect(client.stdout.readline(), "begin")
            before = target.cpu_s()
            meanwhile()
            _expect(client.stdout.readline(), "end")
            after = target.cpu_s()
            counts = Counts(**json.loads(client.stdout.readline()))
        finally:
            overdue.cancel()
            client.kill()
    return Run(counts, {role: after[role] - before[role] for role in after})


def _command(target: Target, demand: Demand, plan: Plan, picture: Path) -> Sequence[str]:
    numbers = (target.web_port, demand.clients, plan.warm_up_s, plan.seconds)
    return python("-m", "bench.closed_loop", *map(str, numbers), str(picture), *demand.options())


def _expect(line: str, word: str) -> None:
    if line.strip() != word:
        raise SystemExit(f"bench: the load client ended early (it said {line!r})")
