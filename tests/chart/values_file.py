"""values.yaml with its comments, and the schema beside it."""

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

import yaml
from tests.chart.helm import CHART

Path = tuple[str, ...]


@functools.cache
def text() -> str:
    return (CHART / "values.yaml").read_text()


@functools.cache
def values() -> Any:
    return yaml.safe_load(text())


@functools.cache
def keys() -> dict[Path, str]:
    """Return the path of every key with the comment above it."""
    lines = text().splitlines()
    root = yaml.compose(text(), Loader=yaml.SafeLoader)
    return {path: _comment_above(lines, line) for path, line in _keys_below(root, ())}


def _keys_below(node: yaml.Node | None, path: Path) -> Iterator[tuple[Path, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            yield inner, key.start_mark.line
            yield from _keys_below(value, inner)


def _comment_above(lines: list[str], line: int) -> str:
    above: list[str] = []
    while line and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        above.insert(0, lines[line].strip())
    return "\n".join(above)


def is_described(path: Path) -> bool:
    return any(line.startswith("# --") for line in keys()[path].splitlines())


def described() -> list[Path]:
    return [path for path in keys() if is_described(path)]


def leaves() -> list[Path]:
    """Return the keys that a user sets: leaves, and maps that are described as a whole."""
    described_above = {path[:n] for path in described() for n in range(1, len(path))}
    whole = {path for path in described() if path not in described_above}
    return [
        path
        for path in keys()
        if path in whole
        or (not _has_keys(path) and not any(path[:n] in whole for n in range(1, len(path))))
    ]


def _has_keys(path: Path) -> bool:
    return bool(isinstance(at(values(), path), dict) and at(values(), path))


def at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def nested(path: Path, value: Any) -> dict[str, Any]:
    """Return values with this one at this path."""
    for key in reversed(path):
        value = {key: value}
    found: dict[str, Any] = value
    return found


@functools.cache
def schema() -> Any:
    return json.loads((CHART / "values.schema.json").read_text())


def subschema(path: Path) -> Any | None:
    """Return what the schema says of a key, or None where it does not know it."""
    found: Any | None = schema()
    for key in path:
        found = _step(found, key)
    return found


def _step(at_schema: Any, key: str) -> Any | None:
    for each in _alternatives(at_schema):
        if key in each.get("properties", {}):
            return each["properties"][key]
        if isinstance(each.get("additionalProperties"), dict):
            return each["additionalProperties"]
        refers = "$ref" in each or "properties" in each
        if not refers and each.get("additionalProperties") is not False:
            return {}
    return None


def _alternatives(at_schema: Any) -> Iterator[Any]:
    """Yield a schema and all schemas that it refers to."""
    if not isinstance(at_schema, dict):
        return
    yield at_schema
    if "$ref" in at_schema:
        yield from _alternatives(_referred(at_schema["$ref"]))
    for kind in ("allOf", "anyOf", "oneOf"):
        for each in at_schema.get(kind, []):
            yield from _alternatives(each)


def _referred(reference: str) -> Any:
    return at(schema(), tuple(reference.removeprefix("#/").split("/")))


@functools.cache
def templates() -> dict[str, str]:
    """Return the templates without their comments, by path."""
    found = sorted((CHART / "templates").rglob("*"))
    read = {str(p.relative_to(CHART)): p.read_text() for p in found if p.is_file()}
    return {
        name: re.sub(r"\{\{-?\s*/\*.*?\*/\s*-?\}\}", "", t, flags=re.S) for name, t in read.items()
    }


def read_paths() -> dict[Path, str]:
    """Return every ``.Values.some.path`` that a template reads, with the template."""
    found: dict[Path, str] = {}
    for name, content in templates().items():
        for match in re.finditer(r"\.Values((?:\.\w+)+)", content):
            found[tuple(match[1].strip(".").split("."))] = name
    return found
