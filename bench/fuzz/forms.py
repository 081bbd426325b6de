"""Multipart forms with odd and broken parts."""

from collections.abc import Sequence
from random import Random

from bench.fuzz.heads import broken
from bench.fuzz.pictures import CANARY

_BOUNDARIES = (b"b0undary", b"x", b"-" * 40, b"a b", b"'()+_,-./:=?", b"B" * 70)
_FIELDS: tuple[bytes, ...] = (
    b'name="image"',
    b'name="image"',
    b'name="image"',
    b"name=image",
    b'name="other"',
)
_FIELDS += (b'name=""', b"", b'name="image"; name="other"', b'NAME="image"', b"name*=utf-8''image")
_FILES = (
    b'; filename="a.jpg"',
    b"",
    b'; filename=""',
    b'; filename="ol\xe9.jpg"',
    b'; filename="\xd5\xd5\xc6\xac.jpg"',
    b"; filename*=UTF-8''%E7%85%A7.jpg",
    b'; filename="C:\\x\\"y".jpg"',
    b'; filename="' + b"a" * 3000 + b'"',
    b'; filename="a\0b"',
    b"; filename=a.jpg",
)
_MORE = (
    b"",
    b"Content-Type: image/jpeg\r\n",
    b"Content-Type: text/plain; charset=\xff\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Length: 5\r\n",
    b"X: " + b"y" * 5000 + b"\r\n",
    b"no colon here\r\n",
    b"A: b\r\n" * 40,
    b"\xff\xfe: \0\r\n",
)


def form(pictures: Sequence[bytes], drawn: Random) -> tuple[bytes, str]:
    """Return a body, and its content type."""
    boundary = drawn.choice(_BOUNDARIES)
    parts = [
        _part(boundary, drawn.choice((*pictures, CANARY)), drawn) for _ in range(_count(drawn))
    ]
    end = drawn.choice((b"--\r\n", b"--\r\n", b"--\r\n", b"--", b"\r\n", b"", b"--\r\n" + CANARY))
    start = drawn.choice((b"", b"", b"", b"\r\n", CANARY + b"\r\n"))
    body = start + b"".join(parts) + b"--" + boundary + end
    said = drawn.choice((boundary, boundary, boundary, boundary, b"other")).decode()
    written = f'"{said}"' if drawn.random() < 0.5 or " " in said else said
    kind = f"multipart/form-data; boundary={written}"
    return (broken(body, drawn) if drawn.random() < 0.4 else body), kind


def whole_form(pictures: Sequence[bytes]) -> bytes:
    """Return a right form, with the boundary ``b0undary``."""
    head = b'--b0undary\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return b"".join(head + picture + b"\r\n" for picture in pictures) + b"--b0undary--\r\n"


def _count(drawn: Random) -> int:
    return drawn.choice((0, 1, 1, 1, 2, 3, 17, 100))


def _part(boundary: bytes, content: bytes, drawn: Random) -> bytes:
    disposition = b"Content-Disposition: form-data; " + drawn.choice(_FIELDS) + drawn.choice(_FILES)
    line = drawn.choice((disposition, disposition, disposition, disposition, b"X: y"))
    return (
        b"--"
        + boundary
        + b"\r\n"
        + line
        + b"\r\n"
        + drawn.choice(_MORE)
        + b"\r\n"
        + content
        + b"\r\n"
    )
