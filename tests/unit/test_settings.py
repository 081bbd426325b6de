"""Settings: accepted values of each variable, and errors for others."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from imageserve.config.reader import EnvText
from imageserve.config.settings import Settings, table, variables
from imageserve.errors import SettingsError

FIELDS = fields(Settings)
VARIABLES = list(variables())


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: str(field.name))
def test_every_field_has_a_description_and_a_parser(field: Any) -> None:
    assert field.metadata["doc"].endswith(".")
    assert callable(field.metadata["parse"])


def test_a_variable_has_the_name_of_its_field_in_capitals() -> None:
    assert [(name, field.name) for name, field in variables().items()] == [
        (field.name.upper(), field.name) for field in FIELDS
    ]


def test_without_variables_every_setting_has_its_default() -> None:
    assert Settings.from_env({}) == Settings()


def test_an_empty_variable_is_not_set() -> None:
    assert Settings.from_env(dict.fromkeys(VARIABLES, "")) == Settings()


def test_unknown_variables_are_left_alone() -> None:
    assert Settings.from_env({"PATH": "/bin", "REDIS": "x"}) == Settings()


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        pytest.param("REDIS_URL", "unix:///run/r.sock", "unix:///run/r.sock", id="text"),
        pytest.param("REDIS_PASSWORD", "p@ss/w#rd ", "p@ss/w#rd ", id="a password, unchanged"),
        pytest.param("IMAGE_QUEUE", "my:queue-1", "my:queue-1", id="queue"),
        pytest.param("INPUT_SIZE", "224", (224, 224), id="one number is both"),
        pytest.param("INPUT_SIZE", "224x320", (224, 320), id="height and width"),
        pytest.param("INPUT_SIZE", " 8X4096 ", (8, 4096), id="the ends of the range"),
        pytest.param("INTERPOLATION", "Lanczos", "lanczos", id="a choice in any case"),
        pytest.param("XLA", "1", True, id="switched on"),
        pytest.param("XLA", " No", False, id="switched off"),
        pytest.param("BATCH_SIZE", "1", 1, id="least whole number"),
        pytest.param("BATCH_SIZE", "1024", 1024, id="largest whole number"),
        pytest.param("BATCH_DELAY_MS", "0", 0, id="no delay"),
        pytest.param("REQUEST_TIMEOUT_S", "0.1", 0.1, id="seconds with a fraction"),
        pytest.param("DRAIN_S", "0", 0.0, id="no seconds"),
        pytest.param("MAX_IMAGE_BYTES", "10485760", 10 * 2**20, id="bytes"),
        pytest.param("MAX_IMAGE_BYTES", "10MiB", 10 * 2**20, id="MiB"),
        pytest.param("MAX_IMAGE_BYTES", "10 mb", 10 * 10**6, id="MB"),
        pytest.param("MAX_IMAGE_BYTES", "512k", 512_000, id="k"),
        pytest.param("MAX_IMAGE_BYTES", "512Ki", 512 * 2**10, id="Ki"),
        pytest.param("QUEUE_BYTES_LIMIT", "2Gi", 2 * 2**30, id="Gi"),
        pytest.param("QUEUE_BYTES_LIMIT", "2G", 2 * 10**9, id="G"),
        pytest.param("IMAGE_FORMATS", "PNG, jpeg,", frozenset({"png", "jpeg"}), id="formats"),
        pytest.param("CORS_ORIGINS", "*", frozenset({"*"}), id="all origins"),
        pytest.param("TRACES_ENDPOINT", "http://c:4318", "http://c:4318", id="address"),
        pytest.param("TRACES_ENDPOINT", "https://[::1]/a", "https://[::1]/a", id="with a path"),
        pytest.param("TRACES_SHARE", "0.5", 0.5, id="share"),
        pytest.param(
            "CORS_ORIGINS",
            "https://App.test, http://[::1]:3000,",
            frozenset({"https://app.test", "http://[::1]:3000"}),
            id="origins",
        ),
        pytest.param(
            "CORS_ORIGINS",
            "https://a.test:443, http://b.test:80, http://c.test:443",
            frozenset({"https://a.test", "http://b.test", "http://c.test:443"}),
            id="origins with the default port, which browsers leave out",
        ),
        pytest.param("METRICS_PORT", "0", 0, id="no metrics port"),
        pytest.param("LOG_LEVEL", "DEBUG", "debug", id="log level"),
        pytest.param("LOG_FORMAT", "json", "json", id="log format"),
    ],
)
def test_a_good_value_is_read(variable: str, text: str, expected: object) -> None:
    read = Settings.from_env({variable: text})

    assert getattr(read, variable.lower()) == expected


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        pytest.param("IMAGE_QUEUE", "my queue", "without spaces and braces", id="a space"),
        pytest.param("IMAGE_QUEUE", "{queue}", "without spaces and braces", id="braces"),
        pytest.param("IMAGE_QUEUE", "q" * 201, "1 to 200 characters", id="a long name"),
        pytest.param("INPUT_SIZE", "7", "8 to 4096", id="too small"),
        pytest.param("INPUT_SIZE", "224x4097", "8 to 4096", id="too large"),
        pytest.param("INPUT_SIZE", "224x", "HEIGHTxWIDTH", id="half a size"),
        pytest.param("INPUT_SIZE", "0", "8 to 4096", id="nothing"),
        pytest.param("INTERPOLATION", "cubic", "nearest, bilinear, bicubic", id="no such choice"),
        pytest.param("XLA", "maybe", "must be one of 1, true, yes, 0", id="neither on nor off"),
        pytest.param("MODEL_RUNTIME", "tflite", "must be one of keras, onnx", id="no such engine"),
        pytest.param("BATCH_SIZE", "0", "from 1 to 1024", id="below the range"),
        pytest.param("BATCH_SIZE", "1025", "from 1 to 1024", id="above the range"),
        pytest.param("BATCH_SIZE", "3.5", "whole number from 1 to 1024", id="not whole"),
        pytest.param("BATCH_SIZE", "many", "whole number from 1 to 1024", id="not a number"),
        pytest.param("BATCH_SIZE", "1_0", "whole number from 1 to 1024", id="Python's underscore"),
        pytest.param("REQUEST_TIMEOUT_S", "nan", "from 0.1 to 3600", id="NaN"),
        pytest.param("REQUEST_TIMEOUT_S", "inf", "from 0.1 to 3600", id="infinity"),
        pytest.param("REQUEST_TIMEOUT_S", "-1", "from 0.1 to 3600", id="negative"),
        pytest.param("REQUEST_TIMEOUT_S", "10s", "10s", id="with a unit"),
        pytest.param("MAX_IMAGE_BYTES", "0", "above 0", id="no bytes"),
        pytest.param("MAX_IMAGE_BYTES", "-5", "above 0", id="negative bytes"),
        pytest.param("MAX_IMAGE_BYTES", "1.5M", "such as 10MiB", id="a fraction of bytes"),
        pytest.param("MAX_IMAGE_BYTES", "10Ti", "such as 10MiB", id="an unknown unit"),
        pytest.param("IMAGE_FORMATS", "jpeg,tiff", "out of jpeg, png", id="an unknown format"),
        pytest.param("IMAGE_FORMATS", " , ", "out of jpeg, png", id="no format"),
        pytest.param("CORS_ORIGINS", "app.test", "such as https://", id="a host is no origin"),
        pytest.param("TRACES_ENDPOINT", "collector:4318", "such as http://", id="no address"),
        pytest.param("TRACES_ENDPOINT", "http://u:p@c", "without user", id="a password in it"),
        pytest.param("TRACES_SHARE", "1.5", "from 0 to 1", id="more than all"),
        pytest.param(
            "CORS_ORIGINS", "https://a.test/", "without a path", id="an origin and a path"
        ),
        pytest.param("WEB_PORT", "0", "from 1 to 65535", id="no web port"),
        pytest.param("LOG_LEVEL", "trace", "debug, info, warning", id="no such level"),
        pytest.param("LOG_FORMAT", "xml", "auto, json, text", id="no such log format"),
    ],
)
def test_a_bad_value_stops_with_its_variable_its_value_and_what_is_allowed(
    variable: str, text: str, said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({variable: text})

    message = str(caught.value)
    assert message.startswith(f"{variable}: ")
    assert said in message
    assert repr(text) in message


SECRETS = [variable for variable in VARIABLES if "PASSWORD" in variable]


def test_passwords_do_not_show_when_settings_are_printed() -> None:
    shown = repr(Settings.from_env(dict.fromkeys(SECRETS, "hunter2")))

    assert len(SECRETS) == 2
    assert "hunter2" not in shown


@pytest.mark.parametrize("variable", SECRETS)
def test_a_wrong_password_is_not_repeated(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(value: str) -> str:
        raise ValueError(f"no password has {len(value)} characters")

    field = variables()[variable]
    monkeypatch.setattr(field, "metadata", {**field.metadata, "parse": refuse})

    with pytest.raises(SettingsError) as caught:
        Settings.from_env({variable: "hunter2"})

    assert str(caught.value) == f"{variable}: no password has 7 characters"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        pytest.param(
            {"MAX_IMAGE_BYTES": "33MiB"},
            "MAX_IMAGE_BYTES must not be larger than MAX_BODY_BYTES",
            id="a picture larger than a body",
        ),
        pytest.param(
            {"MAX_BODY_BYTES": "300MiB"},
            "MAX_BODY_BYTES must not be larger than WEB_MEMORY_BYTES",
            id="a body larger than the memory",
        ),
        pytest.param(
            {"WEB_PROBE_PORT": "8000"},
            "WEB_PROBE_PORT must be another port than WEB_PORT",
            id="probes on the port of requests",
        ),
        pytest.param(
            {"MODELS_FILE": "/no/m.yaml"}, "MODELS_FILE: there is no such file", id="models"
        ),
        pytest.param({"REDIS_CA_FILE": "/no/ca"}, "REDIS_CA_FILE: there is no such file", id="CA"),
        pytest.param({"MODEL_LABELS": "/no/l"}, "MODEL_LABELS: there is no such file", id="labels"),
        pytest.param(
            {"MODEL_LABELS": f"/{'l' * 300}"}, "MODEL_LABELS: cannot be read", id="unreadable"
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    environ: dict[str, str], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        Settings.from_env(environ)


def test_files_that_exist_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    read = Settings.from_env(
        dict.fromkeys(("MODELS_FILE", "REDIS_CA_FILE", "MODEL_LABELS"), str(file))
    )

    assert (read.models_file, read.redis_ca_file, read.model_labels) == (str(file),) * 3


def test_the_table_has_one_line_per_setting() -> None:
    head, rule, *lines = table().splitlines()

    assert (head, rule) == ("| variable | default | meaning |", "| --- | --- | --- |")
    assert [line.split("`")[1] for line in lines] == VARIABLES
    assert all(line.count("|") == 4 for line in lines)


@pytest.mark.parametrize(
    ("variable", "default"),
    [
        pytest.param("REDIS_URL", "`redis://localhost:6379/0`", id="a text"),
        pytest.param("REDIS_PASSWORD", "none", id="nothing"),
        pytest.param("BATCH_SIZE", "`32`", id="a number"),
        pytest.param("MAX_IMAGE_BYTES", "10MiB", id="bytes as people write them"),
        pytest.param("IMAGE_FORMATS", "`jpeg,png,webp,gif,bmp`", id="a set"),
    ],
)
def test_the_table_shows_the_default(variable: str, default: str) -> None:
    line = next(line for line in table().splitlines() if f"`{variable}`" in line)

    assert line.split("|")[2].strip() == default


@pytest.mark.parametrize(
    "field", [field for field in FIELDS if field.metadata["shown"]], ids=lambda f: str(f.name)
)
def test_a_default_that_is_shown_in_other_words_is_read_as_the_default(field: Any) -> None:
    shown = field.metadata["shown"]
    if not isinstance(field.default, int | frozenset):
        return

    assert field.metadata["parse"](EnvText(shown.strip("`"))) == field.default
