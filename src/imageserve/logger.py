"""Logging: JSON lines in a container, readable lines in a terminal.

All code uses the standard library's loggers; ``setup_logging`` is called once, by the command that
starts a process. Values (ids, sizes, times) are passed as ``extra={"fields": {...}}``. They become
members of the JSON object, or ``key=value`` after the sentence.

Levels: debug for single steps, info for a request, a batch or a change of state, warning for a
problem that was solved, error for a failed job or a lost connection, critical for a bug.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """A line for people: time, level, sentence, then key=value."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        pairs = "".join(f" {key}={value}" for key, value in _fields(record).items())
        line = f"{clock} {record.levelname.lower():<8} {record.getMessage()}{pairs}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    return fields


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"


def make_formatter(log_format: str, stream: TextIO) -> logging.Formatter:
    """Return the formatter for ``log_format``: ``json``, ``text`` or ``auto``."""
    if log_format == "auto":
        log_format = "text" if stream.isatty() else "json"
    return JsonFormatter() if log_format == "json" else TextFormatter()


def setup_logging(level: str, log_format: str, stream: TextIO | None = None) -> None:
    """Send all log lines to ``stream`` (default: standard error) in one format."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(make_formatter(log_format, stream))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
