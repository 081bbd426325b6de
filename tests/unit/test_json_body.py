"""JSON with pictures in base64: read piece by piece, as `json` and `base64` read it in one go."""

import base64
import json
import math
import time
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from imageserve.errors import BadParameter
from imageserve.inference.request import MOST_ID
from imageserve.web.infer_door import read_request
from imageserve.web.json_body import MOST_JSON_BYTES, PIECE, JsonBody
from imageserve.web.upload import UploadLimits

LONGEST_S = 0.05
"""Of processor between two pauses; `make fuzz` has the same bound. It takes a tenth of that."""

LIMITS = UploadLimits(32 * 2**20, 32 * 2**20, 16, 9.0)
FILE = Random(1).randbytes(MOST_JSON_BYTES)


def no_pause() -> None:
    """Nobody waits."""


def body_of(*files: bytes, escape: str = "/", **more: Any) -> bytes:
    texts = [base64.b64encode(each).decode() for each in files]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(files), 1], "data": texts}
    return json.dumps({"inputs": [tensor], **more}).replace("/", escape).encode()


def longest_stretch(call: Callable[[Callable[[], None]], Any]) -> tuple[float, int]:
    """Return the most seconds of processor between two pauses of a call, and their number."""
    times = [time.thread_time()]
    call(lambda: times.append(time.thread_time()))
    times.append(time.thread_time())
    return max(after - before for before, after in pairwise(times)), len(times)


def test_twenty_megabytes_hold_up_nobody() -> None:
    body = body_of(Random(2).randbytes(15 * 2**20))

    found = [longest_stretch(lambda pause: read_request(body, None, LIMITS, pause)) for _ in "123"]

    assert min(seconds for seconds, _ in found) < LONGEST_S
    assert found[0][1] > len(body) / PIECE


@pytest.mark.parametrize("escape", ["/", r"\/", r"\u002f"])
@pytest.mark.parametrize("files", [(FILE,), (FILE, b"short", FILE[:-1], b"", FILE[:-2])])
def test_pictures_are_what_json_says(files: tuple[bytes, ...], escape: str) -> None:
    body = body_of(*files, escape=escape)
    request, _ = read_request(body, None, LIMITS, no_pause)

    assert request.pictures == files


@pytest.mark.parametrize("before", range(12))
def test_an_escape_may_be_anywhere(before: int) -> None:
    text = "A" * before + "/" * (2 * PIECE) + "A" * (4 - before % 4) + "A" * MOST_JSON_BYTES
    for escape in (r"\/", r"\u002f"):
        escaped = text.replace("/", escape)
        body = JsonBody(f'{{"inputs": [{{"data": "{escaped}"}}]}}'.encode(), no_pause)

        assert body.file(body.fields["inputs"][0]["data"]) == base64.b64decode(text)


LONG_TEXT = base64.b64encode(FILE).decode()


@pytest.mark.parametrize(
    "wrong",
    [
        LONG_TEXT[:-1],
        f"{LONG_TEXT}A",
        f"{LONG_TEXT}====",
        f"{'A' * (PIECE - 4)}AA=={LONG_TEXT}",
        f"{LONG_TEXT}\\n",
        f"{LONG_TEXT}\\\\",
        f"{LONG_TEXT}\\x",
        f"{LONG_TEXT}\n",
        f"{LONG_TEXT}é",
        "é" * MOST_JSON_BYTES,
        "\\" * MOST_JSON_BYTES + "A",
    ],
)
def test_what_is_no_base64_is_refused(wrong: str) -> None:
    tensor = f'{{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["{wrong}"]}}'

    with pytest.raises(BadParameter, match=r"base64|besides its texts"):
        read_request(f'{{"inputs": [{tensor}]}}'.encode(), None, LIMITS, no_pause)


@pytest.mark.parametrize("its_id", ["i" * MOST_ID, "é" * 1000, "x" * 300])
def test_the_id_of_a_large_request_is_whole(its_id: str) -> None:
    request, _ = read_request(body_of(FILE, id=its_id), None, LIMITS, no_pause)

    assert request.id == its_id


@pytest.mark.parametrize("its_id", ["i" * (MOST_ID + 1), "é" * 8 * MOST_ID, LONG_TEXT])
def test_an_id_that_is_too_long_is_refused(its_id: str) -> None:
    with pytest.raises(BadParameter, match="at most 1024 characters"):
        read_request(body_of(FILE, id=its_id), None, LIMITS, no_pause)


def test_other_long_texts_change_nothing() -> None:
    body = json.loads(body_of(FILE, parameters={"note": LONG_TEXT})) | {LONG_TEXT: 1}
    body["inputs"][0]["parameters"] = {"note": LONG_TEXT}
    request, _ = read_request(json.dumps(body).encode(), None, LIMITS, no_pause)
    assert request.pictures == (FILE,)

    for field in ("name", "datatype"):
        wrong = {**body["inputs"][0], field: LONG_TEXT}
        with pytest.raises(BadParameter, match=f"{LONG_TEXT[:10]}"):
            read_request(json.dumps({"inputs": [wrong]}).encode(), None, LIMITS, no_pause)


def test_the_rest_of_a_large_body_may_be_in_many_short_texts() -> None:
    rows = math.ceil(MOST_JSON_BYTES / 250)
    texts = [f"{i:0250}" for i in range(rows - 5000)]
    body = JsonBody(json.dumps({"a": texts, "b": LONG_TEXT}).encode(), no_pause)

    assert body.fields["a"] == texts
