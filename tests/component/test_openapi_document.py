"""GET /openapi.json: what it says of codes, parameters and calls is what the code does."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.component.test_web_app import CONFIG, KEY, Site
from tests.unit.test_errors import CONTRACT

from imageserve.errors import BadParameter
from imageserve.web import edge
from imageserve.web.api_keys import ApiKeys
from imageserve.web.openapi import PATH
from imageserve.web.options import ClassifyOptions
from imageserve.web.parameters import (
    MIN,
    OUTPUT,
    PARAMETERS,
    PRIORITY,
    TIMEOUT,
    TOP,
    Parameter,
    checked_priority,
    checked_timeout_s,
    read_options,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return _document(Site())


def _document(site: Site) -> dict[str, Any]:
    response = site.client().get(PATH)
    assert (response.status_code, response.content_type) == (200, "application/json")
    found: dict[str, Any] = response.get_json()
    return found


def _document_with_keys(directory: Path) -> dict[str, Any]:
    (directory / "keys").write_text(f"{KEY}\n")
    site = Site()
    site.config = replace(CONFIG, api_keys=ApiKeys(directory / "keys"))
    return _document(site)


def _codes(operation: dict[str, Any]) -> set[tuple[int, str]]:
    """Return status and code of every error that a call is said to answer."""
    found = set()
    for status, told in operation["responses"].items():
        _, more = told["content"]["application/json"]["schema"].get("allOf", (0, None))
        if more:
            properties = more["properties"]
            code = properties.get("code") or properties["error"]["properties"]["code"]
            found |= {(int(status), each) for each in code["enum"]}
    return found


LIMITED = (429, "rate_limited")


@pytest.mark.parametrize("has_keys", [False, True])
def test_every_error_of_the_contract_is_described(
    document: dict[str, Any], tmp_path: Path, has_keys: bool
) -> None:
    elsewhere = {(404, "not_found"), (404, "unknown_version"), (405, "method_not_allowed")}
    if has_keys:
        document = _document_with_keys(tmp_path)
    else:
        elsewhere |= {LIMITED}

    assert _codes(document["paths"]["/predict"]["post"]) == {*CONTRACT.values()} - elsewhere
    infer = document["paths"]["/v2/models/{model}/infer"]["post"]
    assert _codes(infer) == {*CONTRACT.values()} - (elsewhere - {(404, "unknown_version")})


def test_every_call_with_pictures_says_when_to_come_again_to_one_over_its_quota(
    tmp_path: Path,
) -> None:
    document = _document_with_keys(tmp_path)
    calls = [each["post"] for each in document["paths"].values() if "post" in each]
    header = document["components"]["headers"]["Retry-After"]

    assert len(calls) == 3
    assert header["required"]
    for call in calls:
        told = call["responses"]["429"]["headers"]["Retry-After"]
        assert told == {"$ref": "#/components/headers/Retry-After"}


def test_every_error_of_the_contract_stands_in_the_page_on_http() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (`.*?) \|", (ROOT / "docs/http-api.md").read_text(), re.M)
    found = {(int(status), code) for status, told in rows for code in re.findall("`(\\w+)`", told)}

    assert found == {*CONTRACT.values()}


def test_every_call_is_described(document: dict[str, Any]) -> None:
    rules = Site().app().url_map.iter_rules()
    calls = {
        (re.sub("<([a-z]+)>", r"{\1}", rule.rule).rstrip("/"), method.lower())
        for rule in rules
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")
    }

    found = {(path, each) for path, item in document["paths"].items() for each in item}
    assert {(path, each) for path, each in found if each != "parameters"} == calls


def test_every_reference_leads_to_something(document: dict[str, Any]) -> None:
    references = re.findall('"\\$ref": "#/([^"]+)"', json.dumps(document))

    assert references
    for reference in references:
        found = document
        for step in reference.split("/"):
            found = found[step]


READ: list[tuple[Parameter, list[object]]] = [
    (TOP, [1, 5, 100_000, "all", 0, -1, 100_001, 1.5, "some", ""]),
    (MIN, [0, 1, 0.25, 1e-7, 1.01, -0.1, "x", ""]),
    (OUTPUT, ["labels", "scores", "embedding", "Labels", ""]),
    (TIMEOUT, [1, 0.001, 1e-7, 1e9, 0, -1, "soon", ""]),
    (PRIORITY, ["interactive", "background", "urgent", ""]),
]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        pytest.param(each, value, id=f"{each.name}={value}")
        for each, values in READ
        for value in values
    ],
)
def test_a_parameter_may_have_the_values_that_its_schema_allows_and_no_others(
    parameter: Parameter, value: object
) -> None:
    query = {parameter.name: str(value)} if parameter.place == "query" else {}
    allowed = Draft202012Validator(parameter.schema).is_valid(value)

    def read() -> None:
        if parameter is PRIORITY:
            checked_priority(str(value))
        elif parameter is TIMEOUT:
            checked_timeout_s(str(value), 30.0)
        else:
            read_options(query, ClassifyOptions(None, 5, 30.0, "id"))

    if allowed:
        read()
    else:
        with pytest.raises(BadParameter, match=parameter.name):
            read()


def test_pages_of_other_origins_may_send_every_header_that_is_described() -> None:
    allowed = edge._ALLOWED["Access-Control-Allow-Headers"].split(", ")

    assert {each.name for each in PARAMETERS if each.place == "header"} <= {*allowed}


def test_a_key_is_described_where_one_is_needed(document: dict[str, Any], tmp_path: Path) -> None:
    asked = _document_with_keys(tmp_path)["paths"]["/predict"]["post"]["security"]

    assert asked == [{"bearer": []}, {"header": []}]
    assert document["paths"]["/predict"]["post"]["security"] == []


def test_the_description_names_the_models_limits_and_formats_of_this_server(
    document: dict[str, Any],
) -> None:
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]
    images = body["multipart/form-data"]["schema"]["properties"]["image"]
    model = document["components"]["parameters"]["model"]

    assert model["schema"] == {"enum": ["m", "n"]}
    assert images["maxItems"] == CONFIG.upload.max_images
    assert {*body} == {
        "multipart/form-data",
        "image/bmp",
        "image/jpeg",
        "image/png",
        "application/octet-stream",
    }


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/predict", {"POST", "OPTIONS"}), ("/models", {"GET", "HEAD", "OPTIONS"})],
)
def test_another_method_is_told_which_are_allowed(path: str, allowed: set[str]) -> None:
    response = Site().client().delete(path)

    assert response.status_code == 405
    assert {*response.headers["Allow"].split(", ")} == allowed
