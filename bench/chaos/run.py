"""Runs one scenario: starts the service, attacks it, and judges the outcome."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.system.stack import Stack, running

from bench.chaos.accounts import Account, Evidence, account
from bench.chaos.arena import Arena, Scale, settings
from bench.chaos.scenarios import Scenario
from bench.chaos.witness import EVENTS, Witness
from bench.plan import say
from bench.report import Verdict

_SHOWN_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Report:
    """What one scenario has shown."""

    scenario: Scenario
    account: Account
    done: Mapping[str, int]
    verdicts: tuple[Verdict, ...]

    @property
    def holds(self) -> bool:
        return all(verdict.is_met for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class NotRun:
    """A scenario that cannot be run here."""

    scenario: Scenario
    lacks: str


def run(scenario: Scenario, scale: Scale, seed: int, directory: Path, redis: str) -> Report:
    """Start a service in ``directory`` with the redis-server at ``redis``, and attack it.

    Raises SystemExit where the load tool or the witness has failed: then nothing is known.
    """
    env = settings(scale, scenario.settings(scale))
    with (
        scenario.place(directory) as place,
        running(
            directory, redis, workers=scale.workers, redis_args=EVENTS, place=place, **env
        ) as stack,
        _logs_of_a_failure(stack),
    ):
        arena = _arena(stack, scale, random.Random(f"{seed}/{scenario.name}"))
        arena.witness.start()
        more = scenario.attack(arena)
        seen = account(_evidence(arena))
    verdicts = (*demands(scenario, scale, seen, arena.done), *more)
    return Report(scenario, seen, dict(arena.done), verdicts)


@contextmanager
def _logs_of_a_failure(stack: Stack) -> Iterator[None]:
    """Print every process's log if an attack could not be carried out."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:  # pytest.fail() raises no Exception.
        for name, text in stack.logs():
            say(f"the end of the log of {name}:\n{text[-_SHOWN_CHARACTERS:]}")
        raise


def _arena(stack: Stack, scale: Scale, drawn: random.Random) -> Arena:
    return Arena(stack, Witness(stack.redis), scale, drawn)


def _evidence(arena: Arena) -> Evidence:
    left = arena.jobs_left()
    ledger = arena.witness.stop()
    counters = arena.stack.stats()
    return Evidence(
        arena.records, ledger, counters, left, arena.faults, arena.cpu_share, arena.runs()
    )


def demands(
    scenario: Scenario, scale: Scale, seen: Account, done: Mapping[str, int]
) -> tuple[Verdict, ...]:
    """Return what every scenario must show, and whether this one has."""
    killed = done.get("web processes killed", 0)
    most_resets = scale.slots * killed
    unexpected = {end: n for end, n in seen.others.items() if end not in scenario.may_end}
    return (
        _count("lost", seen.lost, 0),
        _count("duplicated", seen.duplicated, 0),
        _count("wrong", seen.wrong, 0),
        _count("refused without Retry-After", seen.bare_refusals, 0),
        _count("resets", seen.resets, most_resets),
        Verdict("no other end of a request", _listed(unexpected) or "none", not unexpected),
        Verdict(
            f"the attack was one: {scenario.proof}",
            str(proof := done.get(scenario.proof, 0)),
            proof > 0,
        ),
    )


def _count(what: str, count: int, most: int) -> Verdict:
    return Verdict(f"{what}: at most {most}" if most else f"{what}: 0", str(count), count <= most)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} x {end}" for end, n in sorted(counts.items()))
