"""The service under attack, its load, and the actions that attacks consist of."""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import redis
from tests.redis_server import eventually
from tests.system.stack import Program, Stack

from bench.chaos.load import Load, Record, Shape
from bench.chaos.witness import Witness
from bench.processes import cpu_s

BATCH_SIZE = 8
BATCH_MS, IMAGE_MS = 40.0, 20.0
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a scenario is."""

    name: str
    workers: int
    seconds: float
    lease_s: float
    times: int
    """How often the fault is repeated."""
    slots: int
    """Most requests that one web process handles at once."""
    queue_limit: int
    """Most waiting jobs, in the scenario that fills the queue."""
    patience_s: float
    """How long requests wait for a Redis that is away."""

    @property
    def capacity_per_s(self) -> float:
        """Pictures per second of the stand-ins, which only their declared times limit."""
        return self.workers * BATCH_SIZE / ((BATCH_MS + BATCH_SIZE * IMAGE_MS) / 1000)


FULL = Scale(
    "full",
    workers=4,
    seconds=60.0,
    lease_s=10.0,
    times=3,
    slots=256,
    queue_limit=256,
    patience_s=10.0,
)
QUICK = Scale(
    "quick",
    workers=2,
    seconds=3.0,
    lease_s=1.0,
    times=1,
    slots=48,
    queue_limit=48,
    patience_s=1.0,
)


def settings(scale: Scale, more: Mapping[str, str]) -> dict[str, str]:
    """Return the service's settings: its defaults, but for the stand-in and the lease."""
    return {
        "MODEL": f"stand-in:batch_ms={BATCH_MS:g},image_ms={IMAGE_MS:g},size=64,poison=1",
        "BATCH_SIZE": str(BATCH_SIZE),
        "LEASE_S": f"{scale.lease_s:g}",
        "WEB_PROCESSES": "2",
        "WEB_SLOTS": str(scale.slots),
        "OUTAGE_PATIENCE_S": f"{scale.patience_s:g}",
        **more,
    }


@dataclass(slots=True)
class Arena:
    """One service under attack."""

    stack: Stack
    witness: Witness
    scale: Scale
    drawn: random.Random
    faults: list[tuple[float, float]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    """Counts of attacks and their effects: proof that the attack had any."""
    records: list[Record] = field(default_factory=list)
    _loads: int = 0
    _load_s: float = 0.0
    _used_s: float = 0.0

    # -- load -----------------------------------------------------------------------------------

    @contextmanager
    def load(self, shape: Shape) -> Iterator[None]:
        """Load the service from its first job until the tool has ended."""
        self._loads += 1
        accepted = len(self.witness.ledger.accepted)
        url = f"http://{self.stack.place.host}:{self.stack.port}"
        seed = self.drawn.randrange(2**32)
        load = Load(self.stack.directory, f"{self._loads}", url, shape, seed)
        self.stack.programs.append(load.program)

        def begun() -> bool:
            assert load.program.alive, load.program.output()
            return len(self.witness.ledger.accepted) > accepted

        eventually(begun, "the load begins", _PATIENCE_S)
        began_s, before = time.monotonic(), self._cpu_s()
        yield
        result, records = load.finish()
        self.records += records
        self._load_s += time.monotonic() - began_s
        self._used_s += result.tool.cpu_s + sum(
            seconds - before.get(pid, 0.0) for pid, seconds in self._cpu_s().items()
        )

    def _cpu_s(self) -> dict[int, float]:
        """Return the processor time of every process of the service that lives now."""
        alive = [program for program in self.stack.programs if program.alive]
        pids = [pid for program in alive for pid in (program.pid, *program.children())]
        return {pid: cpu_s(pid) for pid in (*pids, self.stack.redis.pid)}

    @property
    def cpu_share(self) -> float:
        """Share of the whole machine while load ran, without processes that were killed."""
        return self._used_s / (self._load_s * (os.cpu_count() or 1))

    # -- time -----------------------------------------------------------------------------------

    def rest(self, seconds: float) -> None:
        """Leave the service alone for a while."""
        time.sleep(seconds)

    def rest_about(self, seconds: float) -> None:
        """Leave it alone for a random while around this."""
        self.rest(seconds * self.drawn.uniform(0.5, 1.5))

    @contextmanager
    def fault(self) -> Iterator[None]:
        """Note the time from the fault until the backlog is worked off."""
        began = time.time()
        yield
        self.wait(self._has_caught_up, "the backlog is worked off")
        self.faults.append((began, time.time()))

    def _has_caught_up(self) -> bool:
        try:
            return not (self.stack.waiting() or self.stack.db.exists(self.stack.keys.retry))
        except redis.RedisError:
            return False  # Its connection is from before a restart.

    def wait(self, condition: Callable[[], object], what: str) -> None:
        eventually(condition, what, _PATIENCE_S)

    # -- workers --------------------------------------------------------------------------------

    def any_worker(self) -> Program:
        return self.drawn.choice([worker for worker in self.stack.workers if worker.alive])

    def replace_worker(self) -> None:
        """Start a worker without waiting for it, as a cluster does when one has ended."""
        self.stack.start_worker(wait=False)

    def claims(self) -> set[bytes]:
        """Return the tokens of the claims that hold jobs at this moment."""
        records = cast(list[bytes], self.stack.db.hvals(self.stack.keys.inflight))
        return {record.partition(b"\n")[0] for record in records}

    def late_results(self) -> int:
        """Return how many results came from workers that had lost their lease."""
        return sum(line["late"] for worker in self.stack.workers for line in worker.batches())

    def run_alone(self) -> int:
        """Return how many jobs were run again, alone, because their worker was lost."""
        batches = [line for worker in self.stack.workers for line in worker.batches()]
        return sum(line["jobs"] for line in batches if line["solo"])

    def runs(self) -> int:
        """Return how many pictures were run, by workers that live."""
        return sum(line["jobs"] for worker in self.stack.workers for line in worker.batches())

    # -- the end --------------------------------------------------------------------------------

    def jobs_left(self) -> int:
        """Wait until every job has ended; return how many have not."""
        deadline = time.monotonic() + self.scale.lease_s + _PATIENCE_S
        while not self._has_ended() and time.monotonic() < deadline:
            self.rest(0.05)
        retry = self.stack.db.llen(self.stack.keys.retry)
        return self.stack.waiting() + self.stack.leased() + int(retry)

    def _has_ended(self) -> bool:
        return self._has_caught_up() and not self.stack.leased()
