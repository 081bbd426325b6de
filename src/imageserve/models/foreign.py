"""Text of libraries and files, made fit for a message of ours."""

import re

from imageserve.errors import ImageserveError

MOST_CHARACTERS = 300
"""Longest foreign text in one message: an error of Keras can hold a whole model, in pages."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\s]+")


def foreign(text: object, most: int = MOST_CHARACTERS) -> str:
    """Return a text in one line, without control characters, cut to ``most`` characters."""
    line = _CONTROL.sub(" ", str(text)).strip()
    return line if len(line) <= most else f"{line[: most - 3]}..."


def reason_of(error: BaseException) -> str:
    """Return why a model fails: our own words, or the class and the beginning of a foreign text."""
    if isinstance(error, ImageserveError):
        return str(error)
    return f"the model fails: {type(error).__name__}: {foreign(error)}"


def first_line(error: BaseException) -> str:
    """Shorten an error of a library to its first line, or to its class where it says nothing."""
    return foreign(str(error).strip().partition("\n")[0]) or type(error).__name__
