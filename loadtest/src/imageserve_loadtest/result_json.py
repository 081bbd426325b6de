"""Writes a result's dataclasses as JSON and reads them back, checking every field. Pure.

A histogram is written as figures, for people and scripts, and completely as ``hdr``, which is all
that is read back. ``result`` describes the format.
"""

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar

from imageserve.errors import ImageserveError
from imageserve_loadtest.histogram import Histogram

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
"""The figures of every histogram that is written."""

T = TypeVar("T")


class ResultError(ImageserveError):
    """A result cannot be read. The message names the key."""


def encoded(value: Any) -> Any:
    """Return a dataclass, and everything in it, as ``json.dumps`` takes it."""
    if isinstance(value, Histogram):
        return _encoded_histogram(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encoded(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: encoded(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [encoded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value


def _encoded_histogram(histogram: Histogram) -> dict[str, Any]:
    figures = histogram.percentiles_ms(PERCENTILES)
    return {
        "count": histogram.count,
        "mean_ms": _rounded(histogram.mean_ms),
        **{f"p{percentile:g}_ms": _rounded(figures.get(percentile)) for percentile in PERCENTILES},
        "max_ms": _rounded(histogram.max_ms),
        "hdr": histogram.encode(),
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


def decoded(cls: type[T], raw: Any, path: str) -> T:
    """Build a dataclass from JSON, checking each field against its annotation.

    Args:
        cls: the dataclass.
        raw: what ``json.loads`` returned.
        path: how error messages call it.

    Raises:
        ResultError: a field has the wrong type, or one without a default is missing.
    """
    if not isinstance(raw, dict):
        raise ResultError(f"{path}: must be an object")
    hints = typing.get_type_hints(cls)
    values = {}
    for each in fields(typing.cast(Any, cls)):
        if each.name in raw:
            values[each.name] = _decoded(hints[each.name], raw[each.name], f"{path}.{each.name}")
        elif _is_required(each):
            raise ResultError(f"{path}: lacks {each.name!r}")
    return cls(**values)


def _is_required(each: "Field[Any]") -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _decoded(hint: Any, raw: Any, path: str) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # The only unions are "X | None".
        return None if raw is None else _decoded(inner[0], raw, path)
    if origin is tuple:
        items = enumerate(_checked(raw, list, path))
        return tuple(_decoded(inner[0], each, f"{path}[{i}]") for i, each in items)
    if origin is Mapping:
        named = _checked(raw, dict, path).items()
        return {key: _decoded(inner[1], each, f"{path}.{key}") for key, each in named}
    if hint is Histogram:
        return _decoded_histogram(raw, path)
    if is_dataclass(hint):
        return decoded(typing.cast(type[Any], hint), raw, path)
    return _decoded_scalar(hint, raw, path)


def _decoded_histogram(raw: Any, path: str) -> Histogram:
    text = _checked(_checked(raw, dict, path).get("hdr"), str, f"{path}.hdr")
    try:
        return Histogram.decode(text)
    except ValueError as error:
        raise ResultError(f"{path}.hdr: {error}") from error


def _decoded_scalar(hint: Any, raw: Any, path: str) -> Any:
    if hint is float:
        number = float(_checked(raw, (int, float), path))
        if math.isfinite(number):
            return number
        raise ResultError(f"{path}: must be a finite number")
    return _checked(raw, hint, path)


def _checked(raw: Any, kind: Any, path: str) -> Any:
    # True is an int in Python but not in JSON.
    if not isinstance(raw, kind) or (isinstance(raw, bool) and kind is not bool):
        wanted = getattr(kind, "__name__", "number")
        raise ResultError(f"{path}: must be {wanted}, not {json.dumps(raw)[:40]}")
    return raw
