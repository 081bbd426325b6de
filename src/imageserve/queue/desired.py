"""The version of a model that operators want: the value of ``{Q}:wanted``. Pure."""

import re
from dataclasses import dataclass

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_ALLOWED = "letters, digits, dots, dashes and underscores, at most 64, a letter or digit first"


@dataclass(frozen=True, slots=True)
class DesiredVersion:
    """The version of a model that the workers of a queue should serve.

    ``{Q}:wanted`` holds it until an operator removes it, so it outlives every worker. Workers read
    it in the reply to each heartbeat. The same version with another ``at`` is tried again.
    """

    name: str
    version: str
    at: int
    """When it was set, Redis time in ms."""

    @property
    def text(self) -> str:
        return f"{self.name}@{self.version}"


def parse_desired(text: str, at: int) -> DesiredVersion:
    """Read ``NAME@VERSION``.

    Both become names of folders, so neither may contain a slash or begin with a dot.

    Raises ValueError where it is anything else.
    """
    match = re.fullmatch(f"({_PART})@({_PART})", text)
    if match is None:
        raise ValueError(f"{text[:150]!r} is not NAME@VERSION, each of {_ALLOWED}")
    return DesiredVersion(match[1], match[2], at)


def encode_desired(desired: DesiredVersion) -> str:
    """Write the value of ``{Q}:wanted``."""
    return f"{desired.text} {desired.at}"


def decode_desired(text: str) -> DesiredVersion | None:
    """Read the value of ``{Q}:wanted``; None where it is empty.

    Raises ValueError where another program wrote it.
    """
    if not text:
        return None
    named, _, at = text.rpartition(" ")
    if not re.fullmatch(r"\d{1,15}", at):
        raise ValueError(f"{text[:150]!r} is not NAME@VERSION and a time")
    return parse_desired(named, int(at))
