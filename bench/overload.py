"""Overload: more comes than can be done, and only answers within their deadline count.

A closed loop first measures a system's capacity; then an open loop sends shares of that rate.
"""

import json
import subprocess
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from bench.client import picture_request
from bench.load import Demand, load
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
FULL_BATCHES = 3
LONG_S = 1.0
PATIENT_S = 5.0
TIGHT_SHARE = 0.3
SECONDS = 5.0
QUICK_SECONDS = 2.5
"""Two periods of the bursts, or one."""
WARM_UP_S = 1.0
CAPACITY_WARM_UP_S = 2.0
"""Clients that connect together get their first answers late; that is no capacity."""


@dataclass(frozen=True, slots=True)
class StandInTimes:
    """A model that takes ``batch_ms + n * image_ms`` for n pictures, ``batch_size`` at most."""

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


SLOW = StandInTimes("the model is the limit", 40.0, 15.0, 8)
FAST = StandInTimes("the web processes are the limit", 15.0, 0.5, 32)


class Setting(NamedTuple):
    """One row: a load, as a share of the capacity, and who sends it."""

    arrivals: str
    share: float
    kinds: tuple[Kind, ...]

    @property
    def longest_s(self) -> float:
        return max(kind.deadline_s for kind in self.kinds)


Runs = Mapping[Setting, Sequence[Sequence[Outcomes]]]
"""Of each round the outcomes of each kind of clients."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One system with one stand-in."""

    seconds: float
    capacities: list[float] = field(default_factory=list)
    runs: dict[Setting, list[list[Outcomes]]] = field(default_factory=lambda: defaultdict(list))

    def goodputs(self, setting: Setting) -> list[float]:
        """Answers in time per second, of each round."""
        rounds = self.runs[setting]
        return [sum(each.in_time for each in kinds) / self.seconds for kinds in rounds]

    def shares_of_capacity(self, setting: Setting) -> list[float]:
        goodputs = self.goodputs(setting)
        return [x / capacity for x, capacity in zip(goodputs, self.capacities, strict=False)]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A system, and how to start it with a limit for all requests, in seconds."""

    name: str
    start: Callable[[Bed, StandInTimes, float], System]
    reads_deadlines: bool = False
    """Each request's own deadline counts, so one instance serves all."""


def this_system() -> Contestant:
    return Contestant(
        OURS,
        lambda bed, model, _: start_ours(bed, model.our_settings()),
        reads_deadlines=True,
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
    return [
        Setting(arrivals, share, (Kind(1.0, deadline_s),))
        for deadline_s in (model.tight_s, LONG_S)
        for arrivals in (POISSON, BURSTS)
        for share in SHARES
    ]


def settings_of_round(
    model: StandInTimes, number_of_round: int, *, is_quick: bool
) -> list[Setting]:
    """Return what one round measures: the first one all, later ones what targets stand on."""
    if is_quick or number_of_round > 1:
        return [target_setting(model), *mixed_settings(model)]
    return [*plain_settings(model), *mixed_settings(model)]


def measure_overload(plan: Plan, contestant: Contestant, model: StandInTimes) -> Measured:
    """Measure one system; the faster stand-in in one round only."""
    measured = Measured(QUICK_SECONDS if plan.is_quick else SECONDS)
    picture = photo_jpeg()
    with Bed() as bed:
        path = write_picture(bed, picture)
        systems = _start(bed, contestant, model)
        with in_turns(systems.values()):
            for number_of_round in range(1, 1 + (plan.rounds if model is SLOW else 1)):
                _round(plan, measured, systems, path, model, number_of_round)
    return measured


def _start(bed: Bed, contestant: Contestant, model: StandInTimes) -> Mapping[float, System]:
    deadlines = (PATIENT_S, LONG_S, model.tight_s)
    if contestant.reads_deadlines:
        return dict.fromkeys(deadlines, contestant.start(bed, model, PATIENT_S))
    return {deadline_s: contestant.start(bed, model, deadline_s) for deadline_s in deadlines}


def _round(
    plan: Plan,
    measured: Measured,
    systems: Mapping[float, System],
    picture: Path,
    model: StandInTimes,
    number_of_round: int,
) -> None:
    patient = systems[PATIENT_S]
    capacity = replace(plan, seconds=measured.seconds, least_warm_up_s=CAPACITY_WARM_UP_S)
    with patient.thawed():
        run = load(patient, Demand(CLIENTS, patient.form), capacity, picture)
    if not run.counts.images:
        raise SystemExit(f"bench: {patient.name} answered nothing")
    measured.capacities.append(run.per_second)
    say(f"{patient.name}, {model.name}: capacity {number(run.per_second)} images/s")
    for setting in settings_of_round(model, number_of_round, is_quick=plan.is_quick):
        offer = Offer(
            setting.arrivals,
            setting.share * run.per_second,
            WARM_UP_S,
            measured.seconds,
            setting.kinds,
            seed=number_of_round,
        )
        system = systems[setting.longest_s]
        with system.thawed():
            outcomes = _offered(system, offer, picture)
            _settle(system, picture)
        measured.runs[setting].append(outcomes)
        told = ", ".join(
            f"{percent(each.share)} of {each.offered} within {kind.deadline_s:g} s"
            for each, kind in zip(outcomes, setting.kinds, strict=True)
        )
        say(f"{system.name}, {setting.arrivals}, {percent(setting.share)}: {told}")


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
