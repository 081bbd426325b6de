"""Whether an answer is the one that the pictures of its request must get."""

import json
from typing import Any

import pytest

from imageserve_loadtest.checks import check, learnt, retry_after_s, stages_ms
from imageserve_loadtest.client import Response
from imageserve_loadtest.pictures import Picture
from imageserve_loadtest.result import Outcome

CAT = Picture("cat.jpg", b"cat", "cat")
DOG = Picture("dog.jpg", b"dog", "dog")
CUT = Picture("cut.jpg", b"cu", None, frozenset({"truncated_image", "corrupt_image"}))


def labels(*names: str) -> dict[str, Any]:
    found = [{"label": name, "probability": 0.5 / 2**i} for i, name in enumerate(names)]
    return {"success": True, "predictions": found}


def error(code: str) -> dict[str, Any]:
    return {"success": False, "error": {"code": code, "message": "what was wrong"}}


def results(*items: Any) -> dict[str, Any]:
    return {"success": True, "results": list(items)}


def response(body: Any, status: int = 200, **headers: str) -> Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, {k.replace("_", "-"): v for k, v in headers.items()}, content)


@pytest.mark.parametrize(
    ("picture", "status", "body", "outcome", "detail"),
    [
        pytest.param(CAT, 200, labels("cat", "dog"), "good", "", id="the right label"),
        pytest.param(CAT, 200, labels("dog", "cat"), "wrong", "'dog'", id="another label"),
        pytest.param(CAT, 200, labels(), "error", "predictions", id="no label"),
        pytest.param(CAT, 200, {"success": True}, "error", "predictions", id="no predictions"),
        pytest.param(CAT, 200, {"predictions": []}, "error", "success", id="no success"),
        pytest.param(CAT, 200, {"success": False}, "error", "no error", id="no reason"),
        pytest.param(CAT, 200, b"<html>", "error", "JSON", id="a page instead of JSON"),
        pytest.param(CAT, 200, [], "error", "JSON", id="a list"),
        pytest.param(
            CAT,
            200,
            {"success": True, "predictions": [{"label": "cat", "probability": 1.5}]},
            "error",
            "predictions",
            id="a probability above 1",
        ),
        pytest.param(
            CAT,
            200,
            {
                "success": True,
                "predictions": [
                    {"label": "cat", "probability": 0.1},
                    {"label": "dog", "probability": 0.9},
                ],
            },
            "error",
            "predictions",
            id="not the best first",
        ),
        pytest.param(CAT, 400, error("not_an_image"), "wrong", "400", id="called no picture"),
        pytest.param(CAT, 422, error("model_failed"), "failed", "422", id="the model failed"),
        pytest.param(CAT, 401, error("unauthorized"), "failed", "401", id="no key"),
        pytest.param(CAT, 404, b"nothing here", "failed", "404", id="nothing there"),
        pytest.param(CAT, 500, error("internal"), "failed", "500", id="a bug"),
        pytest.param(CAT, 504, error("timed_out"), "failed", "504", id="no result in time"),
        pytest.param(CAT, 503, error("busy"), "refused", "", id="busy"),
        pytest.param(CAT, 429, b"slow down", "refused", "", id="a proxy's refusal"),
        pytest.param(CUT, 400, error("corrupt_image"), "good", "", id="the right error"),
        pytest.param(CUT, 400, error("not_an_image"), "wrong", "instead", id="another error"),
        pytest.param(CUT, 504, error("timed_out"), "failed", "504", id="broken and no result"),
        pytest.param(CUT, 200, labels("cat"), "wrong", "broken", id="a label for what is broken"),
    ],
)
def test_an_answer_to_one_picture_is_judged(
    picture: Picture, status: int, body: Any, outcome: str, detail: str
) -> None:
    found = check([picture], response(body, status))

    assert found.outcome == outcome
    assert detail in found.detail
    assert (found.error == "protocol") is (outcome == "error")


@pytest.mark.parametrize(
    ("body", "outcome", "detail"),
    [
        pytest.param(
            results(labels("cat"), error("truncated_image"), labels("dog")), "good", "", id="right"
        ),
        pytest.param(
            results(labels("dog"), error("truncated_image"), labels("cat")),
            "wrong",
            "which is the answer of picture 3",
            id="swapped",
        ),
        pytest.param(
            results(labels("cat"), error("truncated_image"), labels("cat")),
            "wrong",
            "which is the answer of picture 1",
            id="the first one's answer twice",
        ),
        pytest.param(
            results(labels("cat"), error("truncated_image"), labels("dog"), labels("dog")),
            "duplicated",
            "4 answers to 3 pictures",
            id="one too many",
        ),
        pytest.param(
            results(labels("cat"), labels("dog")), "missing", "2 answers", id="one too few"
        ),
        pytest.param(
            results(labels("cat"), error("truncated_image"), error("timed_out")),
            "failed",
            "picture 3",
            id="one timed out",
        ),
        pytest.param(results(labels("cat"), error("truncated_image"), 7), "error", "3", id="a 7"),
        pytest.param(labels("cat"), "error", "results", id="the answer to one picture"),
        pytest.param({"success": True, "results": {}}, "error", "results", id="no list"),
    ],
)
def test_answers_to_several_pictures_are_judged(body: Any, outcome: str, detail: str) -> None:
    found = check([CAT, CUT, DOG], response(body))

    assert found.outcome == outcome
    assert detail in found.detail


def test_an_answer_counts_as_broken_only_if_all_its_pictures_are_broken() -> None:
    right = error("truncated_image")

    assert check([CUT], response(right, 400)).broken
    assert check([CUT, CUT], response(results(right, right))).broken
    assert not check([CAT, CUT], response(results(labels("cat"), right))).broken
    assert not check([CAT], response(labels("cat"))).broken


def test_the_code_of_a_refusal_is_kept() -> None:
    assert check([CAT], response(error("queue_full"), 503)).code == "queue_full"
    assert check([CAT], response(b"", 503)).code == ""


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"retry_after": "3"}, 3.0), ({"retry_after": "soon"}, None), ({}, None)],
    ids=["seconds", "no number", "none"],
)
def test_retry_after_is_read(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(response(b"", 503, **headers)) == seconds


def test_stages_are_read_from_server_timing() -> None:
    timing = 'decode;dur=1.5, queue;dur=20, model;desc="a, b";dur=5.25, cache'

    assert stages_ms(response(b"", server_timing=timing)) == {"decode": 1.5, "queue": 20.0}
    assert stages_ms(response(b"")) == {}


def test_the_answer_to_a_picture_sent_alone_becomes_the_expected_one() -> None:
    unknown = Picture("x.jpg", b"x")

    labelled = learnt(unknown, response(labels("cat", "dog")))
    broken = learnt(unknown, response(error("corrupt_image"), 400))

    assert labelled is not None
    assert check([labelled], response(labels("cat"))).outcome is Outcome.GOOD
    assert check([labelled], response(labels("dog"))).outcome is Outcome.WRONG
    assert broken is not None
    assert check([broken], response(error("corrupt_image"), 400)).broken
    assert learnt(unknown, response(error("busy"), 503)) is None
    assert learnt(unknown, response(b"page")) is None
