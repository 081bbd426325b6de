"""What the lines of an API keys file say. Pure.

A line is ``KEY``, or ``KEY name=value ...`` with options of that key, in any order. What is wrong
with a line is told by its number and that of the word, never by its text, which is a secret.
"""

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from imageserve.errors import Forbidden, TooManyImages, told
from imageserve.queue.quota import LEAST_RATE, Quota
from imageserve.queue.wire import BACKGROUND

SHORTEST_KEY = 16
FASTEST = 100_000
"""Pictures per second. Redis counts in microseconds: above, they would be too coarse."""
MOST_BURST = 1_000_000


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request: what the line of its key says of it."""

    name: str = ""
    """Stands in logs and metrics; "" for none."""
    priority: str = ""
    """`BACKGROUND`, or ""."""
    quota: Quota | None = None
    """What all keys of its name together may send to each queue; None: as much as they like."""
    models: frozenset[str] = frozenset()
    """Those that it may ask for; none: all."""

    def check_model(self, name: str) -> None:
        """Raise Forbidden where it may not ask for a model."""
        if self.models and name not in self.models:
            allowed = ", ".join(sorted(self.models))
            raise Forbidden(
                f"the API key is not for the model {told(name, 80)}, but for {told(allowed, 400)}"
            )

    def check_burst(self, pictures: int) -> None:
        """Raise TooManyImages where its quota never takes so many at once.

        For requests that are answered as a whole or not at all: they would be over it each time.
        """
        if self.quota and pictures > self.quota.burst:
            raise TooManyImages(
                f"the key {self.name} may send {self.quota.burst} pictures at once, not {pictures}"
            )


ANYBODY = Caller()
"""Who sends a request where no keys are asked for."""


class Key(NamedTuple):
    """A key without its text."""

    digest: bytes
    caller: Caller
    line: int
    """Its number in the file."""


def digest_of(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def parse_keys(text: str) -> tuple[list[Key], list[str]]:
    """Return the keys of a file's text, and what is wrong with lines that cannot be keys."""
    keys, wrong = _Keys(), []
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip(" \t\r")
        if stripped and not stripped.startswith("#"):
            try:
                keys.add(_key(stripped, number))
            except ValueError as error:
                wrong.append(f"line {number}: {error}")
    return keys.all, wrong


class _Keys:
    """The keys of the lines so far: none contradicts another."""

    def __init__(self) -> None:
        self.all: list[Key] = []
        self._by_name: dict[str, Key] = {}
        self._by_digest: dict[bytes, Key] = {}

    def add(self, key: Key) -> None:
        """Raise ValueError where a line before has this key, or its name, with other options."""
        caller = key.caller
        before = self._by_name.get(caller.name, key) if caller.name else key
        if before.caller != caller:
            raise ValueError(f"its name is that of line {before.line}, its other options are not")
        before = self._by_digest.get(key.digest, key)
        # Of two priorities the lower one counts.
        if replace(before.caller, priority=caller.priority) != caller:
            raise ValueError(f"it is the key of line {before.line} with other options")
        self._by_name[caller.name] = self._by_digest[key.digest] = key
        self.all.append(key)


def _key(line: str, number: int) -> Key:
    """Read one line. Raises ValueError."""
    first, *options = re.split("[ \t]+", line)
    if not any("=" in each for each in options):  # A key may have spaces.
        first, options = line, []
    if strange := re.search("[^ -~]", first):
        raise ValueError(
            f"U+{ord(strange[0]):04X} cannot be in a key; use letters, digits and signs of ASCII"
        )
    if len(first) < SHORTEST_KEY:
        raise ValueError(f"a key has fewer than {SHORTEST_KEY} characters")
    return Key(digest_of(first), _caller(options), number)


def _caller(options: list[str]) -> Caller:
    found: dict[str, Any] = {}
    words: dict[str, int] = {}
    for word, option in enumerate(options, start=2):
        name, _, value = option.partition("=")
        if name not in _OPTIONS or "=" not in option:
            known = ", ".join(f"{each}=" for each in _OPTIONS)
            raise ValueError(f"word {word} is no option of a key; known are {known}")
        if name in found:
            raise ValueError(f"word {word}: {name} is given twice")
        try:
            found[name] = _OPTIONS[name](value)
        except ValueError as error:
            raise ValueError(f"word {word}: {error}") from error
        words[name] = word
    for name, needed in (("rate", "name"), ("burst", "rate")):
        if name in found and needed not in found:
            raise ValueError(f"word {words[name]}: {name} needs {needed}")
    rate, burst = found.pop("rate", None), found.pop("burst", None)
    if rate is None:
        return Caller(**found)
    return Caller(**found, quota=Quota(found["name"], rate, burst or math.ceil(rate)))


# -- options ---------------------------------------------------------------------------------------


def _name(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9._-]{1,64}", text):
        raise ValueError("a name has 1 to 64 letters, digits and ._-")
    return text


def _rate(text: str) -> float:
    is_number = re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text)
    if not is_number or not LEAST_RATE <= float(text) <= FASTEST:
        raise ValueError(
            f"rate is pictures per second, such as 50 or 0.5: from {LEAST_RATE:f} to {FASTEST}"
        )
    return float(text)


def _burst(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= MOST_BURST:
        raise ValueError(f"burst is pictures, a whole number from 1 to {MOST_BURST}")
    return int(text)


def _models(text: str) -> frozenset[str]:
    names = text.split(",")
    if not all(names):
        raise ValueError("models is names of models with commas between")
    return frozenset(names)


def _priority(text: str) -> str:
    if text not in ("interactive", BACKGROUND):
        raise ValueError(f"priority is interactive or {BACKGROUND}")
    return BACKGROUND if text == BACKGROUND else ""


_OPTIONS: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {"name": _name, "rate": _rate, "burst": _burst, "models": _models, "priority": _priority}
)
