"""Which version of a model the workers of a queue are told to serve: one short text. Pure.

``{Q}:wanted`` holds it until it is taken back, so that it outlives every worker. Workers hear it in
answer to their heartbeats.
"""

import re
from dataclasses import dataclass

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_ALLOWED = "letters, digits, dots, dashes and underscores, at most 64, a letter or digit first"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One wish. The same version asked for once more is another wish: it is tried again."""

    name: str
    version: str
    at: int
    """When it was asked for, Redis time in ms."""

    @property
    def text(self) -> str:
        return f"{self.name}@{self.version}"


def parse_wanted(text: str, at: int) -> Wanted:
    """Read ``NAME@VERSION``.

    Both become names of folders, so neither can lead out of the folder that they are looked for in.

    Raises:
        ValueError: it is anything else.
    """
    match = re.fullmatch(f"({_PART})@({_PART})", text)
    if match is None:
        raise ValueError(f"{text[:150]!r} is not NAME@VERSION, each of {_ALLOWED}")
    return Wanted(match[1], match[2], at)


def encode_wanted(wanted: Wanted) -> str:
    """Write what ``{Q}:wanted`` holds."""
    return f"{wanted.text} {wanted.at}"


def decode_wanted(text: str) -> Wanted | None:
    """Read it again; None where nothing is wanted.

    Raises:
        ValueError: somebody else has written it.
    """
    if not text:
        return None
    named, _, at = text.rpartition(" ")
    if not re.fullmatch(r"\d{1,15}", at):
        raise ValueError(f"{text[:150]!r} is not NAME@VERSION and a time")
    return parse_wanted(named, int(at))
