"""Random requests: case K of a seed is the same script everywhere.

Some are right, and every answer to them is known. Most are broken somewhere: in the head, the
framing of the body, the form, the query, or in how they are sent.
"""

import functools
from collections.abc import Callable
from random import Random

from tests.system.samples import Sample, samples

from bench.fuzz import bombs, heads
from bench.fuzz.forms import form, whole_form
from bench.fuzz.pictures import CANARY, mutant
from bench.fuzz.scripts import Ending, Expected, Script

_SLOW_SHARE = 0.03
_KNOWN_PATHS = ("/healthz", "/readyz", "/models", "/status")


def request_script(seed: int, case: int) -> Script:
    drawn = Random(f"{seed}/request/{case}")
    if drawn.random() < _SLOW_SHARE:
        return _slow(drawn)
    makers = tuple(_MAKERS)
    return drawn.choices(makers, [_MAKERS[maker] for maker in makers])[0](drawn)


def picture_script(seed: int, case: int) -> Script:
    """Return the request that posts one mutated picture."""
    made = mutant(seed, case)
    return Script(made.name, (_post(made.data, "Connection: close"),), expected=(Expected(),))


@functools.cache
def good_samples() -> list[Sample]:
    """Return pictures with their labels."""
    return samples(12)


def _post(body: bytes, *more: str, target: str = "/predict") -> bytes:
    length = f"Content-Length: {len(body)}"
    return heads.head("POST", target, "Host: fuzz", length, *more) + body


def _get(path: str, *more: str) -> bytes:
    return heads.head("GET", path, "Host: fuzz", *more)


# -- right requests -------------------------------------------------------------------------------


def _right(drawn: Random) -> tuple[bytes, Expected]:
    if drawn.random() < 0.3:
        return _get(drawn.choice(_KNOWN_PATHS)), Expected(200)
    picture = drawn.choice(good_samples())
    if drawn.random() < 0.2:
        return _vector(picture.data, drawn), Expected(200)
    query = drawn.choice(("", "", "", "?top=all", "?min=0.5", "?min=0.01&top=2"))
    return _post(picture.data, target=f"/predict{query}"), Expected(200, picture.label)


def _vector(picture: bytes, drawn: Random) -> bytes:
    accepted = drawn.choice(("*/*", "application/octet-stream", "application/octet-stream;q=0.5"))
    return _post(picture, f"Accept: {accepted}", target="/predict?output=scores")


def _kept_alive(drawn: Random) -> Script:
    requests, expected = zip(*(_right(drawn) for _ in range(drawn.randint(1, 5))), strict=True)
    return Script("right requests, one after another", requests, 0.01, expected=expected)


def _pipelined(drawn: Random) -> Script:
    requests, expected = zip(*(_right(drawn) for _ in range(drawn.randint(2, 6))), strict=True)
    return Script("right requests, pipelined", (b"".join(requests),), expected=expected)


def _right_in_pieces(drawn: Random) -> Script:
    request, expected = _right(drawn)
    return Script("a right request in pieces", _pieces(request, drawn), expected=(expected,))


def _right_chunked(drawn: Random) -> Script:
    picture = drawn.choice(good_samples())
    largest = drawn.choice((1, 7, 300, 100_000))
    body = heads.chunked(picture.data, largest, drawn.choice(("", ";a=b", ";" + "x" * 100)))
    head = heads.head("POST", "/predict", "Host: fuzz", "Transfer-Encoding: chunked")
    expected = (Expected(200, picture.label),)
    return Script(f"right chunks of up to {largest}", (head + body,), expected=expected)


def _head_only(drawn: Random) -> Script:
    request = heads.head("HEAD", drawn.choice(("/healthz", "/nothing", "/models")), "Host: fuzz")
    return Script("a HEAD", (request,), expected=(Expected(),), head=True)


# -- broken requests ------------------------------------------------------------------------------


def _broken_head(drawn: Random) -> Script:
    picture = drawn.choice(good_samples())
    right = _post(picture.data, "Connection: close") if drawn.random() < 0.7 else _get("/models")
    head, end, body = right.partition(b"\r\n\r\n")
    broken = heads.broken(head + end, drawn)
    return _sent("a broken head", broken + body, drawn)


def _odd_header(drawn: Random) -> Script:
    line = heads.odd_header(drawn)
    request = _post(drawn.choice(good_samples()).data, line, "Connection: close")
    return _sent(f"the header {line[:60]!r}", request, drawn)


def _odd_target(drawn: Random) -> Script:
    target = heads.odd_target(drawn)
    method = drawn.choice(("POST", "POST", "POST", "GET", "PUT", "OPTIONS", "DELETE", "BREW"))
    body = drawn.choice(good_samples()).data
    length = f"Content-Length: {len(body)}"
    head = heads.head(method, target, "Host: fuzz", length, "Connection: close")
    return _sent(f"{method} {target[:60]!r}", head + body, drawn)


def _broken_chunks(drawn: Random) -> Script:
    picture = drawn.choice(good_samples()).data
    body = heads.broken(heads.chunked(picture, drawn.choice((1, 50, 1000)), ""), drawn)
    lines = ("Host: fuzz", "Transfer-Encoding: chunked", "Connection: close")
    return _sent("broken chunks", heads.head("POST", "/predict", *lines) + body, drawn)


def _broken_length(drawn: Random) -> Script:
    picture = drawn.choice(good_samples()).data
    said = drawn.choice((len(picture) + 1, len(picture) - 1, 0, 1, 10**9, 10**30))
    lines = ("Host: fuzz", f"Content-Length: {said}", "Connection: close")
    return _sent(f"length {said}", heads.head("POST", "/predict", *lines) + picture, drawn)


def _odd_form(drawn: Random) -> Script:
    picture = mutant(drawn.randrange(2**32), 0).data
    pictures = [drawn.choice((picture, drawn.choice(good_samples()).data)) for _ in range(3)]
    body, kind = form(pictures, drawn)
    return _sent("an odd form", _post(body, f"Content-Type: {kind}", "Connection: close"), drawn)


def _form_of_bombs(drawn: Random) -> Script:
    """Send as many bombs as one request may hold, or one more."""
    pictures = [bombs.bomb(drawn)[1] for _ in range(drawn.choice((2, 16, 17)))]
    body = whole_form(pictures)
    kind = "Content-Type: multipart/form-data; boundary=b0undary"
    return _sent("a form of bombs", _post(body, kind, "Connection: close"), drawn)


def _large_body(drawn: Random) -> Script:
    start = drawn.choice((b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"--b0undary\r\n"))
    kind = drawn.choice(("image/jpeg", "multipart/form-data; boundary=b0undary"))
    body = start + drawn.randbytes(1000) * drawn.choice((5_000, 11_000, 35_000))
    lines = (f"Content-Type: {kind}", "Connection: close")
    return _sent(f"a body of {len(body)} bytes", _post(body, *lines), drawn)


def _no_picture(drawn: Random) -> Script:
    body = drawn.choice(
        (
            b"",
            CANARY,
            b'{"image": "data:image/png;base64,iVBORw0KGgo="}',
            b"data:image/jpeg;base64,/9j/4AAQSkZJRgABAQ==",
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + CANARY,
            drawn.randbytes(drawn.choice((1, 100, 70_000))) + CANARY,
        )
    )
    return _sent("no picture", _post(body, "Connection: close"), drawn)


def _tiny_chunks(drawn: Random) -> Script:
    body = heads.chunked(drawn.randbytes(drawn.choice((20_000, 300_000))), 1, "")
    lines = ("Host: fuzz", "Transfer-Encoding: chunked", "Connection: close")
    return Script("many chunks of a byte", (heads.head("POST", "/predict", *lines) + body,))


def _refused_before_its_body(drawn: Random) -> Script:
    """Send a head that is refused, and a body that is still on its way then."""
    line = drawn.choice(
        ("Expect: the impossible", "Transfer-Encoding: gzip", "bad name: x", "Host")
    )
    request = _post(drawn.randbytes(2_000_000), line)
    sends = tuple(request[at : at + 200_000] for at in range(0, len(request), 200_000))
    return Script(f"refused for {line!r}, with a body", sends, 0.002)


def _late_second_head(drawn: Random) -> Script:
    """Begin a second request on a kept connection, and never end its head."""
    request, expected = _right(drawn)
    sends = (request, _get("/models")[: drawn.randint(1, 20)])
    return Script("an unfinished second head", sends, 0.2, expected=(expected, Expected(408)))


def _rubbish(drawn: Random) -> Script:
    data = drawn.choice(
        (
            drawn.randbytes(drawn.choice((1, 40, 3000, 50_000))),
            b"\r\n" * drawn.choice((1, 3, 2000)),
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + drawn.randbytes(500),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /models\r\n\r\n",
            b"A" * 70_000,
            b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * drawn.choice((50, 5000, 100_000)) + b"\r\n",
        )
    )
    return _sent("rubbish", data, drawn)


def _slow(drawn: Random) -> Script:
    """Send a right request so slowly that it may end in 408, or leave it unfinished."""
    request, _ = _right(drawn)
    pieces = _pieces(request, drawn, most=6)
    if drawn.random() < 0.5:
        return Script("an unfinished request", pieces[:-1] or (b"P",), 0.1)
    return Script("a slow request", pieces, drawn.choice((0.05, 0.2)))


# -- how it is sent -------------------------------------------------------------------------------


def _sent(name: str, data: bytes, drawn: Random) -> Script:
    sends = _pieces(data, drawn) if drawn.random() < 0.2 else (data,)
    chance = drawn.random()
    if chance < 0.05:
        return Script(f"{name}, reset", sends, ending=Ending.RESET)
    # A broken request may never end; most clients then give up at once instead of waiting.
    return Script(name, sends, ending=Ending.HALF_CLOSE if chance < 0.3 else Ending.WAIT)


def _pieces(data: bytes, drawn: Random, most: int = 30) -> tuple[bytes, ...]:
    places = sorted(drawn.randrange(len(data) + 1) for _ in range(drawn.randint(1, most)))
    starts, ends = [0, *places], [*places, len(data)]
    pieces = (data[start:end] for start, end in zip(starts, ends, strict=True))
    return tuple(piece for piece in pieces if piece)


_MAKERS: dict[Callable[[Random], Script], int] = {
    _kept_alive: 8,
    _pipelined: 8,
    _right_in_pieces: 5,
    _right_chunked: 6,
    _head_only: 2,
    _broken_head: 20,
    _odd_header: 16,
    _odd_target: 10,
    _broken_chunks: 12,
    _broken_length: 5,
    _odd_form: 18,
    _no_picture: 4,
    _form_of_bombs: 1,
    _large_body: 1,
    _tiny_chunks: 1,
    _refused_before_its_body: 1,
    _late_second_head: 1,
    _rubbish: 4,
}
"""With their weights."""
