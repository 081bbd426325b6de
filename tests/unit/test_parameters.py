"""Request parameters: top, deadline and request id; and the header that lists versions."""

import re

import pytest

from imageserve.errors import BadParameter
from imageserve.web.answers import version_header
from imageserve.web.decode_order import Asked
from imageserve.web.edge import request_id
from imageserve.web.options import ClassifyOptions
from imageserve.web.parameters import (
    asked_by_head,
    checked_min,
    checked_output,
    checked_priority,
    checked_timeout_s,
    checked_top,
    read_options,
)

HEAD = ClassifyOptions(None, 5, 30.0, "id-1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(None, 5, id="five unless asked otherwise"),
        pytest.param("1", 1, id="one"),
        pytest.param("007", 7, id="leading zeros"),
        pytest.param("100000", 100_000, id="the most"),
        pytest.param("all", 100_000, id="all"),
    ],
)
def test_top_is_a_whole_number(text: str | None, expected: int) -> None:
    assert checked_top(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("0", id="zero"),
        pytest.param("-1", id="negative"),
        pytest.param("+1", id="a sign"),
        pytest.param("1.0", id="a fraction"),
        pytest.param("five", id="a word"),
        pytest.param("ALL", id="all in capitals"),
        pytest.param("\u0663", id="a digit that is not ASCII"),
        pytest.param("\u00b2", id="a superscript"),
        pytest.param("100001", id="too many"),
        pytest.param("9" * 5000, id="longer than Python reads"),
        pytest.param("0000000019999999999", id="too many behind zeros"),
        pytest.param("000000001" + "9" * 5000, id="longer than Python reads behind zeros"),
    ],
)
def test_any_other_top_is_refused(text: str) -> None:
    with pytest.raises(
        BadParameter, match="top must be a whole number from 1, or all, not"
    ) as caught:
        checked_top(text)

    assert len(str(caught.value)) < 120, "what was sent is not repeated at length"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, 0), ("0", 0), ("1", 1), ("0.3", 0.3), ("1.0", 1), ("00.25", 0.25), ("1e-05", 1e-5)],
)
def test_min_is_a_probability(text: str | None, expected: float) -> None:
    assert checked_min(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-0.1",
        "+0.1",
        "1.1",
        ".5",
        "5.",
        "1e3",
        "1e",
        "1e999",
        "nan",
        "inf",
        "30%",
        "0,3",
        "\u0663",
        "0." + "0" * 5000,
    ],
)
def test_any_other_min_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="min must be a probability from 0 to 1, not") as caught:
        checked_min(text)

    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("text", ["labels", "scores", "embedding"])
def test_output_is_one_of_three(text: str) -> None:
    assert checked_output(text) == text


@pytest.mark.parametrize("text", ["", "Scores", "logits", "x" * 5000])
def test_any_other_output_is_refused(text: str) -> None:
    with pytest.raises(
        BadParameter, match="must be one of labels, scores, embedding, not"
    ) as found:
        checked_output(text)

    assert len(str(found.value)) < 120


@pytest.mark.parametrize(
    ("query", "top", "least", "output"),
    [
        pytest.param({}, 5, 0, "labels", id="nothing"),
        pytest.param({"min": "0.3"}, 100_000, 0.3, "labels", id="all labels that are likely"),
        pytest.param({"min": "0.3", "top": "2"}, 2, 0.3, "labels", id="at most two of them"),
        pytest.param({"output": "labels", "top": "all"}, 100_000, 0, "labels", id="all labels"),
        pytest.param({"output": "scores"}, 5, 0, "scores", id="a vector"),
    ],
)
def test_a_query_is_read_as_a_whole(
    query: dict[str, str], top: int, least: float, output: str
) -> None:
    options = read_options(query, HEAD)

    assert (options.top, options.least, options.output) == (top, least, output)
    assert (options.model, options.timeout_s, options.request_id) == (None, 30.0, "id-1")


@pytest.mark.parametrize("query", [{"top": "3"}, {"min": "0.3"}])
def test_labels_of_a_vector_cannot_be_chosen(query: dict[str, str]) -> None:
    with pytest.raises(BadParameter, match="top and min choose labels, and output=scores has none"):
        read_options({"output": "scores", **query}, HEAD)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(None, 30.0, id="not asked: the server's"),
        pytest.param("2.5", 2.5, id="shorter"),
        pytest.param("30", 30.0, id="the same"),
        pytest.param("31", 30.0, id="longer: the server's"),
        pytest.param("inf", 30.0, id="for ever: the server's"),
        pytest.param("1e-3", 0.001, id="very short"),
    ],
)
def test_a_deadline_may_be_shortened_and_never_lengthened(
    text: str | None, expected: float
) -> None:
    assert checked_timeout_s(text, 30.0) == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "soon", "1s", "x" * 5000])
def test_any_other_deadline_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="X-Request-Timeout must be seconds above 0") as caught:
        checked_timeout_s(text, 30.0)

    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    ("text", "expected"), [(None, ""), ("interactive", ""), ("background", "background")]
)
def test_a_priority_is_one_of_two(text: str | None, expected: str) -> None:
    assert checked_priority(text) == expected


@pytest.mark.parametrize("text", ["", "Background", "high", "0", "x" * 5000])
def test_any_other_priority_is_refused(text: str) -> None:
    with pytest.raises(
        BadParameter, match="X-Priority must be interactive or background, not"
    ) as found:
        checked_priority(text)

    assert not str(found.value).endswith(" "), "says what was sent, even if that was nothing"
    assert len(str(found.value)) < 120


@pytest.mark.parametrize(
    ("headers", "address", "expected"),
    [
        pytest.param({}, "", Asked(130.0), id="nothing"),
        pytest.param({"X-REQUEST-TIMEOUT": "0.5"}, "", Asked(100.5), id="tight"),
        pytest.param({"X-REQUEST-TIMEOUT": "soon"}, "", Asked(130.0), id="cannot be read"),
        pytest.param({"X-PRIORITY": "background"}, "", Asked(130.0, True), id="background"),
        pytest.param({"X-PRIORITY": "high"}, "top=3", Asked(130.0), id="no priority"),
        pytest.param({}, "top=3&model=a%20b", Asked(130.0, False, "a b"), id="another model"),
        pytest.param(
            {}, "/v2/models/a%20b/infer?model=c", Asked(130.0, False, "a b"), id="in the path"
        ),
    ],
)
def test_a_head_says_what_place_a_picture_has(
    headers: dict[str, str], address: str, expected: Asked
) -> None:
    path, _, query = address.rpartition("?")
    assert asked_by_head(headers, path or "/predict", query, 30.0, 100.0) == expected


@pytest.mark.parametrize(
    "text", ["a", "0af7651916cd43dd8448eb211c80319c", "Root=1-67891233:a/b+c@d.e_f", "x" * 128]
)
def test_a_harmless_request_id_is_kept(text: str) -> None:
    assert request_id(text) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param("x" * 129, id="too long"),
        pytest.param("a b", id="a space"),
        pytest.param("a\n", id="a line's end"),
        pytest.param('a"b', id="a quote"),
        pytest.param("ä", id="not ASCII"),
    ],
)
def test_any_other_request_id_is_replaced(text: str | None) -> None:
    assert re.fullmatch("[0-9a-f]{32}", request_id(text))


@pytest.mark.parametrize(
    ("versions", "header"),
    [
        pytest.param([], "", id="no answer"),
        pytest.param(["v1", "v1"], "v1", id="one version"),
        pytest.param(["v2", "v1", "v2"], "v2, v1", id="two, in the order of the pictures"),
        pytest.param(["", "v1"], "v1", id="a worker that does not say"),
        pytest.param(["v1\r\nSet-Cookie: a=b", "vé"], "", id="no text for a header"),
    ],
)
def test_the_versions_that_answered_are_listed_once(versions: list[str], header: str) -> None:
    assert version_header(versions) == header
