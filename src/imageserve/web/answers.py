"""What the answers of a request become: JSON, or the bytes of vectors. Pure."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from imageserve.errors import BadParameter, RequestError
from imageserve.predictions import FLOAT_BYTES, LABELS, PIECE, floats
from imageserve.web.edge import HARMLESS_TEXT, error_body
from imageserve.web.outcomes import Answer

MOST_IN_JSON = 2**18
"""Most numbers of an answer in JSON: they take 5 MB, and a fifth of a second of processor."""


def as_json(
    answers: Sequence[Answer | RequestError], output: str, pause: Callable[[], None]
) -> str:
    """Return the body for one picture, or for several.

    ``pause`` is called every few milliseconds.

    Raises the error of a single picture. Where no picture got an answer, raises the first error
    after which the whole request is worth sending again, so that its status says so. Raises
    BadParameter where there are more numbers than JSON may have.
    """
    _check_length(answers)
    if len(answers) == 1:
        return _success(answers[0], output, pause)
    again = [a for a in answers if isinstance(a, RequestError) and a.is_worth_another_try]
    if again and not any(isinstance(answer, Answer) for answer in answers):
        raise again[0]
    results = ", ".join(
        json.dumps(error_body(answer))
        if isinstance(answer, RequestError)
        else _success(answer, output, pause)
        for answer in answers
    )
    return f'{{"success": true, "results": [{results}]}}'


def _check_length(answers: Sequence[Answer | RequestError]) -> None:
    vectors = (answer.vector for answer in answers if isinstance(answer, Answer))
    numbers = sum(map(len, vectors)) // FLOAT_BYTES
    if numbers > MOST_IN_JSON:
        raise BadParameter(
            f"{numbers} numbers are more than the {MOST_IN_JSON} that JSON may have: ask for "
            "bytes, by Accept: application/octet-stream, or send fewer pictures at once"
        )


def _success(answer: Answer | RequestError, output: str, pause: Callable[[], None]) -> str:
    if isinstance(answer, RequestError):
        raise answer
    name, pieces = "predictions", _labels(answer)
    if output != LABELS:
        name, pieces = output, _numbers(answer.vector)
    texts = []
    for piece in pieces:
        texts.append(json.dumps(piece)[1:-1])
        pause()
    return f'{{"success": true, "{name}": [{", ".join(texts)}]}}'


def _labels(answer: Answer) -> Iterator[list[Any]]:
    found = answer.predictions
    for start in range(0, len(found), PIECE):
        piece = found[start : start + PIECE]
        yield [{"label": p.label, "probability": p.probability} for p in piece]


def _numbers(vector: bytes) -> Iterator[list[Any]]:
    numbers = floats(vector)
    for start in range(0, len(numbers), PIECE):
        yield numbers[start : start + PIECE].tolist()


def as_bytes(answers: Sequence[Answer | RequestError]) -> tuple[bytes, str] | None:
    """Return the vectors of all pictures, and their shape as ``X-Shape`` tells it.

    None where one has an error, or another length: then only JSON can say it.
    """
    vectors = [answer.vector for answer in answers if isinstance(answer, Answer)]
    if len(vectors) < len(answers) or len({len(vector) for vector in vectors}) != 1:
        return None
    length = str(len(vectors[0]) // FLOAT_BYTES)
    return b"".join(vectors), length if len(vectors) == 1 else f"{len(vectors)},{length}"


def timings(answers: Sequence[Answer]) -> dict[str, float]:
    """Return where the time went, in ms: pictures are decoded in turn, and wait side by side."""
    if not answers:
        return {}
    return {
        "decode": sum(answer.decode_ms for answer in answers),
        "queue": max(answer.queue_ms for answer in answers),
        "model": max(answer.model_ms for answer in answers),
    }


def version_header(versions: Iterable[str]) -> str:
    """Return ``X-Model-Version``: several versions, where the model was changed meanwhile.

    Versions come from outside, through Redis; one that does not fit into a header is left out.
    """
    return ", ".join(text for text in dict.fromkeys(versions) if HARMLESS_TEXT.fullmatch(text))
