"""Reading pictures out of request bodies, good ones and malformed ones."""

from io import BytesIO
from typing import Any

import pytest

from imageserve.errors import (
    BadParameter,
    BadRequest,
    BodyTooLarge,
    Busy,
    EncodingRefused,
    ImageTooLarge,
    NoImage,
    RequestError,
    TooManyImages,
    TransferEncodingRefused,
)
from imageserve.web.greenlets import Turn
from imageserve.web.upload import (
    CHUNK_BYTES,
    FORM_BYTES,
    Upload,
    UploadLimits,
    UploadMemory,
    UploadReader,
)

LIMITS = UploadLimits(max_body_bytes=2_000, max_image_bytes=300, max_images=3, timeout_s=9.0)
BOUNDARY = "----wall"
#: Similar to a boundary wherever it is cut, but none.
TRICKY = b"\r\n--" + BOUNDARY.encode()[:-1] + b"\r\n\r--\r\n-" + bytes(range(256))
FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


class TricklingBody:
    """A body that returns at most ``size`` bytes at a time, as a slow network does."""

    def __init__(self, data: bytes, *sizes: int) -> None:
        self._data = BytesIO(data)
        self._sizes = list(sizes)

    def read(self, size: int) -> bytes:
        most = self._sizes.pop(0) if len(self._sizes) > 1 else self._sizes[0]
        return self._data.read(min(size, most))


def part(content: bytes, name: str = "image", more: str = '; filename="a.jpg"') -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n'
    return head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


class Bench:
    """A reader with an account whose balance is checked after every read."""

    def __init__(self, limits: UploadLimits = LIMITS, memory_bytes: int = 100_000) -> None:
        self.memory = UploadMemory(memory_bytes)
        self._reader = UploadReader(limits)

    def read(self, body: bytes, content_type: str = "", /, **environ: Any) -> Upload:
        return self.read_from(
            {
                "wsgi.input": BytesIO(body),
                "CONTENT_LENGTH": str(len(body)),
                "CONTENT_TYPE": content_type,
                **environ,
            }
        )

    def read_from(self, environ: dict[str, Any]) -> Upload:
        try:
            with self.memory.account() as account:
                upload = self._reader.read(environ, account)
                assert self.memory.held == upload.bytes
                return upload
        finally:
            assert self.memory.held == 0


def read(body: bytes, content_type: str = "", /, **environ: Any) -> Upload:
    return Bench().read(body, content_type, **environ)


CHUNKED = {
    "CONTENT_LENGTH": "",
    "HTTP_TRANSFER_ENCODING": "chunked",
    "wsgi.input_terminated": True,
}


@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param("", id="no type"),
        pytest.param("image/jpeg", id="a picture's"),
        pytest.param("application/x-www-form-urlencoded", id="curl's default"),
        pytest.param("multipart/mixed; boundary=x", id="a multipart that is no form"),
        pytest.param("\xff;;;=", id="senseless"),
    ],
)
def test_a_body_that_is_no_form_is_the_picture_itself(content_type: str) -> None:
    assert read(TRICKY, content_type) == Upload((TRICKY,), len(TRICKY))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param([part(b"one")], [b"one"], id="one"),
        pytest.param([part(b"one"), part(b"two")], [b"one", b"two"], id="several, in order"),
        pytest.param([part(b"one", more="")], [b"one"], id="without a file name"),
        pytest.param([part(b"x", "top"), part(b"one")], [b"one"], id="beside another field"),
        pytest.param([part(b"one"), part(b"x", "Image")], [b"one"], id="case counts"),
        pytest.param([part(b"one"), part(b"")], [b"one", b""], id="one of them empty"),
        pytest.param([part(TRICKY)], [TRICKY], id="with bytes like a boundary's"),
        pytest.param([part(b"x" * 900, "note"), part(b"one")], [b"one"], id="a large other field"),
    ],
)
def test_the_image_parts_of_a_form_are_the_pictures(
    parts: list[bytes], expected: list[bytes]
) -> None:
    body = form(*parts)

    assert read(body, FORM_TYPE) == Upload(tuple(expected), len(body))


@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param(f'multipart/form-data; boundary="{BOUNDARY}"', id="quoted"),
        pytest.param(f"Multipart/Form-Data; Boundary={BOUNDARY}", id="in any case"),
        pytest.param(f"multipart/form-data; charset=utf-8; boundary={BOUNDARY}", id="not first"),
    ],
)
def test_the_boundary_is_found(content_type: str) -> None:
    assert read(form(part(b"one")), content_type).pictures == (b"one",)


def test_text_before_and_after_a_form_is_skipped() -> None:
    body = b"preamble\r\n" + form(part(b"one")) + b"epilogue"

    assert read(body, FORM_TYPE) == Upload((b"one",), len(body))


def test_a_form_may_be_cut_anywhere_on_its_way() -> None:
    body = form(part(TRICKY), part(b"x", "note"), part(b"two"))

    for at in range(1, len(body)):
        source = TricklingBody(body, at, len(body))
        upload = read(body, FORM_TYPE, **{"wsgi.input": source})
        assert upload.pictures == (TRICKY, b"two"), f"cut at {at}"


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64])
@pytest.mark.parametrize(
    "how", [pytest.param({}, id="with a length"), pytest.param(CHUNKED, id="chunked")]
)
def test_a_form_may_trickle_in(step: int, how: dict[str, Any]) -> None:
    body = form(part(TRICKY), part(b"two"))

    upload = read(body, FORM_TYPE, **{**how, "wsgi.input": TricklingBody(body, step)})

    assert upload == Upload((TRICKY, b"two"), len(body))


@pytest.mark.parametrize("step", [1, 100, 10_000])
@pytest.mark.parametrize(
    "how", [pytest.param({}, id="with a length"), pytest.param(CHUNKED, id="chunked")]
)
def test_a_picture_may_trickle_in(step: int, how: dict[str, Any]) -> None:
    upload = read(TRICKY, **{**how, "wsgi.input": TricklingBody(TRICKY, step)})

    assert upload == Upload((TRICKY,), len(TRICKY))


def test_a_picture_of_several_chunks_is_put_together() -> None:
    data = bytes(range(250)) * (2 * CHUNK_BYTES // 250 + 1)
    limits = UploadLimits(2**20, 2**20, 1, 9.0)

    for environ in (dict[str, Any](), CHUNKED):
        assert Bench(limits, 2**20).read(data, **environ).pictures == (data,)


def test_a_picture_may_be_exactly_as_large_as_a_chunk() -> None:
    data = bytes(CHUNK_BYTES)
    limits = UploadLimits(2**20, 2**20, 1, 9.0)

    assert Bench(limits, 2**20).read(data).pictures == (data,)


def test_nothing_beyond_the_declared_length_is_read() -> None:
    source = BytesIO(b"pictureNEXT REQUEST")

    upload = read(b"", CONTENT_LENGTH="7", **{"wsgi.input": source})

    assert upload.pictures == (b"picture",)
    assert source.read() == b"NEXT REQUEST"


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({"wsgi.input_terminated": True}, id="a server that ends its input"),
        pytest.param({"HTTP_TRANSFER_ENCODING": "chunked"}, id="chunks the server did not join"),
    ],
)
def test_without_a_length_a_body_is_read_only_if_it_is_chunked_and_ends(
    environ: dict[str, Any],
) -> None:
    with pytest.raises(NoImage):
        read(b"picture", CONTENT_LENGTH="", **environ)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(b"", "", id="an empty body"),
        pytest.param(b"", "image/png", id="an empty picture"),
        pytest.param(form(), FORM_TYPE, id="a form without parts"),
        pytest.param(form(part(b"x", "picture")), FORM_TYPE, id="a form of other fields"),
        pytest.param(form(part(b"")), FORM_TYPE, id="a form of one empty file"),
    ],
)
def test_a_request_without_a_picture_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(NoImage, match='as the request body, or as form field "image"'):
        read(body, content_type)


def _said(upload: Upload) -> list[bytes | str]:
    return [p.message if isinstance(p, RequestError) else p for p in upload.pictures]


def test_a_part_that_is_too_large_fails_no_other_part() -> None:
    huge, allowed = bytes(301), bytes(300)

    upload = read(form(part(b"one"), part(huge), part(allowed)), FORM_TYPE)

    assert _said(upload) == [b"one", "a picture may have at most 300 bytes", allowed]
    assert isinstance(upload.pictures[1], ImageTooLarge)


def test_a_body_that_is_too_large_for_a_picture_is_an_error_of_that_picture() -> None:
    assert _said(read(bytes(301))) == ["a picture may have at most 300 bytes"]
    assert read(bytes(300)).pictures == (bytes(300),)


def test_as_many_pictures_as_allowed_are_read_and_not_one_more() -> None:
    assert len(read(form(*3 * [part(b"x")]), FORM_TYPE).pictures) == 3
    with pytest.raises(TooManyImages, match="at most 3 pictures may be sent at once"):
        read(form(*4 * [part(b"x")]), FORM_TYPE)


def test_other_fields_are_limited_too() -> None:
    limits = UploadLimits(100_000, 300, 3, 9.0)
    body = form(*68 * [part(b"", "note")])

    with pytest.raises(BadParameter, match="the multipart form cannot be read"):
        Bench(limits).read(body, FORM_TYPE)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        pytest.param(form(part(b"x")), "multipart/form-data", id="no boundary"),
        pytest.param(form(part(b"x")), "multipart/form-data; boundary=", id="an empty boundary"),
        pytest.param(form(part(b"x")), "multipart/form-data; boundary=other", id="another"),
        pytest.param(b"\x00garbage" * 50, FORM_TYPE, id="garbage"),
        pytest.param(b"", FORM_TYPE, id="nothing"),
        pytest.param(form(part(b"x"))[:-4], FORM_TYPE, id="without its end"),
        pytest.param(form(part(b"x" * 90))[:-60], FORM_TYPE, id="cut in a picture"),
        pytest.param(part(b"x")[:40], FORM_TYPE, id="cut in a header"),
        pytest.param(
            f"--{BOUNDARY}\r\n\r\nx\r\n--{BOUNDARY}--".encode(), FORM_TYPE, id="no header"
        ),
        pytest.param(
            f"--{BOUNDARY}\r\n{'x' * 5000}\r\n".encode()[:1900], FORM_TYPE, id="a huge header"
        ),
    ],
)
def test_a_form_that_cannot_be_read_is_a_bad_request(body: bytes, content_type: str) -> None:
    with pytest.raises(BadParameter, match="the multipart form cannot be read"):
        read(body, content_type)


@pytest.mark.parametrize("charset", ["latin-1", "utf-8", "gbk", "shift-jis", "utf-16"])
def test_a_file_name_may_be_in_any_character_set(charset: str) -> None:
    name = "na\u00efve.jpg" if charset == "latin-1" else "\u66f8\u985e\u8868.jpg"
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="'.encode()
    body = head + name.encode(charset) + b'"\r\n\r\none\r\n' + form()
    if charset == "utf-16":
        with pytest.raises(BadParameter):  # It has bytes of zero, and quotes of two bytes.
            read(body.replace(b"\x00", b"\r\n"), FORM_TYPE)
        return

    assert read(body, FORM_TYPE).pictures == (b"one",)


def test_a_form_gives_others_their_turn_every_few_kilobytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = []

    def give(turn: Turn) -> None:
        turns.append(turn)

    monkeypatch.setattr(Turn, "give", give)
    limits = UploadLimits(2**20, 2**20, 1, 9.0)

    Bench(limits, 2**20).read(form(part(bytes(10 * FORM_BYTES))), FORM_TYPE)

    assert len(turns) >= 10


def test_an_error_of_a_form_does_not_quote_it() -> None:
    body = f"--{BOUNDARY}\r\nContent-Length: b'x'\r\nhello\xff\r\n\r\n".encode("latin-1")

    with pytest.raises(BadParameter) as raised:
        read(body, FORM_TYPE)

    assert "'" not in raised.value.message
    assert "(" not in raised.value.message


WRAPPED = {
    "a data URI": b"data:image/jpeg;base64,/9j/4AAQSkZJRg",
    "base64": b"/9j/4AAQSkZJRgABAQAAAQABAAD",
    "base64 of a PNG": b"iVBORw0KGgoAAAANSUhEUgAA",
    "base64 of a GIF": b"R0lGODlhAQABAIAAAAAAAP",
    "base64 of a WebP": b"UklGRiQAAABXRUJQVlA4",
    "JSON": b'{"image": "/9j/4AAQ"}',
    "JSON in a list": b'[{"b64": "/9j/4AAQ"}]',
    "a URL-encoded form": b"image=%FF%D8%FF",
}


@pytest.mark.parametrize(("name", "data"), WRAPPED.items(), ids=WRAPPED)
def test_a_picture_that_is_not_sent_as_its_bytes_is_named(name: str, data: bytes) -> None:
    for upload in (read(data), read(form(part(data)), FORM_TYPE)):
        (refused,) = upload.pictures
        assert isinstance(refused, EncodingRefused)
        assert f"this is {name.partition(' of ')[0].partition(' in ')[0]};" in refused.message


@pytest.mark.parametrize("coding", ["gzip", "br", "gzip, identity", "DEFLATE"])
def test_a_content_encoding_is_named_before_the_body_is_read(coding: str) -> None:
    source = BytesIO(b"x")

    with pytest.raises(EncodingRefused, match=f"Content-Encoding: {coding.lower().split(',')[0]}"):
        read(b"x", HTTP_CONTENT_ENCODING=coding, **{"wsgi.input": source})

    assert source.tell() == 0


@pytest.mark.parametrize("coding", ["identity", "UTF-8", ""])
def test_an_encoding_that_changes_nothing_is_none(coding: str) -> None:
    assert read(b"picture", HTTP_CONTENT_ENCODING=coding).pictures == (b"picture",)


@pytest.mark.parametrize("coding", ["gzip", "gzip, chunked", "chunked, gzip"])
def test_a_transfer_encoding_is_named(coding: str) -> None:
    with pytest.raises(TransferEncodingRefused, match="Transfer-Encoding: gzip is not served"):
        read(b"x", **{**CHUNKED, "HTTP_TRANSFER_ENCODING": coding})


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("Content-Transfer-Encoding: binary", True),
        ("content-transfer-encoding: 8BIT", True),
        ("Content-Transfer-Encoding: base64", False),
        ("Content-Encoding: gzip", False),
    ],
)
def test_an_encoded_part_of_a_form_is_named(header: str, accepted: bool) -> None:
    encoded = part(b"one").replace(b"Content-Type: image/jpeg", header.encode())

    first, second, third = read(form(part(b"a"), encoded, part(b"b")), FORM_TYPE).pictures

    assert (first, third) == (b"a", b"b"), "the others are read"
    if accepted:
        assert second == b"one"
    else:
        assert isinstance(second, EncodingRefused)
        assert header.partition(": ")[2] in second.message


@pytest.mark.parametrize(
    "environ", [pytest.param({}, id="declared"), pytest.param(CHUNKED, id="chunked")]
)
@pytest.mark.parametrize("content_type", ["", FORM_TYPE])
def test_a_body_over_the_limit_is_refused(environ: dict[str, Any], content_type: str) -> None:
    with pytest.raises(BodyTooLarge, match="at most 2000 bytes may be sent"):
        read(form(part(b"x" * 1900)), content_type, **environ)


def test_a_body_that_declares_too_much_is_refused_unread() -> None:
    source = BytesIO(b"x")

    with pytest.raises(BodyTooLarge):
        read(b"", CONTENT_LENGTH="2001", **{"wsgi.input": source})

    assert source.tell() == 0


@pytest.mark.parametrize("content_type", ["", FORM_TYPE])
def test_a_body_that_ends_before_its_length_is_a_bad_request(content_type: str) -> None:
    body = form(part(b"x" * 50))[:80]

    with pytest.raises(BadRequest, match="the body ended after 80 of 200 bytes"):
        read(body, content_type, CONTENT_LENGTH="200")


@pytest.mark.parametrize("length", ["-1", "1e3", "ten", "1_0", "\u00b2"])
def test_a_length_that_is_no_number_is_a_bad_request(length: str) -> None:
    with pytest.raises(BadParameter, match="Content-Length is not a number"):
        read(b"x", CONTENT_LENGTH=length)


@pytest.mark.parametrize("content_type", ["", FORM_TYPE])
def test_an_upload_that_does_not_fit_into_memory_is_refused_and_its_bytes_are_freed(
    content_type: str,
) -> None:
    bench = Bench(memory_bytes=100)
    body = form(part(b"x" * 200))

    with pytest.raises(Busy, match="too many uploads"):
        bench.read(body, content_type, **{"wsgi.input": TricklingBody(body, 30)})

    assert bench.memory.held == 0


def test_an_upload_that_breaks_off_is_a_bad_request() -> None:
    class BrokenBody:
        def read(self, size: int) -> bytes:
            raise ConnectionResetError

    bench = Bench()

    with pytest.raises(BadRequest, match="breaks off"):
        bench.read(b"x", **{"wsgi.input": BrokenBody()})

    assert bench.memory.held == 0
