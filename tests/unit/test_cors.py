"""Which pages of other origins are allowed to call, and what they may read."""

import pytest

from imageserve.web.edge import Cors

HERE = "https://app.test"
OTHER = "https://other.test"
ORIGIN = "Access-Control-Allow-Origin"


def test_without_origins_nothing_is_said() -> None:
    assert Cors().headers(HERE) == {}
    assert Cors().preflight("OPTIONS", HERE, "POST") == {}


@pytest.mark.parametrize(
    ("allowed", "asking", "said", "varies"),
    [
        pytest.param([HERE], HERE, HERE, True, id="it"),
        pytest.param([HERE], OTHER, None, True, id="another"),
        pytest.param([HERE], None, None, True, id="no page"),
        pytest.param([HERE, OTHER], OTHER, OTHER, True, id="one of two"),
        pytest.param(["*"], OTHER, "*", False, id="all"),
    ],
)
def test_an_answer_names_the_origin_that_may_read_it(
    allowed: list[str], asking: str | None, said: str | None, varies: bool
) -> None:
    headers = Cors(allowed).headers(asking)

    assert headers.get(ORIGIN) == said
    assert ("Vary" in headers) is varies
    assert ("Access-Control-Expose-Headers" in headers) is (said is not None)


@pytest.mark.parametrize(
    ("method", "origin", "asked", "is_allowed"),
    [
        pytest.param("OPTIONS", HERE, "POST", True, id="a browser asks"),
        pytest.param("OPTIONS", OTHER, "POST", False, id="for another origin"),
        pytest.param("OPTIONS", HERE, None, False, id="a plain OPTIONS"),
        pytest.param("POST", HERE, "POST", False, id="a request"),
    ],
)
def test_a_browser_that_asks_first_is_told(
    method: str, origin: str, asked: str | None, is_allowed: bool
) -> None:
    told = Cors([HERE]).preflight(method, origin, asked)

    assert bool(told) is is_allowed
    if is_allowed:
        assert told[ORIGIN] == HERE
        assert "POST" in told["Access-Control-Allow-Methods"]
        allowed = told["Access-Control-Allow-Headers"].split(", ")
        assert {"Content-Type", "traceparent", "tracestate"} <= {*allowed}


def test_a_page_may_read_the_headers_that_answers_carry() -> None:
    told = Cors([HERE]).headers(HERE)["Access-Control-Expose-Headers"].split(", ")

    assert {"X-Shape", "X-Model-Version", "X-Request-Id", "Retry-After"} <= {*told}
