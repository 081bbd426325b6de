"""The attacks: each breaks one thing in a service under load, and tests one guarantee."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from tests.system.stack import Place, Program

from bench.chaos.accounts import goodput_per_s, percentile_ms
from bench.chaos.arena import BATCH_SIZE, Arena, Scale
from bench.chaos.load import Shape, closed_loop, open_loop
from bench.chaos.web_overload import overload_web
from bench.chaos.web_overload import settings as web_overload_settings
from bench.report import Verdict, number, percent
from imageserve_loadtest.result import Outcome

LOAD_SHARE = 0.7
"""The share of its capacity that a service should be sized for."""

OVERLOAD = 2.0
LEAST_GOODPUT = 0.95
MOST_REFUSAL_MS = 20.0
POISON_SHARE = 0.1
_WARM_S = 5.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way to attack the service."""

    name: str
    does: str
    guarantee: str
    attack: Callable[[Arena], list[Verdict]]
    """Loads and breaks the service; returns verdicts beyond those of every scenario."""
    proof: str
    """What the attack must have caused at least once; see ``Arena.done``."""
    settings: Callable[[Scale], Mapping[str, str]] = field(default=lambda scale: {})
    may_end: frozenset[str] = frozenset()
    """Other outcomes of a request that this attack makes unavoidable."""
    place: Callable[[Path], AbstractContextManager[Place]] = field(
        default=lambda directory: nullcontext(Place())
    )
    """Makes what the service stands on; given the directory that the stack will write to."""
    lacks: Callable[[], str] = field(default=lambda: "")
    """Says which right or program this attack needs and does not have here; nothing if none."""
    ends_redis: bool = False
    """Whether a Redis ends, and it or another one takes its place: see `tables.outages`."""


def load_at(arena: Arena, share: float = LOAD_SHARE, *more: str) -> Shape:
    return open_loop(share * arena.scale.capacity_per_s, arena.scale.seconds, *more)


# -- workers --------------------------------------------------------------------------------------


def kill_workers(arena: Arena) -> list[Verdict]:
    with arena.load(load_at(arena)):
        arena.rest(arena.scale.seconds / 10)
        with arena.fault():
            for _ in range(2 * arena.scale.times):
                arena.any_worker().kill()
                arena.replace_worker()
                arena.done["workers killed"] += 1
                arena.rest_about(arena.scale.seconds / 9)
            arena.rest(1.2 * arena.scale.lease_s)
    arena.done["jobs run again, alone"] = arena.run_alone()
    return []


def freeze_worker(arena: Arena) -> list[Verdict]:
    with arena.load(load_at(arena)):
        arena.rest(arena.scale.seconds / 10)
        for _ in range(arena.scale.times):
            with arena.fault():
                _freeze_past_its_lease(arena)
            arena.rest(arena.scale.seconds / 20)
    arena.done["late results that changed nothing"] = arena.late_results()
    return []


def _freeze_past_its_lease(arena: Arena) -> None:
    victim = _frozen_with_a_batch(arena)
    arena.done["workers frozen"] += 1
    arena.rest(1.3 * arena.scale.lease_s)
    victim.resume()


def _frozen_with_a_batch(arena: Arena) -> Program:
    """Freeze a worker that holds a batch: a claim stays, while those of other workers end."""
    for _ in range(50):
        victim = arena.any_worker()
        victim.pause()
        claims = arena.claims()
        arena.rest(0.2)
        if claims & arena.claims():
            return victim
        victim.resume()
    raise RuntimeError("no worker held a batch in 50 tries")


# -- web processes --------------------------------------------------------------------------------


def kill_web(arena: Arena) -> list[Verdict]:
    with arena.load(load_at(arena)):
        arena.rest(arena.scale.seconds / 10)
        for _ in range(arena.scale.times):
            with arena.fault():
                _kill_web_process(arena)
            arena.rest_about(arena.scale.seconds / 10)
    return []


def _kill_web_process(arena: Arena) -> None:
    before = arena.stack.web.children()
    victim = arena.drawn.choice(before)
    os.kill(victim, signal.SIGKILL)
    arena.done["web processes killed"] += 1

    def replaced() -> bool:
        now = arena.stack.web.children()
        return victim not in now and len(now) == len(before)

    arena.wait(replaced, "a new web process")
    arena.wait(lambda: arena.stack.listeners() == len(before), "it listens for results")


# -- Redis ----------------------------------------------------------------------------------------


def restart_redis(arena: Arena) -> list[Verdict]:
    with arena.load(load_at(arena)):
        arena.rest(arena.scale.seconds / 10)
        for _ in range(arena.scale.times):
            with arena.fault():
                arena.stack.redis.kill()
                arena.rest(arena.scale.seconds / 50)
                _start_redis(arena)
            arena.rest_about(arena.scale.seconds / 10)
    return []


def cut_power(arena: Arena) -> list[Verdict]:
    """Kill Redis, and take from its file what it wrote in its last second.

    A killed process leaves what it wrote to the kernel; a machine that loses its power does not.
    ``everysec`` promises no more than what was there a second ago.
    """
    with arena.load(load_at(arena)):
        arena.rest(arena.scale.seconds / 5)
        for _ in range(arena.scale.times):
            with arena.fault():
                _lose_the_last_second(arena)
                _start_redis(arena)
            arena.rest_about(arena.scale.seconds / 10)
    return []


def _lose_the_last_second(arena: Arena) -> None:
    # A rewrite within this second would leave another file to be cut.
    arena.stack.redis.client().config_set("auto-aof-rewrite-percentage", 0)
    file = append_only_file(arena.stack.redis.directory)
    safe_bytes = file.stat().st_size
    arena.rest(1.0)
    arena.stack.redis.kill()
    arena.done["bytes lost"] += file.stat().st_size - safe_bytes
    os.truncate(file, safe_bytes)


def _start_redis(arena: Arena) -> None:
    life = arena.witness.ledger.life
    arena.stack.redis.start()
    arena.done["restarts"] += 1
    arena.wait(lambda: arena.witness.ledger.life > life, "the witness is back")


def append_only_file(directory: Path) -> Path:
    """Return the file that Redis appends to: from version 7 on the newest of several."""
    return max(directory.rglob("*.aof*"), key=_written_at)


def _written_at(path: Path) -> tuple[bool, int]:
    # The manifest of version 7 is no log.
    return not path.name.endswith(".manifest"), path.stat().st_mtime_ns


# -- too much -------------------------------------------------------------------------------------


def fill_queue(arena: Arena) -> list[Verdict]:
    for worker in arena.stack.workers:
        worker.send(signal.SIGTERM)
    for worker in arena.stack.workers:
        worker.wait()
    limit = arena.scale.queue_limit
    with arena.load(load_at(arena)), arena.fault():
        arena.wait(lambda: arena.stack.waiting() >= limit, "the queue is full")
        arena.done["jobs waiting, at most"] = arena.stack.waiting()
        arena.rest(arena.scale.seconds / 10)
        for _ in range(arena.scale.workers):
            arena.replace_worker()
    return []


def overload(arena: Arena) -> list[Verdict]:
    seconds = arena.scale.seconds
    warm_s = min(_WARM_S, seconds / 5)
    peak = _peak_per_s(arena, max(3 * warm_s, seconds / 4), warm_s)
    before = len(arena.records)
    with arena.load(load_at(arena, OVERLOAD)), arena.fault():
        began = time.time()
        arena.rest(seconds)
    records = arena.records[before:]
    goodput = goodput_per_s(records, began + warm_s, began + seconds)
    refused = [r.latency_s for r in records if r.outcome is Outcome.REFUSED]
    arena.done["refusals"] = len(refused)
    half_ms = percentile_ms(refused, 0.5) or 0.0
    return [
        Verdict(
            f"goodput >= {percent(LEAST_GOODPUT)} of peak ({number(peak)}/s)",
            f"{number(goodput)}/s, {percent(goodput / peak)}",
            goodput >= LEAST_GOODPUT * peak,
        ),
        Verdict(
            f"half of the refusals within {MOST_REFUSAL_MS:g} ms",
            f"{number(half_ms)} ms",
            half_ms < MOST_REFUSAL_MS,
        ),
    ]


def _peak_per_s(arena: Arena, seconds: float, warm_s: float) -> float:
    """Return the goodput under as many clients as keep every worker busy, each with one request."""
    with arena.load(closed_loop(2 * BATCH_SIZE * arena.scale.workers, seconds)):
        began = time.time()
    return goodput_per_s(arena.records, began + warm_s, began + seconds)


# -- bad pictures ---------------------------------------------------------------------------------


def poison(arena: Arena) -> list[Verdict]:
    load = load_at(arena, LOAD_SHARE, "--broken", f"{POISON_SHARE:g}", "--broken-kinds", "poison")
    with arena.load(load), arena.fault():
        arena.rest(arena.scale.seconds)
    arena.done["poison pictures answered 422"] = sum(r.status == 422 for r in arena.records)
    return []


SCENARIOS = (
    Scenario(
        "kill-workers",
        "SIGKILL to workers at random; each is replaced at once",
        "A worker that dies takes no job with it",
        kill_workers,
        proof="jobs run again, alone",
        # A random kill sometimes hits the worker that runs a redelivered job. A job that has lost
        # two workers is given up with an error.
        may_end=frozenset({"422 model_failed"}),
    ),
    Scenario(
        "kill-web",
        "SIGKILL to a web process at random; gunicorn replaces it",
        "A web process that dies breaks its own connections and nothing else",
        kill_web,
        proof="web processes killed",
    ),
    Scenario(
        "restart-redis",
        "SIGKILL to Redis, which starts again on its append-only file",
        "A restart of Redis costs time, no accepted job",
        restart_redis,
        proof="restarts",
        ends_redis=True,
    ),
    Scenario(
        "cut-power",
        "SIGKILL to Redis, and what it wrote in its last second is cut off its file",
        "Even what `everysec` gives up is answered: the picture is queued again",
        cut_power,
        proof="bytes lost",
        ends_redis=True,
    ),
    Scenario(
        "freeze-worker",
        "SIGSTOP to a worker for longer than its lease, then SIGCONT",
        "A result that comes too late changes nothing",
        freeze_worker,
        proof="late results that changed nothing",
    ),
    Scenario(
        "fill-queue",
        "no worker, until the queue is full and for a while longer",
        "A full queue refuses with a time to come back, and keeps what it took",
        fill_queue,
        proof="jobs waiting, at most",
        settings=lambda scale: {"QUEUE_LIMIT": str(scale.queue_limit)},
    ),
    Scenario(
        "overload",
        "twice the capacity is asked for",
        "Too much load is refused quickly and costs no goodput",
        overload,
        proof="refusals",
    ),
    Scenario(
        "overload-web",
        "twice as many pictures as two web processes can decode",
        "More than the web tier can decode is refused early, and hides it from nobody",
        overload_web,
        proof="refusals",
        settings=web_overload_settings,
    ),
    Scenario(
        "poison",
        "one picture in ten makes the model fail",
        "A bad picture harms only itself",
        poison,
        proof="poison pictures answered 422",
    ),
)
