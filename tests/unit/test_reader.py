"""The reader: accepted values in variables and in YAML, and its errors."""

from pathlib import Path
from typing import Any

import pytest

from imageserve.config.reader import (
    EnvText,
    Parser,
    by_name,
    fields_of,
    image_size,
    number,
    one_of,
    optional,
    parsed,
    queue_name,
    read_file,
    switch,
    text,
    whole,
)
from imageserve.errors import SettingsError

COLOURS = one_of("red", "green")


@pytest.mark.parametrize(
    ("parse", "in_variable", "in_yaml", "expected"),
    [
        pytest.param(whole(1, 9), "8", 8, 8, id="whole"),
        pytest.param(number(0, 9), "1.5", 1.5, 1.5, id="number"),
        pytest.param(switch, "no", False, False, id="switch"),
        pytest.param(COLOURS, "Red", "red", "red", id="choice"),
        pytest.param(image_size, "8x16", [8, 16], (8, 16), id="size"),
        pytest.param(image_size, "8", 8, (8, 8), id="one number for both"),
    ],
)
def test_a_value_is_text_in_a_variable_and_has_its_type_in_yaml(
    parse: Parser[Any], in_variable: str, in_yaml: object, expected: object
) -> None:
    assert parse(EnvText(in_variable)) == expected
    assert parse(in_yaml) == expected
    if not isinstance(in_yaml, str):
        with pytest.raises(ValueError, match="must be"):
            parse(in_variable)


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        pytest.param(whole(0, 9), True, id="true is no whole number"),
        pytest.param(whole(0, 9), 8.0, id="a fraction"),
        pytest.param(whole(0, 9), None, id="nothing for a whole number"),
        pytest.param(number(0, 9), True, id="true is no number"),
        pytest.param(number(0, 9), float("nan"), id="NaN"),
        pytest.param(switch, 1, id="1 is no switch"),
        pytest.param(COLOURS, "Red", id="a choice in another case"),
        pytest.param(COLOURS, ["red"], id="a list for a choice"),
        pytest.param(image_size, [8, True], id="true is no height"),
        pytest.param(image_size, [8], id="one number in a list"),
        pytest.param(image_size, [8, 8, 8], id="three numbers"),
        pytest.param(image_size, [8, 8.5], id="a fraction for a width"),
        pytest.param(image_size, [7, 8], id="a height that is too small"),
        pytest.param(queue_name, "", id="a queue without a name"),
        pytest.param(queue_name, "a\tb", id="a tab in a queue's name"),
        pytest.param(queue_name, "{a}", id="braces in a queue's name"),
        pytest.param(text, "", id="an empty text"),
        pytest.param(text, 7, id="a number for a text"),
    ],
)
def test_yaml_is_read_strictly(parse: Parser[Any], value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse(value)


@pytest.mark.parametrize("value", [None, ""])
def test_an_optional_value_that_is_empty_is_not_set(value: object) -> None:
    assert optional(whole(1, 9))(value) is None
    assert optional(whole(1, 9))(3) == 3


def test_a_secret_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        parsed("PASSWORD", whole(1, 9), EnvText("hunter2"), secret=True)

    assert str(caught.value) == "PASSWORD: must be a whole number from 1 to 9"


CAR = fields_of({"wheels": whole(3, 4), "colour": COLOURS}, required=["wheels"])
CARS = fields_of({"cars": by_name(lambda name, value: (name, CAR(value)))})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("3", "must be a mapping, lines of 'key: value'", id="no mapping"),
        pytest.param("cats: 3", "cats: is unknown; known are cars", id="an unknown key"),
        pytest.param(
            "cars: {}",
            "cars: must map at least one name to its settings (it is {})",
            id="no name",
        ),
        pytest.param(
            "cars: {7: 4}",
            "cars.7: must be a mapping, lines of 'key: value' (it is 4)",
            id="a value for a mapping",
        ),
        pytest.param("cars: {mini: {colour: red}}", "cars.mini.wheels: is missing", id="missing"),
        pytest.param(
            "cars: {mini: {wheels: 4, doors: 3}}",
            "cars.mini.doors: is unknown; known are wheels, colour",
            id="an unknown inner key",
        ),
        pytest.param(
            "cars: {mini: {wheels: '4'}}",
            "cars.mini.wheels: must be a whole number from 3 to 4 (it is '4')",
            id="a wrong inner value",
        ),
        pytest.param("a: [", "is not valid YAML: ", id="not YAML"),
        pytest.param("a: 2026-99-99", "is not valid YAML: ", id="an impossible date"),
        pytest.param("[" * 400, "is not valid YAML: ", id="nested too deeply"),
    ],
)
def test_an_error_names_setting_file_and_key(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "cars.yaml"
    file.write_text(content)

    with pytest.raises(SettingsError) as caught:
        read_file(file, CARS, "CARS_FILE")

    assert str(caught.value).startswith(f"CARS_FILE: {file}: {message}")
    assert "\n" not in str(caught.value)


def test_names_are_texts_and_keep_their_order(tmp_path: Path) -> None:
    file = tmp_path / "cars.yaml"
    file.write_text("cars: {7: {wheels: 4}, mini: {wheels: 3, colour: green}}")

    assert read_file(file, CARS) == {
        "cars": {"7": ("7", {"wheels": 4}), "mini": ("mini", {"wheels": 3, "colour": "green"})}
    }


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"^{tmp_path}: cannot be read \(Is a directory\)"):
        read_file(tmp_path, CARS)
