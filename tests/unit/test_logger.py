"""Log lines: JSON for machines, text for people."""

import io
import json
import logging
import re
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


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
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
    assert traceback[0].startswith("Traceback")
    assert traceback[-1] == "ValueError: broken"


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
