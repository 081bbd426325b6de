"""The one reader of what people write: environment variables and YAML files.

A parser takes one value and returns what the program works with. It raises ValueError that says
what is allowed; `parsed` turns that into a SettingsError with the key and the value. Keys of nested
mappings add up to a path: ``models.shapes.queue: must be ...``.
"""

import os
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml

from imageserve.errors import SettingsError

T = TypeVar("T")
Parser = Callable[[Any], T]


class EnvText(str):
    """The text of an environment variable, where numbers, switches and lists are text, too.

    YAML has types of its own: there ``"8"`` is no number, and parsers refuse it.
    """

    __slots__ = ()


def parsed(key: str, parse: Parser[T], value: Any, *, secret: bool = False) -> T:
    """Return the parsed value of a key.

    Raises SettingsError that names the key and, unless it is a secret, shows the value.
    """
    try:
        return parse(value)
    except SettingsError as error:  # It begins with the key of an inner mapping.
        raise SettingsError(f"{key}.{error}") from error
    except ValueError as error:
        shown = "" if secret else f" (it is {value!r})"
        raise SettingsError(f"{key}: {error}{shown}") from error


def read_file(path: Path, parse: Parser[T], setting: str = "") -> T:
    """Return the parsed content of a YAML file; ``setting`` is the variable that names the file.

    Raises SettingsError that names the setting, the file and the key.
    """
    try:
        return parse(_yaml(path))
    except (SettingsError, ValueError) as error:
        where = f"{setting}: {path}" if setting else str(path)
        raise SettingsError(f"{where}: {error}") from error


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_bytes())
    except OSError as error:
        user = f"this process is user {os.geteuid()}"
        raise ValueError(f"cannot be read ({error.strerror}); {user}") from error
    # ValueError: a date such as 2026-99-99.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"is not valid YAML: {' '.join(str(error).split())}") from error


# -- mappings -------------------------------------------------------------------------------------


def fields_of(
    known: Mapping[str, Parser[Any]], required: Collection[str] = ()
) -> Parser[dict[str, Any]]:
    """Return the parser of a mapping that has no other keys than these."""

    def parse(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("must be a mapping, lines of 'key: value'")
        for key in value:
            if key not in known:
                raise SettingsError(f"{key}: is unknown; known are {', '.join(known)}")
        for key in required:
            if key not in value:
                raise SettingsError(f"{key}: is missing")
        return {key: parsed(key, known[key], each) for key, each in value.items()}

    return parse


def by_name(parse_one: Callable[[str, Any], T]) -> Parser[dict[str, T]]:
    """Return the parser of a mapping from names, at least one, to values of one kind.

    ``parse_one`` gets the name and the value.
    """

    def parse(value: Any) -> dict[str, T]:
        if not isinstance(value, dict) or not value:
            raise ValueError("must map at least one name to its settings")
        named = {str(name): each for name, each in value.items()}
        return {n: parsed(n, partial(parse_one, n), each) for n, each in named.items()}

    return parse


# -- single values --------------------------------------------------------------------------------


def optional(parse_given: Parser[T]) -> Parser[T | None]:
    """Return a parser that takes an empty value as not set."""
    return lambda value: None if value in (None, "") else parse_given(value)


def text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text that is not empty")
    return value


def existing_file(value: Any) -> str:
    path = text(value)
    try:
        is_there = Path(path).is_file()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from error
    if not is_there:
        raise ValueError("there is no such file")
    return path


def matching(pattern: str, allowed: str) -> Parser[str]:
    """Return the parser of texts that match a pattern, which is described by ``allowed``."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"must be {allowed}")
        return value

    return parse


queue_name = matching(r"[^\s{}]{1,200}", "1 to 200 characters without spaces and braces")


def whole(low: int, high: int) -> Parser[int]:
    def parse(value: Any) -> int:
        given = _number(value, int)
        if type(given) is not int or not low <= given <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return given

    return parse


def number(low: float, high: float) -> Parser[float]:
    def parse(value: Any) -> float:
        given = _number(value, float)
        is_number = isinstance(given, int | float) and not isinstance(given, bool)
        if not is_number or not low <= given <= high:
            raise ValueError(f"must be a number from {low} to {high}")
        return float(given)

    return parse


def _number(value: Any, kind: Callable[[str], float]) -> Any:
    """Return the number in the text of a variable, None if it is no number; else the value."""
    if not isinstance(value, EnvText):
        return value
    try:
        return kind(value.replace("_", "?"))  # Python takes 1_0 for 10.
    except ValueError:
        return None


_SWITCH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def switch(value: Any) -> bool:
    if isinstance(value, EnvText):
        if value.strip().lower() not in _SWITCH:
            raise ValueError(f"must be one of {', '.join(_SWITCH)}")
        return _SWITCH[value.strip().lower()]
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def one_of(*choices: str) -> Parser[str]:
    def parse(value: Any) -> str:
        chosen = value.lower() if isinstance(value, EnvText) else value
        if not isinstance(chosen, str) or chosen not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return chosen

    return parse


def some_of(*choices: str) -> Parser[frozenset[str]]:
    """Return the parser of a comma-separated list, as an environment variable has it."""

    def parse(value: Any) -> frozenset[str]:
        names = frozenset(name.strip().lower() for name in value.split(",") if name.strip())
        if not names or not names.issubset(choices):
            raise ValueError(f"must be a comma-separated list out of {', '.join(choices)}")
        return names

    return parse


_DEFAULT_PORT = re.compile(r"^(?:(http:.+):80|(https:.+):443)$")
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")


def origins(value: Any) -> frozenset[str]:
    """Read a comma-separated list of origins, as browsers write them, or ``*``."""
    listed = [each.strip().lower() for each in value.split(",") if each.strip()]
    for each in listed:
        if each != "*" and not _ORIGIN.fullmatch(each):
            raise ValueError(
                "must be *, or a comma-separated list of origins such as https://app.example.com, "
                "without a path"
            )
    # Browsers leave the default port out.
    return frozenset(_DEFAULT_PORT.sub(r"\1\2", each) for each in listed)


_HTTP_ADDRESS = re.compile(
    r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:/\S*)?"
)


def http_address(value: Any) -> str:
    if not isinstance(value, str) or not _HTTP_ADDRESS.fullmatch(value):
        raise ValueError("must be an address such as http://host:4318, without user and password")
    return value


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def byte_count(value: Any) -> int:
    match = re.fullmatch(r"(\d+)\s*([kmg]i?)?b?", str(value).strip().lower())
    if match is None or int(match[1]) == 0:
        raise ValueError("must be a number of bytes above 0, such as 10MiB or 10485760")
    return int(match[1]) * _UNITS[match[2] or ""]


def image_size(value: Any) -> tuple[int, int]:
    """Read height and width, in pixels; one number stands for both."""
    both = "[height, width]"
    if isinstance(value, EnvText):
        both = "HEIGHTxWIDTH"
        match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", value.strip().lower())
        value = [int(match[1]), int(match[2] or match[1])] if match else None
    size = value if isinstance(value, list) else [value, value]
    if len(size) != 2 or not all(type(n) is int and 8 <= n <= 4096 for n in size):
        raise ValueError(f"must be {both} or one number, 8 to 4096 pixels")
    return size[0], size[1]
