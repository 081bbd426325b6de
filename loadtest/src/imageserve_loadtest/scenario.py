"""Scenario files: loads that are written down so that they can be repeated.

::

    description: one sentence
    loop: open                # or closed
    arrivals: poisson         # open loop: poisson (default) or constant
    phases:                   # one after another, without a pause
      - {name: warm-up, seconds: 5, rate_per_s: 20}
      - {seconds: 30, rate_per_s: 20, to_rate_per_s: 200}     # a ramp
      - {seconds: 30, share_of_capacity: 0.7}                 # of the smaller capacity in /status
      - {seconds: 30, clients: 8}                             # a closed loop
    pictures:
      source: auto            # files, generated, or auto: generated if the model is the stand-in
      distinct: 2000          # number of generated pictures
      per_request: 1
      broken_share: 0.0       # of the requests, 0 to 1
      broken: [cut, text]     # kinds of broken pictures; default: all but poison
      multipart: false        # true: a form even for one picture
    timeout_s: 60
    seed: 1
    slo: [p99=500ms, errors=0%]

Only the phases are required; the values above are the defaults of everything else.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from imageserve.errors import ImageserveError
from imageserve_loadtest.schedule import CONSTANT, POISSON, RateSegment
from imageserve_loadtest.verdict import Objective, ObjectiveError

OPEN = "open"
CLOSED = "closed"
SOURCES = ("auto", "files", "generated")
BUILT_IN = Path(__file__).with_name("scenarios")
"""The folder of the scenarios that come with the program."""
BROKEN_KINDS = ("cut", "text", "noise", "empty", "huge", "tiff", "poison")


class ScenarioError(ImageserveError):
    """A scenario cannot be used. The message names the file and the key."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of the load: clients, a rate, or a share of the capacity."""

    seconds: float
    name: str = ""
    clients: int | None = None
    rate_per_s: float | None = None
    to_rate_per_s: float | None = None
    share_of_capacity: float | None = None
    """Share of the pictures a second that the target's web processes and workers can do."""
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
    """A load and its objective."""

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
        """Return it with all phases scaled to this total time."""
        factor = seconds / self.seconds
        phases = (replace(phase, seconds=phase.seconds * factor) for phase in self.phases)
        return replace(self, phases=tuple(phases))

    def at_capacity(self, pictures_per_s: float) -> "Scenario":
        """Return it with rates in place of shares of a capacity."""
        requests_per_s = pictures_per_s / self.pictures.per_request
        return replace(self, phases=tuple(_at_rate(each, requests_per_s) for each in self.phases))

    def segments(self) -> list[RateSegment]:
        """Return the phases of an open loop; all must have rates."""
        return [
            RateSegment(
                phase.seconds, phase.rate_per_s or 0.0, _or(phase.to_rate_per_s, phase.rate_per_s)
            )
            for phase in self.phases
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
    return _scenario(_Reader(content, str(path)), path.stem)


def _scenario(reader: "_Reader", name: str) -> Scenario:
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


def _phase(reader: "_Reader", loop: str) -> Phase:
    own, others = (_CLOSED_KEYS, _OPEN_KEYS) if loop == CLOSED else (_OPEN_KEYS, _CLOSED_KEYS)
    reader.exactly_one(own)
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


def _pictures(reader: "_Reader") -> PictureMix:
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


def _objective(reader: "_Reader") -> Objective:
    terms = reader.texts("slo")
    try:
        return Objective.parse(terms)
    except ObjectiveError as error:
        raise reader.error("slo", str(error)) from error


_OPEN_KEYS = ("rate_per_s", "share_of_capacity")
_CLOSED_KEYS = ("clients",)
_REQUIRED: Any = object()


class _Reader:
    """Reads the keys of one mapping strictly: every error names the file and the key."""

    def __init__(self, content: Any, where: str) -> None:
        if not isinstance(content, Mapping):
            raise ScenarioError(f"{where}: must be a mapping of keys to values")
        self._content = dict(content)
        self._where = where
        self._known: list[str] = []

    def error(self, key: str, what: str) -> ScenarioError:
        return ScenarioError(f"{self._where}: {key}: {what}")

    def finish(self) -> None:
        """Refuse keys that were never asked for."""
        unknown = sorted(str(key) for key in self._content if key not in self._known)
        if unknown:
            raise self.error(
                unknown[0], f"is unknown; known are {', '.join(dict.fromkeys(self._known))}"
            )

    def exactly_one(self, keys: tuple[str, ...]) -> None:
        if sum(key in self._content for key in keys) != 1:
            raise ScenarioError(f"{self._where}: must have exactly one of {', '.join(keys)}")

    def none_of(self, keys: tuple[str, ...], why: str) -> None:
        for key in keys:
            if key in self._content:
                raise self.error(key, why)

    def needs(self, key: str, other: str) -> None:
        if key in self._content and other not in self._content:
            raise self.error(key, f"needs {other} beside it")

    def section(self, key: str) -> "_Reader":
        return _Reader(self._take(key, {}), f"{self._where}: {key}")

    def items(self, key: str) -> list["_Reader"]:
        items = self._take(key)
        if not isinstance(items, list) or not items:
            raise self.error(key, "must be a list with at least one entry")
        return [_Reader(each, f"{self._where}: {key}[{i}]") for i, each in enumerate(items)]

    def text(self, key: str) -> str:
        value = self._take(key, "")
        if not isinstance(value, str):
            raise self.error(key, "must be text")
        return " ".join(value.split())

    def texts(self, key: str) -> list[str]:
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self.error(key, "must be a list of texts")
        return value

    def choice(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        value = self._take(key, default)
        if value not in allowed:
            raise self.error(key, f"must be one of {', '.join(allowed)}, not {value!r}")
        return str(value)

    def choices(
        self, key: str, allowed: tuple[str, ...], default: tuple[str, ...]
    ) -> tuple[str, ...]:
        values = self._take(key, list(default))
        if not isinstance(values, list) or not values or any(v not in allowed for v in values):
            raise self.error(key, f"must be a list of some of {', '.join(allowed)}")
        return tuple(values)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def number(self, key: str, low: float, high: float, default: Any = _REQUIRED) -> float:
        value = self._take(key, default)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # "not low <= value" also refuses NaN.
        if not is_number or not low <= value <= high or not math.isfinite(value):
            raise self.error(key, f"must be a number from {low:g} to {high:g}, not {value!r}")
        return float(value)

    def whole(self, key: str, low: int, high: int, default: Any = _REQUIRED) -> int:
        value = self._take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, f"must be a whole number from {low} to {high}, not {value!r}")
        return value

    def optional_number(self, key: str, low: float, high: float) -> float | None:
        return self.number(key, low, high) if self._has(key) else None

    def optional_whole(self, key: str, low: int, high: int) -> int | None:
        return self.whole(key, low, high) if self._has(key) else None

    def _has(self, key: str) -> bool:
        self._known.append(key)
        return key in self._content

    def _take(self, key: str, default: Any = _REQUIRED) -> Any:
        if not self._has(key) and default is _REQUIRED:
            raise self.error(key, "is missing")
        return self._content.get(key, default)
