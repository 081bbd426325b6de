"""Check the rules for source files: their sizes, and that no module is imported by a string.

``python tools/check_house.py FOLDER...`` prints each breach as ``file:line: what is wrong`` and
exits with 1 where there is one. ``--numbers`` prints how many files and lines there are instead.
"""

import ast
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

MOST_LINES_OF_A_FILE = 450
MOST_LINES_OF_A_FUNCTION = 40
IMPORTERS = ("import_module", "__import__")


def main(arguments: Sequence[str]) -> int:
    folders = [Path(each) for each in arguments if not each.startswith("--")]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    if not files:
        print("usage: python tools/check_house.py [--numbers] FOLDER...", file=sys.stderr)
        return 2
    if "--numbers" in arguments:
        print("\n".join(numbers(files)))
        return 0
    modules = module_names(files)
    breaches = [breach for file in files for breach in breaches_of(file, modules)]
    print("\n".join(breaches) if breaches else f"{len(files)} files hold")
    return int(bool(breaches))


def breaches_of(file: Path, modules: frozenset[str]) -> Iterator[str]:
    """Yield the breaches in a file."""
    text = file.read_text(encoding="utf-8")
    lines = text.count("\n")
    if lines > MOST_LINES_OF_A_FILE:
        yield f"{file}:1: {lines} lines, more than {MOST_LINES_OF_A_FILE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = length(node)
            if size > MOST_LINES_OF_A_FUNCTION:
                limit = MOST_LINES_OF_A_FUNCTION
                yield f"{file}:{node.lineno}: {node.name} has {size} lines, more than {limit}"
        elif isinstance(node, ast.Call) and called_name(node) in IMPORTERS:
            yield f"{file}:{node.lineno}: a module is imported by a string, unseen by import-linter"
        elif isinstance(node, ast.Constant) and is_module(node.value, modules):
            yield f"{file}:{node.lineno}: {node.value!r} names a module by a string"


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def called_name(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def is_module(value: object, modules: frozenset[str]) -> bool:
    """Whether a string is the dotted name of a module, alone or with an attribute of it."""
    if not isinstance(value, str) or "." not in value or " " in value:
        return False
    name = value.partition(":")[0].rstrip(".")
    return name in modules or name.rpartition(".")[0] in modules - {"imageserve"}


def module_names(files: Sequence[Path]) -> frozenset[str]:
    """Return the dotted name of each file and of each package."""
    names = set()
    for file in files:
        parts = file.with_suffix("").parts
        parts = parts[parts.index("src") + 1 :] if "src" in parts else parts
        names |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return frozenset(names)


def numbers(files: Sequence[Path]) -> Iterator[str]:
    """Yield how many files there are, and how long they and their functions are."""
    lines = [file.read_text(encoding="utf-8").count("\n") for file in files]
    functions = sorted(
        length(node)
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    code = [count for count in lines if count > 1]
    yield f"{len(files)} files, {sum(lines)} lines"
    yield f"lines of a file: median {statistics.median(code):g}, largest {max(lines)}"
    ninth = functions[len(functions) * 9 // 10]
    yield f"lines of a function: 90 % have {ninth} at most, the longest {functions[-1]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
