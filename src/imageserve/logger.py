"""Logging: JSON lines in a container, readable lines in a terminal.

All code uses the standard library's loggers; ``setup_logging`` is called once, by the command that
starts a process. Values (ids, sizes, times) are passed as ``extra={"fields": {...}}``. They become
members of the JSON object, or ``key=value`` after the sentence.

No line holds what a client sent in its body, and no text in it is longer than a few thousand
characters, whoever raises what: long texts are cut, and bytes as Python writes them are left out. A
line of text stays one line: control characters are escaped. What Python would print by itself (an
exception that nobody catches, a warning) is logged like all else.

Levels: debug for single steps, info for a request, a batch or a change of state, warning for a
problem that was solved, error for a failed job or a lost connection, critical for a bug.
"""

import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, TextIO

log = logging.getLogger(__name__)

LONGEST_TEXT = 8000
"""Most characters of a message, a value or a traceback."""
LOOKED_AT = 100_000
"""Characters of a text that are looked at; what comes after them is not even searched."""
LONGEST_BYTES = 40

_BYTES = re.compile(
    rf"""b'(?:[^'\\]|\\.){{{LONGEST_BYTES},}}'?|b"(?:[^"\\]|\\.){{{LONGEST_BYTES},}}"?""", re.DOTALL
)
"""Bytes as Python writes them, possibly cut."""

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, line ends, characters that turn the direction of writing, half characters."""

MOST_OF_AN_ERROR = 400
"""Longest text of one exception in a traceback, in characters: one of Keras can hold a model."""


class _Formatter(logging.Formatter):
    """Shows exceptions as Python does, but cuts their texts."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the base class's name
        return "".join(_cut(part) for part in traceback.format_exception(*ei)).rstrip("\n")


def _cut(text: str) -> str:
    return text if len(text) <= MOST_OF_AN_ERROR else f"{text[: MOST_OF_AN_ERROR - 4]}...\n"


class JsonFormatter(_Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _short(record.getMessage()),
        }
        for key, value in _fields(record).items():
            line[key] = _short(value) if isinstance(value, str) else value
        if record.exc_info:
            line["traceback"] = _short(self.formatException(record.exc_info))
        return _encoded(line)


class TextFormatter(_Formatter):
    """A line for people: time, level, sentence, then key=value. A traceback is indented."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        pairs = "".join(f" {key}={_value(value)}" for key, value in _fields(record).items())
        message = printable(_short(record.getMessage()))
        line = f"{clock} {record.levelname.lower():<8} {message}{pairs}"
        if record.exc_info:
            traceback = _short(self.formatException(record.exc_info)).split("\n")
            line += "".join(f"\n    {printable(text)}" for text in traceback)
        return line


def printable(text: str) -> str:
    """Return a text as one line that does nothing to a terminal."""
    return _UNPRINTABLE.sub(_escaped, text)


def _escaped(match: "re.Match[str]") -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def _value(value: object) -> str:
    text = printable(_shown(value))
    # A text that looks like several pairs must not be read as such.
    looks_like_pairs = isinstance(value, str) and {" ", '"', "="} & set(text)
    return json.dumps(text, ensure_ascii=False) if looks_like_pairs else text


def _shown(value: object) -> str:
    return _short(str(value))


def _short(text: str) -> str:
    """Return a text without what is too much of it, in length and in bytes."""
    if len(text) <= LONGEST_BYTES:
        return text
    short = _BYTES.sub("b'…'", text[:LOOKED_AT])
    if len(short) <= LONGEST_TEXT:
        return short
    half = LONGEST_TEXT // 2
    return f"{short[:half]} … {len(short) - 2 * half} characters … {short[-half:]}"


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields


_encoded = json.JSONEncoder(default=_shown, separators=(",", ":")).encode


def _utc(seconds: float) -> str:
    return f"{_whole(int(seconds))}.{int(seconds * 1000) % 1000:03d}Z"


@lru_cache(maxsize=1)
def _whole(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def make_formatter(log_format: str, stream: TextIO) -> logging.Formatter:
    """Return the formatter for ``log_format``: ``json``, ``text`` or ``auto``."""
    if log_format == "auto":
        log_format = "text" if stream.isatty() else "json"
    return JsonFormatter() if log_format == "json" else TextFormatter()


def setup_logging(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Send all log lines to ``stream`` (default: standard error) in one format."""
    stream = stream or sys.stderr
    handler = _Handler(stream)
    handler.setFormatter(make_formatter(log_format, stream))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    # No line has them, and each record would look them up, one by a system call.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


def write(log: logging.Logger, level: int, message: str, fields: Mapping[str, Any]) -> None:
    """Log a line as ``log.log`` does, but do not look for the place in the code that asks.

    For what is logged once per picture. The caller asks `logging.Logger.isEnabledFor` first.
    """
    record = logging.LogRecord(log.name, level, __file__, 0, message, None, None)
    record.fields = fields
    log.handle(record)


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging calls it so
        """Say where a line is wrong; Python's own handler prints all its arguments."""
        place = f"{record.pathname}:{record.lineno}"
        wrong = logging.LogRecord(
            __name__, logging.ERROR, place, 0, "a line cannot be logged: %s", (place,), None
        )
        with suppress(Exception):
            self.stream.write(self.format(wrong) + self.terminator)
            self.flush()


def _log_uncaught(kind: Any, error: Any, traceback: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    log.critical("nobody caught this error", exc_info=(kind, error, traceback))


def _log_uncaught_in_thread(args: Any) -> None:
    if issubclass(args.exc_type, SystemExit):
        return
    name = args.thread.name if args.thread else "unknown"
    failed = (args.exc_type, args.exc_value, args.exc_traceback)
    log.critical("nobody caught this error in thread %s", name, exc_info=failed)


def _log_unraisable(args: Any) -> None:
    # Not args.object: it is shown with all that is in it.
    failed = (args.exc_type, args.exc_value, args.exc_traceback)
    log.error(args.err_msg or "an error that cannot be raised", exc_info=failed)
