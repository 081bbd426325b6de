"""Writes the table of values in the chart's README from the comments in values.yaml.

A comment that begins with ``# --`` describes the value below it. Every value must be described, by
a comment of its own or, where a whole map is handed on to Kubernetes, by the comment of that map.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "charts" / "imageserve"
BEGIN, END = "<!-- values -->\n", "<!-- /values -->"
MARK = "# --"


class Undocumented(Exception):
    """Values without a description."""


@dataclass(frozen=True)
class Value:
    """One row of the table."""

    path: str
    default: Any
    text: str


def described(source: str) -> list[Value]:
    """Return every described value, in the order of the file.

    Raises Undocumented where a value has no description.
    """
    root = yaml.compose(source, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise Undocumented("values.yaml must be a map")
    lines = source.splitlines()
    found = list(_below(root, "", lines))
    missing = [path for path, text, _ in found if text is None]
    if missing:
        raise Undocumented(f"no description ('{MARK} …') of: {', '.join(missing)}")
    return [Value(path, default, text) for path, text, default in found if text is not None]


def _below(
    node: yaml.MappingNode, prefix: str, lines: list[str]
) -> Iterator[tuple[str, str | None, Any]]:
    """Yield path, description and default of each value; no description is None."""
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        text = _comment_above(key.start_mark.line, lines)
        if isinstance(value, yaml.MappingNode) and value.value and _has_described(value, lines):
            if text is not None:
                yield path, text, None
            yield from _below(value, f"{path}.", lines)
        elif text is None and isinstance(value, yaml.MappingNode) and value.value:
            yield from _below(value, f"{path}.", lines)
        else:
            yield path, text, _plain(value)


def _has_described(node: yaml.MappingNode, lines: list[str]) -> bool:
    return any(
        _comment_above(key.start_mark.line, lines) is not None
        or (isinstance(value, yaml.MappingNode) and _has_described(value, lines))
        for key, value in node.value
    )


def _comment_above(line: int, lines: list[str]) -> str | None:
    """Return the description in the comment lines directly above a line."""
    block: list[str] = []
    for above in reversed(lines[:line]):
        text = above.strip()
        if not text.startswith("#"):
            return None
        block.insert(0, text.removeprefix(MARK if text.startswith(MARK) else "#").strip())
        if text.startswith(MARK):
            return " ".join(block)
    return None


def _plain(node: yaml.Node) -> Any:
    return yaml.safe_load(yaml.serialize(node, Dumper=yaml.SafeDumper))


def table(values: list[Value]) -> str:
    """Return the values as Markdown."""
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    rows += [f"| `{v.path}` | {_shown(v.default)} | {_cell(v.text)} |" for v in values]
    return "\n".join(rows) + "\n"


def _shown(default: Any) -> str:
    if default is None:
        return ""
    text = default if isinstance(default, str) and default else json.dumps(default)
    return f"`{_cell(text)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def with_table(readme: str, content: str) -> str:
    """Return the README with the table between its marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md must have the lines {BEGIN.strip()} and {END}")
    return f"{before}{begin}{content}{end}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if it would")
    options = parser.parse_args()
    readme = CHART / "README.md"
    try:
        values = described((CHART / "values.yaml").read_text())
    except Undocumented as error:
        print(f"values.yaml: {error}", file=sys.stderr)
        return 1
    old = readme.read_text()
    new = with_table(old, table(values))
    if options.check and old != new:
        print("charts/imageserve/README.md: run tools/chart_docs.py", file=sys.stderr)
        return 1
    if not options.check:
        readme.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
