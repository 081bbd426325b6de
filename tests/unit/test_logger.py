"""Log lines: JSON for machines, text for people."""

import io
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from imageserve.logger import JsonFormatter, TextFormatter, make_formatter, setup_logging

NOON = 1_760_011_200.25  # 2025-10-09 12:00:00.250 UTC


def record(message: str = "a %s line", *args: object, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord(
        "imageserve.test", logging.WARNING, "here.py", 1, message, args or ("good",), None
    )
    made.created = NOON
    vars(made).update(more)
    return made


def caught() -> Any:
    try:
        raise ValueError("broken")
    except ValueError as error:
        return (type(error), error, error.__traceback__)


def long_and_caused() -> Any:
    try:
        try:
            raise ValueError("x" * 5000)
        except ValueError as error:
            raise RuntimeError("y" * 5000) from error
    except RuntimeError as error:
        return (type(error), error, error.__traceback__)


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_the_texts_of_exceptions_are_cut(formatter: logging.Formatter) -> None:
    line = formatter.format(record(exc_info=long_and_caused()))

    assert "ValueError: xxx" in line
    assert "RuntimeError: yyy" in line
    assert "long_and_caused" in line
    assert max(map(len, re.findall("x+|y+", line))) < 400


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(capture=False)


def test_a_json_line_is_one_object_with_time_level_logger_and_sentence() -> None:
    assert json.loads(JsonFormatter().format(record())) == {
        "time": "2025-10-09T12:00:00.250Z",
        "level": "warning",
        "logger": "imageserve.test",
        "message": "a good line",
    }


def test_times_are_utc_and_can_be_read_back() -> None:
    time = json.loads(JsonFormatter().format(record()))["time"]

    assert datetime.fromisoformat(time).timestamp() == NOON


def test_fields_become_members() -> None:
    fields = {"ids": ["a", "b"], "model_ms": 1.5, "where": {1}}

    line = json.loads(JsonFormatter().format(record(fields=fields)))

    assert (line["ids"], line["model_ms"]) == (["a", "b"], 1.5)
    assert line["where"] == "{1}", "what JSON does not know is written as text"


def test_a_json_line_stays_one_line_whatever_it_says() -> None:
    line = JsonFormatter().format(record("%s", "two\nlines\r\u2028", exc_info=caught()))

    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == "two\nlines\r\u2028"


def test_a_traceback_is_a_member_of_its_own() -> None:
    line = json.loads(JsonFormatter().format(record(exc_info=caught())))

    assert line["message"] == "a good line"
    assert line["traceback"].startswith("Traceback")
    assert line["traceback"].endswith("ValueError: broken")


def test_a_text_line_has_time_level_sentence_and_fields() -> None:
    line = TextFormatter().format(record(fields={"jobs": 3, "solo": False}))

    assert re.fullmatch(r"\d\d:\d\d:00 warning  a good line jobs=3 solo=False", line)


def test_a_text_line_is_followed_by_its_traceback() -> None:
    line, *traceback = TextFormatter().format(record(exc_info=caught())).splitlines()

    assert line.endswith("a good line")
    assert traceback[0] == "    Traceback (most recent call last):"
    assert traceback[-1] == "    ValueError: broken"


def failed(text: str) -> Any:
    try:
        raise ValueError(text)
    except ValueError as error:
        return (type(error), error, error.__traceback__)


CONTROL = {
    "a line feed": "\n",
    "a carriage return": "\r",
    "an escape": "\x1b[2J",
    "a bell": "\x07",
    "delete": "\x7f",
    "a control of Latin-1": "\x9b31m",
    "a line end of Unicode": "\u2028",
    "the other one": "\u2029",
    "writing from the right": "\u202e",
    "an isolate": "\u2066",
    "half a character": "\ud800",
}


@pytest.mark.parametrize("control", CONTROL.values(), ids=CONTROL)
def test_what_a_client_sends_cannot_write_lines_of_its_own(control: str) -> None:
    forged = f"/x{control}12:00:00 critical FORGED"

    text = TextFormatter().format(
        record("%s", forged, fields={"path": forged}, exc_info=failed(forged))
    )

    first, *others = text.splitlines()
    assert first.count("FORGED") == 2
    assert all(line.startswith("    ") for line in others)
    assert control not in text.replace("\n", "", len(others))
    text.encode()


def test_a_value_that_looks_like_several_is_quoted() -> None:
    line = TextFormatter().format(record(fields={"path": "/x status=200", "n": 1}))

    assert line.endswith('path="/x status=200" n=1')


PICTURE = bytes(range(256)) * 4000


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(record("%r", PICTURE), id="message"),
        pytest.param(record("x" * 90_000 + "%r", PICTURE), id="end of a message"),
        pytest.param(record(fields={"data": PICTURE}), id="value"),
        pytest.param(record(fields={"text": repr(PICTURE)}), id="text"),
        pytest.param(record(exc_info=failed(f"cannot read {PICTURE!r}")), id="traceback"),
        pytest.param(record(exc_info=failed(f"cannot read {bytearray(PICTURE)!r}")), id="array"),
    ],
)
def test_no_line_has_the_bytes_of_a_picture(
    formatter: logging.Formatter, broken: logging.LogRecord
) -> None:
    line = formatter.format(broken)

    assert len(line) < 20_000
    assert "\\x05" not in line


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_a_long_text_is_cut_in_its_middle(formatter: logging.Formatter) -> None:
    line = formatter.format(record("%s", "begin " + "x" * 50_000 + " end"))

    assert "begin" in line
    assert " end" in line
    assert len(line) < 10_000


@pytest.mark.usefixtures("restored_logging")
def test_errors_that_nobody_catches_are_logged() -> None:
    stream = io.StringIO()
    setup_logging("info", "json", stream)

    sys.excepthook(*failed("uncaught"))
    thread = threading.Thread(target=lambda: int("in a thread"), name="helper")
    thread.start()
    thread.join()

    class Unraisable:
        def __del__(self) -> None:
            raise ValueError("in a finalizer")

    Unraisable()

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    ends = [line["traceback"].splitlines()[-1] for line in lines]
    assert [end.rpartition(": ")[2] for end in ends] == [
        "uncaught",
        "'in a thread'",
        "in a finalizer",
    ]
    assert "helper" in lines[1]["message"]


@pytest.mark.usefixtures("restored_logging")
def test_a_line_that_cannot_be_written_is_named_and_its_arguments_are_not() -> None:
    stream = io.StringIO()
    setup_logging("info", "json", stream)

    logging.getLogger("imageserve").info("%d bytes", "secret")

    line = json.loads(stream.getvalue())
    assert "test_logger.py" in line["message"]
    assert "secret" not in stream.getvalue()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("log_format", "stream", "expected"),
    [
        pytest.param("json", _Terminal(), JsonFormatter, id="JSON where asked for"),
        pytest.param("text", io.StringIO(), TextFormatter, id="text where asked for"),
        pytest.param("auto", _Terminal(), TextFormatter, id="auto: text in a terminal"),
        pytest.param("auto", io.StringIO(), JsonFormatter, id="auto: JSON elsewhere"),
    ],
)
def test_the_format_is_chosen(log_format: str, stream: io.StringIO, expected: type) -> None:
    assert type(make_formatter(log_format, stream)) is expected


@pytest.mark.usefixtures("restored_logging")
def test_all_loggers_write_to_the_one_stream_from_the_level_on() -> None:
    stream = io.StringIO()
    setup_logging("warning", "json", stream)
    setup_logging("info", "json", stream)

    logging.getLogger("imageserve.a").info("heard", extra={"fields": {"n": 1}})
    logging.getLogger("another.package").warning("heard too")
    logging.getLogger("imageserve.a").debug("not heard")

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["heard", "heard too"]
    assert lines[0]["n"] == 1


@pytest.mark.usefixtures("restored_logging")
def test_warnings_are_logged() -> None:
    stream = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        setup_logging("info", "json", stream)
        warnings.warn("getting old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)

    line = json.loads(stream.getvalue())
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "DeprecationWarning: getting old" in line["message"]


@pytest.mark.usefixtures("restored_logging")
def test_standard_error_is_the_stream_unless_another_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup_logging("info", "json")

    logging.getLogger("imageserve").info("here")

    assert json.loads(capsys.readouterr().err)["message"] == "here"
