"""The pure parts of the client: requests, answers, pictures, and what is sent again when."""

import io
import json
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any, cast

import httpx2
import numpy as np
import pytest
from PIL import Image

from imageserve import client as package
from imageserve import errors
from imageserve.client import (
    BadPicture,
    BadRequest,
    ClientError,
    Forbidden,
    ModelFailed,
    NotImageserve,
    Options,
    Outcome,
    RateLimited,
    Result,
    ServerFailed,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnknownModel,
    Unreadable,
)
from imageserve.client.patience import LONGEST_PAUSE_S, Patience
from imageserve.client.pictures import contents
from imageserve.client.wire import BYTES, Request, read_answer

URL = "http://there"


def request_of(**options: Any) -> Request:
    return Request("id-1", "", cast(Options, options))


# -- requests -------------------------------------------------------------------------------------


def test_a_request_says_what_is_asked_for_and_nothing_else() -> None:
    assert request_of().query == {}
    asked = request_of(top="all", min=1e-7, model="a b", priority="background")
    assert asked.query == {"top": "all", "min": "0.000000100", "model": "a b"}
    assert asked.headers(1.0)["X-Priority"] == "background"
    assert "Accept" not in asked.headers(1.0)


def test_vectors_are_asked_for_in_bytes() -> None:
    asked = request_of(output="scores")
    assert asked.query == {"output": "scores"}
    assert asked.headers(1.0)["Accept"] == BYTES


def test_headers_of_the_caller_are_sent_beside_our_own() -> None:
    more = {"traceparent": "00-1", "x-request-id": "theirs", "x-request-timeout": "9"}
    request = Request("ours", "", {"headers": more})
    sent = {name.lower(): value for name, value in request.headers(5.0).items()}
    assert (sent["traceparent"], sent["x-request-id"]) == ("00-1", "ours")
    assert sent.keys() == {name.lower() for name in Request("ours", "", {}).headers(5.0)} | {
        "traceparent"
    }
    assert len(request.headers(5.0)) == len(sent), "none is sent twice"


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="unknown option tpo"):
        request_of(tpo=3)


@pytest.mark.parametrize("left_s", [60.0, 1.0, 0.01, 0.0, -1.0])
def test_the_server_is_told_a_little_less_than_what_is_left(left_s: float) -> None:
    told_s = float(request_of().headers(left_s)["X-Request-Timeout"])
    assert 0 < told_s <= max(left_s, 0.001)
    assert told_s >= left_s - 0.2


def test_the_key_is_sent_where_there_is_one() -> None:
    assert Request("id", "secret", {}).headers(1)["Authorization"] == "Bearer secret"
    assert "Authorization" not in request_of().headers(1)


# -- answers --------------------------------------------------------------------------------------


def read(status: int, body: Any, **headers: str) -> Result:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_answer(status, httpx2.Headers(named), data, URL, "sent")


def error_of(status: int, body: Any, **headers: str) -> ClientError:
    with pytest.raises(ClientError) as raised:
        read(status, body, **headers)
    return raised.value


def refusal(code: str) -> dict[str, Any]:
    return {"success": False, "error": {"code": code, "message": "so it is"}, "request_id": "r"}


def test_an_answer_is_read_whole() -> None:
    body = {"success": True, "predictions": [{"label": "star", "probability": 0.5}]}
    timing = "decode;dur=1.5, queue;dur=0, total;dur=x"
    result = read(200, body, x_request_id="r1", x_model_version="v2", server_timing=timing)

    assert [(p.label, p.probability) for p in result.predictions] == [("star", 0.5)]
    assert (result.request_id, result.model_version) == ("r1", "v2")
    assert result.timing_ms == {"decode": 1.5, "queue": 0.0}
    assert len(result.vector) == 0


def test_bytes_are_float32_little_endian() -> None:
    vector = read(200, np.array([0.5, -2], "<f4").tobytes(), content_type=BYTES).vector
    assert vector == array("f", [0.5, -2])
    assert np.asarray(vector).dtype == np.float32


def test_every_code_of_the_server_has_its_class() -> None:
    """So it is, too, with a code that this client does not know."""
    expected = {
        "no_image": BadPicture,
        "not_an_image": BadPicture,
        "corrupt_image": BadPicture,
        "truncated_image": BadPicture,
        "unsupported_format": BadPicture,
        "image_too_large": TooLarge,
        "body_too_large": TooLarge,
        "model_failed": ModelFailed,
        "unauthorized": Unauthorized,
        "forbidden": Forbidden,
        "unknown_model": UnknownModel,
        "rate_limited": RateLimited,
        "timed_out": TimedOut,
        "upload_too_slow": TimedOut,
        "internal": ServerFailed,
    }
    seen = set()
    for kind in subclasses(errors.RequestError):
        error = error_of(kind.status, refusal(kind.code))
        by_status = Unavailable if kind.status == 503 else BadRequest
        wanted = BadPicture if kind.code == "unsupported_encoding" else by_status
        assert type(error) is expected.get(kind.code, wanted), kind.code
        assert (error.code, error.status, error.request_id) == (kind.code, kind.status, "sent")
        assert str(error) == f"so it is ({kind.code}, request sent)"
        assert error.passes == (kind.status in (429, 503, 504))
        seen.add(kind.code)
    assert set(expected) - {"internal"} <= seen
    assert type(error_of(503, refusal("new"))) is Unavailable
    assert type(error_of(429, refusal("new"))) is Unavailable
    assert type(error_of(500, refusal("internal"))) is ServerFailed
    assert type(error_of(418, refusal("new"))) is BadRequest


def subclasses(kind: type[errors.RequestError]) -> list[type[errors.RequestError]]:
    direct = kind.__subclasses__()
    return [*direct, *(below for each in direct for below in subclasses(each))]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"hello"),
        (200, {}),
        (200, []),
        (200, {"predictions": [{"label": "a"}]}),
        (200, {"predictions": 5}),
        (404, b"<html>"),
        (404, {"detail": "x"}),
        (308, b""),
    ],
)
def test_another_server_is_told_from_ours(status: int, body: Any) -> None:
    error = error_of(status, body)
    assert type(error) is NotImageserve
    assert error.message == f"{URL} answers {status}; is it imageserve?"
    assert not error.passes


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_proxy_before_the_server_may_be_asked_again(status: int) -> None:
    error = error_of(status, b"<html>", retry_after="3")
    assert type(error) is Unavailable
    assert (error.passes, error.retry_after_s) == (True, 3.0)


# -- what is sent again ---------------------------------------------------------------------------


def busy(retry_after: str | None = None) -> ClientError:
    return error_of(503, refusal("busy"), **({"retry_after": retry_after} if retry_after else {}))


def test_pauses_grow_and_stay_below_a_limit() -> None:
    patience = Patience(1000, "id")
    pauses = [patience.pause_s(busy(), 1000) for _ in range(12)]
    assert 0.05 <= pauses[0] <= 0.1
    assert pauses[0] < pauses[3] < pauses[6]
    assert max(pauses) <= LONGEST_PAUSE_S


def test_a_pause_is_as_long_as_the_server_asks_and_a_little_more() -> None:
    pauses = {Patience(60, "id").pause_s(busy("2"), 60) for _ in range(20)}
    assert all(2 < pause <= 2.1 for pause in pauses)
    assert len(pauses) > 1, "not all clients at one moment"


@pytest.mark.parametrize("said", ["soon", "-1", "Fri, 01 Jan 2100 00:00:00 GMT", "1e9", "nan"])
def test_a_retry_after_that_is_no_number_counts_as_none(said: str) -> None:
    assert busy(said).retry_after_s is None


def test_nothing_waits_past_the_deadline() -> None:
    error = busy("2")
    with pytest.raises(Unavailable) as raised:
        Patience(60, "id").pause_s(error, 2.0)
    assert raised.value is error


def test_what_another_attempt_does_not_help_is_raised_at_once() -> None:
    with pytest.raises(BadPicture):
        Patience(60, "id").pause_s(error_of(400, refusal("corrupt_image")), 60)


def test_the_deadline_tells_what_was_before_it() -> None:
    patience = Patience(5, "id")
    assert str(patience.ran_out()) == "no answer within 5 s (timed_out, request id)"
    patience.pause_s(busy(), 5)
    assert patience.ran_out().message == "no answer within 5 s; before: so it is"


def test_an_outcome_raises_its_error_where_a_result_is_asked_for() -> None:
    outcome = Outcome(0, b"", busy())
    assert isinstance(outcome.error, Unavailable)
    with pytest.raises(Unavailable):
        _ = outcome.result
    assert Outcome(0, b"", Result()).error is None


# -- pictures -------------------------------------------------------------------------------------


def pixels_of(data: bytes) -> "np.ndarray[Any, Any]":
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4)])
def test_arrays_become_pictures_of_the_same_pixels(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    assert (pixels_of(contents(array)) == np.squeeze(array)).all()
    turned = np.flip(array, 1)  # Not contiguous.
    assert (pixels_of(contents(turned)) == np.squeeze(turned)).all()


@pytest.mark.parametrize(
    "array",
    [np.zeros((5, 7, 3)), np.zeros((5, 7, 5), np.uint8), np.zeros((1, 5, 7, 3), np.uint8)],
)
def test_an_array_that_is_no_picture_is_refused(array: Any) -> None:
    with pytest.raises(ValueError, match="uint8"):
        contents(array)
    with pytest.raises(TypeError):
        contents(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "F", "I;16"])
def test_pillow_images_of_any_mode_become_pictures(mode: str) -> None:
    image = Image.linear_gradient("L").convert("RGB" if mode == "YCbCr" else "L").convert(mode)
    back = Image.open(io.BytesIO(contents(image)))
    lossless = mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
    assert back.mode == (mode if lossless else "RGB")
    assert not lossless or back.tobytes() == image.tobytes()


def test_an_orientation_is_sent_along_and_nothing_else_of_the_exif() -> None:
    image = Image.new("CMYK", (4, 6))
    image.getexif()[0x0112] = 6
    image.getexif()[0x010E] = "secret"
    data = contents(image)
    assert dict(Image.open(io.BytesIO(data)).getexif()) == {0x0112: 6}
    assert dict(image.getexif()) == {0x0112: 6, 0x010E: "secret"}


def test_files_are_read_and_bytes_are_sent_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "x.jpg"
    file.write_bytes(b"a file")
    for picture in (file, str(file), io.BytesIO(b"a file"), b"a file", bytearray(b"a file")):
        assert contents(picture) == b"a file"
    assert contents(np.frombuffer(b"a file", np.uint8)) == b"a file"
    with pytest.raises(Unreadable) as raised:
        contents(tmp_path / "none")
    assert "none" in raised.value.message
    assert str(raised.value).endswith("(unreadable)")


# -- what it brings -------------------------------------------------------------------------------


def test_the_client_imports_nothing_of_the_server_nor_of_its_callers() -> None:
    code = "import sys, imageserve.client; print(*{m.split('.')[0] for m in sys.modules})"
    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert "httpx2" in loaded
    others = {"flask", "gevent", "redis", "hiredis", "prometheus_client", "yaml", "numpy", "PIL"}
    assert not others & set(loaded)


def test_no_other_command_loads_the_client() -> None:
    code = "import sys, imageserve.cli as c; c.main(['settings']); print('httpx2' in sys.modules)"
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.endswith("False\n")


def test_all_that_is_public_is_there() -> None:
    assert all(hasattr(package, name) for name in package.__all__)
