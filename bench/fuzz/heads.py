"""Heads and chunks of requests: right ones, odd ones, and ones that are broken at random."""

from collections.abc import Callable
from random import Random
from urllib.parse import quote

_TOKENS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b"%",
    b"0\r\n\r\n",
    b"\r\n\r\n",
    b"\xff",
    b"\xc3\xa4",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/9.9",
    b"chunked",
    b"-1",
    b"ffffffffffffffff",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: other\r\n",
)
_NUMBERS: tuple[str, ...] = (
    "",
    "0",
    "-1",
    "+5",
    "1e3",
    "1_0",
    "0x10",
    " 7",
    "7 ",
    "nan",
    "inf",
    "-inf",
    "9" * 30,
)
_NUMBERS += ("9" * 5000, "٣", "1.5", "0.001", "1e-300", "1e300", "5,5", "\xb2")
_TEXTS = ("", " ", "é", "\x7f", "a" * 9000, "\xff\xfe", "a\tb", "'\"<>", "%00", "../..", "\x1b[31m")
_NAMES = (
    "Content-Length",
    "Transfer-Encoding",
    "Content-Type",
    "Content-Encoding",
    "Expect",
    "Host",
    "Connection",
    "Upgrade",
    "Authorization",
    "X-API-Key",
    "X-Request-Id",
    "X-Request-Timeout",
    "X-Forwarded-For",
    "Cookie",
    "Origin",
    "Range",
    "Accept",
    "If-None-Match",
    "Te",
    "Trailer",
    "Script_Name",
    "X-" + "n" * 300,
)
_VALUES: tuple[str, ...] = (
    "chunked",
    "gzip",
    "gzip, chunked",
    "identity",
    "100-continue",
    "close",
    "keep-alive",
)
_VALUES += ("upgrade", "websocket", "h2c", "Bearer x", "multipart/form-data", "bytes=0-1", "*/*")
_VALUES += ("multipart/form-data; boundary=", "multipart/form-data; boundary=" + "b" * 300)
_VALUES += ("text/plain; charset=\xff", "https://elsewhere.example", "a=b; " * 500)


def head(method: str, target: str, *lines: str) -> bytes:
    """Write a head; its text may hold any byte."""
    text = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""])
    return text.encode("latin-1", "replace")


def chunked(data: bytes, largest: int, extension: str) -> bytes:
    pieces = [data[at : at + largest] for at in range(0, len(data), largest)]
    sizes = (f"{len(piece):x}{extension}\r\n".encode() for piece in pieces)
    chunks = [size + piece + b"\r\n" for size, piece in zip(sizes, pieces, strict=True)]
    return b"".join([*chunks, b"0\r\n\r\n"])


OUTPUTS = ("all", "labels", "scores", "embedding")


def odd_header(drawn: Random) -> str:
    values = drawn.choice((_NUMBERS, _TEXTS, _VALUES))
    return f"{drawn.choice(_NAMES)}: {drawn.choice(values)}"


def odd_target(drawn: Random) -> str:
    path = drawn.choice(
        ("/predict", "/predict", "//predict", "/%70redict", "/", "//", "/models/x", "*", "/%ff%00")
    )
    path = drawn.choice((path, path, "http://fuzz/predict", "/" + quote("é\r\n"), "/" + "a" * 5000))
    keys = ("top", "top", "min", "output", "model", "", "a" * 2000, "top[]", "%")
    pairs = [
        f"{drawn.choice(keys)}={_query_value(drawn)}"
        for _ in range(drawn.choice((0, 1, 1, 3, 200)))
    ]
    return path + ("?" + "&".join(pairs) if pairs else "")


def _query_value(drawn: Random) -> str:
    value = drawn.choice(drawn.choice((_NUMBERS, _TEXTS, OUTPUTS)))
    return quote(value) if drawn.random() < 0.7 else value.replace(" ", "%20")


# -- broken at random -----------------------------------------------------------------------------


def broken(data: bytes, drawn: Random) -> bytes:
    for _ in range(drawn.choice((1, 1, 2, 4))):
        data = drawn.choice(_BREAKS)(data, drawn) or b"\n"
    return data


def _flip(data: bytes, drawn: Random) -> bytes:
    at = drawn.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << drawn.randrange(8))]) + data[at + 1 :]


def _insert(data: bytes, drawn: Random) -> bytes:
    at = drawn.randrange(len(data) + 1)
    return data[:at] + drawn.choice(_TOKENS) * drawn.choice((1, 1, 1, 3, 400)) + data[at:]


def _remove(data: bytes, drawn: Random) -> bytes:
    at = drawn.randrange(len(data))
    return data[:at] + data[at + drawn.choice((1, 2, 20)) :]


def _cut(data: bytes, drawn: Random) -> bytes:
    return data[: drawn.randrange(len(data))]


def _line(data: bytes, drawn: Random) -> bytes:
    """Repeat, drop, or move a line."""
    lines = data.split(b"\r\n")
    at = drawn.randrange(len(lines))
    taken = lines.pop(at)
    for _ in range(drawn.choice((0, 1, 2, 150))):
        lines.insert(drawn.randrange(len(lines) + 1), taken)
    return b"\r\n".join(lines)


_BREAKS: tuple[Callable[[bytes, Random], bytes], ...] = (_flip, _insert, _remove, _cut, _line)
