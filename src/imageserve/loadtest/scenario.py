"""Scenario files: what load to make, written down so that it can be repeated.

::

    description: one sentence
    loop: open                # or closed
    arrivals: poisson         # open: poisson (default) or constant
    phases:                   # one after another, without a pause
      - {name: warm-up, seconds: 5, rate_per_s: 20}
      - {seconds: 30, rate_per_s: 20, to_rate_per_s: 200}     # a ramp
      - {seconds: 30, share_of_capacity: 0.7}                 # of what /status reports
      - {seconds: 30, clients: 8}                             # a closed loop
    pictures:
      source: auto            # files, generated, or generated where the model is the stand-in
      distinct: 2000          # how many are generated
      per_request: 1
      broken_share: 0.0       # of the requests, 0 to 1
      broken: [cut, text]     # which kinds; default: all but poison
      multipart: false        # true: a form even for one picture
    timeout_s: 60
    seed: 1
    slo: [p99=500ms, errors=0%]

Whatever is left out has the value above, except the first phase.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from imageserve.loadtest.objective import Objective, ObjectiveError
from imageserve.loadtest.reader import Reader, ScenarioError
from imageserve.loadtest.schedule import CONSTANT, POISSON, Stretch

OPEN = "open"
CLOSED = "closed"
SOURCES = ("auto", "files", "generated")
BUILT_IN = Path(__file__).with_name("scenarios")
"""The folder of the scenarios that come with the program."""
BROKEN_KINDS = ("cut", "text", "noise", "empty", "huge", "tiff", "poison")


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of load. Exactly one of clients, rate and share is given."""

    seconds: float
    name: str = ""
    clients: int | None = None
    rate_per_s: float | None = None
    to_rate_per_s: float | None = None
    share_of_capacity: float | None = None
    """Of the pictures a second that the target's workers can classify."""
    to_share_of_capacity: float | None = None


@dataclass(frozen=True, slots=True)
class PictureMix:
    """Which pictures are sent."""

    source: str = "auto"
    distinct: int = 2000
    per_request: int = 1
    broken_share: float = 0.0
    broken: tuple[str, ...] = tuple(kind for kind in BROKEN_KINDS if kind != "poison")
    multipart: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """A load, and what it should find."""

    name: str
    phases: tuple[Phase, ...]
    description: str = ""
    loop: str = OPEN
    arrivals: str = POISSON
    pictures: PictureMix = field(default_factory=PictureMix)
    timeout_s: float = 60.0
    seed: int = 1
    objective: Objective = field(default_factory=Objective)

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    @property
    def needs_capacity(self) -> bool:
        return any(phase.share_of_capacity is not None for phase in self.phases)

    def lasting(self, seconds: float) -> "Scenario":
        """Return it with all phases stretched or shortened to this time in all."""
        factor = seconds / self.seconds
        phases = (replace(phase, seconds=phase.seconds * factor) for phase in self.phases)
        return replace(self, phases=tuple(phases))

    def at_capacity(self, pictures_per_s: float) -> "Scenario":
        """Return it with rates instead of shares of a capacity."""
        requests_per_s = pictures_per_s / self.pictures.per_request
        return replace(self, phases=tuple(_at_rate(each, requests_per_s) for each in self.phases))


def stretches(scenario: Scenario) -> list[Stretch]:
    """Return the phases of an open loop, all of which have rates."""
    return [
        Stretch(phase.seconds, phase.rate_per_s or 0.0, _or(phase.to_rate_per_s, phase.rate_per_s))
        for phase in scenario.phases
    ]


def _or(value: float | None, default: float | None) -> float:
    return (default or 0.0) if value is None else value


def _at_rate(phase: Phase, requests_per_s: float) -> Phase:
    share, to_share = phase.share_of_capacity, phase.to_share_of_capacity
    if share is None:
        return phase
    return replace(
        phase,
        share_of_capacity=None,
        to_share_of_capacity=None,
        rate_per_s=share * requests_per_s,
        to_rate_per_s=None if to_share is None else to_share * requests_per_s,
    )


# -- reading ------------------------------------------------------------------------------------


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file.

    Raises:
        ScenarioError: it cannot be read, or a key is unknown, missing or out of range.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}") from error
    return _scenario(Reader(content, str(path)), path.stem)


def _scenario(reader: Reader, name: str) -> Scenario:
    loop = reader.choice("loop", (OPEN, CLOSED), OPEN)
    scenario = Scenario(
        name=name,
        description=reader.text("description"),
        loop=loop,
        arrivals=reader.choice("arrivals", (POISSON, CONSTANT), POISSON),
        phases=tuple(_phase(each, loop) for each in reader.items("phases")),
        pictures=_pictures(reader.section("pictures")),
        timeout_s=reader.number("timeout_s", 0.001, 600.0, 60.0),
        seed=reader.whole("seed", 0, 2**63, 1),
        objective=_objective(reader),
    )
    reader.finish()
    return scenario


def _phase(reader: Reader, loop: str) -> Phase:
    how, others = (_CLOSED_KEYS, _OPEN_KEYS) if loop == CLOSED else (_OPEN_KEYS, _CLOSED_KEYS)
    reader.exactly_one(how)
    reader.none_of(others, f"does not fit a loop that is {loop}")
    phase = Phase(
        seconds=reader.number("seconds", 0.001, 7 * 86_400.0),
        name=reader.text("name"),
        clients=reader.optional_whole("clients", 1, 100_000),
        rate_per_s=reader.optional_number("rate_per_s", 0.0, 1e6),
        to_rate_per_s=reader.optional_number("to_rate_per_s", 0.0, 1e6),
        share_of_capacity=reader.optional_number("share_of_capacity", 0.0, 1000.0),
        to_share_of_capacity=reader.optional_number("to_share_of_capacity", 0.0, 1000.0),
    )
    reader.needs("to_rate_per_s", "rate_per_s")
    reader.needs("to_share_of_capacity", "share_of_capacity")
    reader.finish()
    return phase


def _pictures(reader: Reader) -> PictureMix:
    default = PictureMix()
    pictures = PictureMix(
        source=reader.choice("source", SOURCES, default.source),
        distinct=reader.whole("distinct", 1, 1_000_000, default.distinct),
        per_request=reader.whole("per_request", 1, 1000, default.per_request),
        broken_share=reader.number("broken_share", 0.0, 1.0, default.broken_share),
        broken=reader.choices("broken", BROKEN_KINDS, default.broken),
        multipart=reader.flag("multipart", default=default.multipart),
    )
    reader.finish()
    return pictures


def _objective(reader: Reader) -> Objective:
    terms = reader.texts("slo")
    try:
        return Objective.parse(terms)
    except ObjectiveError as error:
        raise reader.error("slo", str(error)) from error


_OPEN_KEYS = ("rate_per_s", "share_of_capacity")
_CLOSED_KEYS = ("clients",)
