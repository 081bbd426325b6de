"""Takes the values out of a scenario file; every error names the file and the key. Pure."""

import math
from collections.abc import Mapping
from typing import Any

from imageserve.errors import ImageserveError

_REQUIRED: Any = object()


class ScenarioError(ImageserveError):
    """A scenario cannot be used. The message names the file and the key."""


class Reader:
    """Takes the keys out of one mapping; what is left at the end is unknown."""

    def __init__(self, content: Any, where: str) -> None:
        if not isinstance(content, Mapping):
            raise ScenarioError(f"{where}: must be a mapping of keys to values")
        self._content = dict(content)
        self._where = where
        self._known: list[str] = []

    def error(self, key: str, what: str) -> ScenarioError:
        return ScenarioError(f"{self._where}: {key}: {what}")

    def finish(self) -> None:
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

    def section(self, key: str) -> "Reader":
        return Reader(self._take(key, {}), f"{self._where}: {key}")

    def items(self, key: str) -> list["Reader"]:
        items = self._take(key)
        if not isinstance(items, list) or not items:
            raise self.error(key, "must be a list with at least one entry")
        return [Reader(each, f"{self._where}: {key}[{i}]") for i, each in enumerate(items)]

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
        right_kind = isinstance(value, (int, float)) and not isinstance(value, bool)
        # Written so that a not-a-number fails, too.
        if not right_kind or not low <= value <= high or not math.isfinite(value):
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
