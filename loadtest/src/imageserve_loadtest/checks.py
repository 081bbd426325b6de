"""Compares each answer with the one that its pictures must get. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imageserve_loadtest.client import Response
from imageserve_loadtest.pictures import Picture
from imageserve_loadtest.result import Outcome

REFUSALS = (429, 503)
"""Statuses that mean: not now, come back later."""

PICTURE_ERRORS = frozenset(
    {
        "no_image",
        "not_an_image",
        "corrupt_image",
        "truncated_image",
        "image_too_large",
        "unsupported_format",
    }
)
"""Error codes about the picture itself. For any other picture they are a wrong answer."""

_WORST_FIRST = (Outcome.WRONG, Outcome.ERROR, Outcome.FAILED, Outcome.GOOD)
_TIMING = re.compile(r"([A-Za-z0-9_-]+) *;[^,]*?dur=([0-9]+(?:\.[0-9]+)?)")


@dataclass(frozen=True, slots=True)
class Check:
    """The judgement on one answer."""

    outcome: Outcome
    code: str = ""
    """The answer's error code, if it has one."""
    detail: str = ""
    """What was wrong, in words."""
    broken: bool = False
    """The answer is the right error for a picture that is broken on purpose."""
    error: str = ""
    """For the outcome ``error``: one of ``result.ERROR_KINDS``."""


def check(pictures: Sequence[Picture], response: Response) -> Check:
    """Judge the answer to a request with these pictures."""
    if response.status in REFUSALS:
        return Check(Outcome.REFUSED, _code(_error(_json(response.body))), "refused")
    if response.status != 200:
        return _check_error(pictures, response)
    body = _json(response.body)
    if not isinstance(body, dict):
        return _malformed("the body of the 200 is not a JSON object")
    if len(pictures) == 1:
        return _check_item(pictures[0], body)
    return _check_items(pictures, body)


def learnt(picture: Picture, response: Response) -> Picture | None:
    """Return the picture with this answer as the expected one; None where it cannot be one."""
    body = _json(response.body)
    if response.status == 200 and isinstance(body, dict) and body.get("success") is True:
        label = _best_label(body)
        return None if label is None else replace(picture, label=label)
    code = _code(_error(body))
    return replace(picture, codes=frozenset([code])) if code in PICTURE_ERRORS else None


def _malformed(detail: str) -> Check:
    return Check(Outcome.ERROR, detail=detail, error="protocol")


def _check_error(pictures: Sequence[Picture], response: Response) -> Check:
    """Judge an answer that is neither 200 nor a refusal. A broken picture may get one."""
    code = _code(_error(_json(response.body)))
    if len(pictures) == 1 and response.status < 500:
        return _check_code(pictures[0], code, str(response.status))
    return Check(Outcome.FAILED, code, f"status {response.status}")


def _check_items(pictures: Sequence[Picture], body: Mapping[str, Any]) -> Check:
    """Judge the answers to several pictures; the worst one decides."""
    items = body.get("results")
    if body.get("success") is not True or not isinstance(items, list):
        return _malformed("a 200 to several pictures without success and results")
    if len(items) != len(pictures):
        outcome = Outcome.DUPLICATED if len(items) > len(pictures) else Outcome.MISSING
        return Check(outcome, detail=f"{len(items)} answers to {len(pictures)} pictures")
    checks = [_check_item(*pair) for pair in zip(pictures, items, strict=True)]
    worst = min(checks, key=lambda each: _WORST_FIRST.index(each.outcome))
    if worst.outcome is Outcome.GOOD:
        return Check(Outcome.GOOD, broken=all(each.broken for each in checks))
    at = checks.index(worst)
    swapped = _owner_of(pictures, items[at], at)
    return Check(
        worst.outcome,
        worst.code,
        f"picture {at + 1}: {worst.detail}{swapped}",
        error=worst.error,
    )


def _owner_of(pictures: Sequence[Picture], item: Any, at: int) -> str:
    """Name the picture of the same request to which a wrong answer belongs, if there is one."""
    label = _best_label(item)
    for i, picture in enumerate(pictures):
        if i != at and label is not None and picture.label == label:
            return f", which is the answer of picture {i + 1}"
    return ""


def _check_item(picture: Picture, item: Any) -> Check:
    """Judge the answer to one picture within a 200."""
    if not isinstance(item, dict) or not isinstance(item.get("success"), bool):
        return _malformed("an answer without success")
    if item["success"]:
        return _check_label(picture, item)
    code = _code(_error(item))
    if not code:
        return _malformed("success is false, but the answer has no error code")
    return _check_code(picture, code, "200")


def _check_label(picture: Picture, item: Mapping[str, Any]) -> Check:
    label = _best_label(item)
    if label is None:
        return _malformed("success is true, but the predictions are missing or malformed")
    if picture.label is None:
        return Check(Outcome.WRONG, detail=f"{picture.name} is broken but was called {label!r}")
    if label != picture.label:
        detail = f"{picture.name} is {picture.label!r} but was called {label!r}"
        return Check(Outcome.WRONG, detail=detail)
    return Check(Outcome.GOOD)


def _check_code(picture: Picture, code: str, status: str) -> Check:
    if code in picture.codes:
        return Check(Outcome.GOOD, code, broken=True)
    detail = f"{picture.name} was answered {status} {code or 'without a code'}"
    if picture.codes:
        detail += f" instead of {' or '.join(sorted(picture.codes))}"
    return Check(Outcome.WRONG if code in PICTURE_ERRORS else Outcome.FAILED, code, detail)


def _best_label(item: Any) -> str | None:
    """Return the first label; None where predictions are malformed or not sorted, best first."""
    predictions = item.get("predictions") if isinstance(item, dict) else None
    if not isinstance(predictions, list) or not predictions:
        return None
    pairs = [_prediction(each) for each in predictions]
    probabilities = [pair[1] for pair in pairs if pair is not None]
    if None in pairs or probabilities != sorted(probabilities, reverse=True):
        return None
    return pairs[0][0] if pairs[0] else None


def _prediction(raw: Any) -> tuple[str, float] | None:
    label, probability = (
        (raw.get("label"), raw.get("probability")) if isinstance(raw, dict) else (None, None)
    )
    if isinstance(label, str) and isinstance(probability, (int, float)) and 0 <= probability <= 1:
        return label, probability
    return None


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _error(body: Any) -> Any:
    return body.get("error") if isinstance(body, dict) else None


def _code(error: Any) -> str:
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else ""


def retry_after_s(response: Response) -> float | None:
    """Return ``Retry-After`` in seconds; None where it is missing or not a number."""
    text = response.headers.get("retry-after", "").strip()
    return float(text) if text.isascii() and text.isdigit() else None


def stages_ms(response: Response) -> dict[str, float]:
    """Return the milliseconds of each stage in ``Server-Timing``."""
    found = _TIMING.findall(response.headers.get("server-timing", ""))
    return {name: float(milliseconds) for name, milliseconds in found}
