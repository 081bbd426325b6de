"""Overload: more comes than can be done, and only answers within their deadline count.

A closed loop first measures a system's capacity; then an open loop sends shares of that rate. This
is one round of one system; `bench.overload_rounds` says who is measured when.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.closed_loop import picture_request
from bench.load import Demand, Run, load
from bench.open_loop import BURSTS, Kind, Offer, Outcomes, as_json
from bench.peers.systems import OURS, System, in_turns, start_ours
from bench.picture import photo_jpeg
from bench.plan import Plan, say
from bench.processes import Bed, python, wait_until
from bench.report import number, percent
from bench.stacks import answers, write_picture
from imageserve_loadtest.schedule import POISSON

CLIENTS = 48
"""Of the closed loop that measures the capacity."""
SHARES = (0.7, 1.0, 1.5, 2.0)
BURST_SHARES = (0.7, 1.0)
"""Bursts on top of 150 % teach nothing more."""
FAST_SHARES = (0.7, 1.5)
FULL_BATCHES = 3
LONG_S = 1.0
PATIENT_S = 5.0
TIGHT_SHARE = 0.3
SECONDS = 5.0
LATER_SECONDS = 10.0
QUICK_SECONDS = 2.5
"""Two periods of the bursts, four, or one."""
WARM_UP_S = 1.0
CAPACITY_WARM_UP_S = 2.0
"""Clients that connect together get their first answers late; that is no capacity."""


@dataclass(frozen=True, slots=True)
class StandInTimes:
    """A model that takes ``batch_ms + n * image_ms`` for n pictures, ``batch_size`` at most."""

    key: str
    name: str
    batch_ms: float
    image_ms: float
    batch_size: int

    @property
    def full_batch_s(self) -> float:
        return (self.batch_ms + self.batch_size * self.image_ms) / 1000

    @property
    def per_second(self) -> float:
        """The most it can do."""
        return self.batch_size / self.full_batch_s

    @property
    def tight_s(self) -> float:
        """The deadline of three full batches."""
        return FULL_BATCHES * self.full_batch_s

    def our_settings(self) -> Mapping[str, str]:
        return {
            "MODEL": f"stand-in:batch_ms={self.batch_ms:g},image_ms={self.image_ms:g}",
            "BATCH_SIZE": str(self.batch_size),
        }

    def peer_settings(self, deadline_s: float) -> Mapping[str, str]:
        return {
            "PEER_BATCH_MS": str(self.batch_ms),
            "PEER_IMAGE_MS": str(self.image_ms),
            "PEER_BATCH_SIZE": str(self.batch_size),
            "PEER_DEADLINE_MS": str(round(1000 * deadline_s)),
        }


SLOW = StandInTimes("slow", "the model is the limit", 40.0, 15.0, 8)
FAST = StandInTimes("fast", "the web processes are the limit", 15.0, 0.5, 32)


class Setting(NamedTuple):
    """One row: a load, as a share of the capacity, and who sends it."""

    arrivals: str
    share: float
    kinds: tuple[Kind, ...]

    @property
    def longest_s(self) -> float:
        return max(kind.deadline_s for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class Round:
    """What was measured in one go, beside the capacity at that time."""

    seconds: float
    capacity: float
    runs: dict[Setting, list[Outcomes]] = field(default_factory=dict)
    """The outcomes of each kind of clients."""

    def as_json(self) -> dict[str, Any]:
        runs = [
            {
                "arrivals": setting.arrivals,
                "share": setting.share,
                "kinds": [asdict(kind) for kind in setting.kinds],
                "outcomes": [asdict(each) for each in outcomes],
            }
            for setting, outcomes in self.runs.items()
        ]
        return {"seconds": self.seconds, "capacity": self.capacity, "runs": runs}


def round_from_json(told: Mapping[str, Any]) -> Round:
    runs = {
        Setting(run["arrivals"], run["share"], tuple(Kind(**kind) for kind in run["kinds"])): [
            Outcomes(**each) for each in run["outcomes"]
        ]
        for run in told["runs"]
    }
    return Round(told["seconds"], told["capacity"], runs)


@dataclass(frozen=True, slots=True)
class Measured:
    """All rounds of one system with one stand-in; later ones have fewer rows."""

    rounds: list[Round] = field(default_factory=list)

    @property
    def capacities(self) -> list[float]:
        return [each.capacity for each in self.rounds]

    def has(self, setting: Setting) -> bool:
        return any(setting in each.runs for each in self.rounds)

    def goodputs(self, setting: Setting) -> list[float]:
        """Answers in time per second, of each round."""
        return [goodput for goodput, _ in self._goodputs(setting)]

    def shares_of_capacity(self, setting: Setting) -> list[float]:
        return [goodput / capacity for goodput, capacity in self._goodputs(setting)]

    def _goodputs(self, setting: Setting) -> Iterator[tuple[float, float]]:
        for each in self.rounds:
            if setting in each.runs:
                in_time = sum(outcomes.in_time for outcomes in each.runs[setting])
                yield in_time / each.seconds, each.capacity

    def in_time(self, setting: Setting, kind: int) -> float:
        """Return the share of one kind's requests that were answered in time, over all rounds."""
        outcomes = [each.runs[setting][kind] for each in self.rounds if setting in each.runs]
        offered = sum(each.offered for each in outcomes)
        return sum(each.in_time for each in outcomes) / offered if offered else 1.0


@dataclass(frozen=True, slots=True)
class Contestant:
    """A system, and how to start it with a limit for all requests, in seconds."""

    name: str
    start: Callable[[Bed, StandInTimes, float], System]
    one_for_all: bool = False
    """One instance serves all deadlines: it reads each request's own, or it knows none."""
    is_slow: bool = False
    """With the fast stand-in it makes less than half of the best peer's pictures."""


def this_system() -> Contestant:
    return Contestant(
        OURS, lambda bed, model, _: start_ours(bed, model.our_settings()), one_for_all=True
    )


def target_setting(model: StandInTimes) -> Setting:
    """150 % of the capacity, deadline of three full batches."""
    return Setting(POISSON, 1.5, (Kind(1.0, model.tight_s),))


def mixed_settings(model: StandInTimes) -> list[Setting]:
    """Tight clients among patient ones: in bursts, and at a steady 110 %."""

    def mixed(arrivals: str, share: float, patient_s: float) -> Setting:
        kinds = (Kind(TIGHT_SHARE, model.tight_s), Kind(1 - TIGHT_SHARE, patient_s))
        return Setting(arrivals, share, kinds)

    return [mixed(BURSTS, 0.7, PATIENT_S), mixed(POISSON, 1.1, LONG_S)]


def plain_settings(model: StandInTimes) -> list[Setting]:
    loads = [(POISSON, share) for share in FAST_SHARES]
    if model is SLOW:
        loads = [(POISSON, share) for share in SHARES] + [(BURSTS, share) for share in BURST_SHARES]
    return [
        Setting(arrivals, share, (Kind(1.0, deadline_s),))
        for deadline_s in (model.tight_s, LONG_S)
        for arrivals, share in loads
    ]


def all_settings(model: StandInTimes) -> list[Setting]:
    return [*plain_settings(model), *mixed_settings(model)]


def measure_round(
    contestant: Contestant,
    model: StandInTimes,
    settings: Sequence[Setting],
    *,
    seconds: float,
    seed: int,
) -> Round:
    """Start a system and measure these rows.

    Raises SystemExit where it does not start, or answers nothing.
    """
    with Bed() as bed:
        picture = write_picture(bed, photo_jpeg())
        systems = _start(bed, contestant, model, {setting.longest_s for setting in settings})
        with in_turns(systems.values()):
            made = Round(seconds, capacity(systems[PATIENT_S], seconds, picture).per_second)
            say(f"{contestant.name}, {model.name}: capacity {number(made.capacity)} images/s")
            for setting in settings:
                outcomes = offered(
                    systems[setting.longest_s],
                    setting,
                    setting.share * made.capacity,
                    picture,
                    seconds=seconds,
                    seed=seed,
                )
                made.runs[setting] = outcomes
    return made


def _start(
    bed: Bed, contestant: Contestant, model: StandInTimes, deadlines: set[float]
) -> Mapping[float, System]:
    deadlines = {PATIENT_S, *deadlines}
    if contestant.one_for_all:
        return dict.fromkeys(deadlines, contestant.start(bed, model, PATIENT_S))
    return {deadline_s: contestant.start(bed, model, deadline_s) for deadline_s in deadlines}


def capacity(system: System, seconds: float, picture: Path) -> Run:
    """Measure what patient clients get in a closed loop.

    Raises SystemExit where they get nothing.
    """
    plan = Plan(seconds=min(seconds, SECONDS), least_warm_up_s=CAPACITY_WARM_UP_S)
    with system.thawed():
        run = load(system, Demand(CLIENTS, system.form), plan, picture)
    if not run.counts.images:
        raise SystemExit(f"bench: {system.name} answered nothing")
    return run


def offered(
    system: System, setting: Setting, rate: float, picture: Path, *, seconds: float, seed: int
) -> list[Outcomes]:
    """Send one row's requests at that rate; return the outcomes of each kind of clients."""
    offer = Offer(setting.arrivals, rate, WARM_UP_S, seconds, setting.kinds, seed)
    with system.thawed():
        outcomes = _offered(system, offer, picture)
        _settle(system, picture)
    told = ", ".join(
        f"{percent(each.share)} of {each.offered} within {kind.deadline_s:g} s"
        for each, kind in zip(outcomes, setting.kinds, strict=True)
    )
    say(f"{system.name}, {setting.arrivals}, {percent(setting.share)}: {told}")
    return outcomes


def _offered(system: System, offer: Offer, picture: Path) -> list[Outcomes]:
    arguments = (str(system.web_port), str(picture), system.form, as_json(offer))
    most_s = offer.all_s + max(kind.deadline_s for kind in offer.kinds) + 20
    said = subprocess.run(
        python("-m", "bench.open_loop", *arguments),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=most_s,
    ).stdout
    return [Outcomes(**each) for each in json.loads(said)]


def _settle(system: System, picture: Path) -> None:
    """Wait until the backlog is gone: what a system still works on is no load of the next row."""
    request = picture_request(system.form, picture.read_bytes())
    wait_until(lambda: answers(system.web_port, request), f"{system.name} answers again")
