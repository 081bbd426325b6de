"""A connection limits heads and bodies, and sends headers and body of an answer in one piece."""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from imageserve.errors import BodyTooLarge, Busy, HeadTooLarge
from imageserve.web.connection import (
    CONTINUE,
    HEAD_BYTES,
    SMALL_HEAD_BYTES,
    Connection,
    Waits,
)

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


class Socket:
    """Gives the pieces that are to be received, and records what is sent."""

    room = 2**20
    """What the kernel takes at once without waiting."""

    def __init__(self, received: Iterable[bytes] = ()) -> None:
        self.sent: list[bytes] = []
        self._sock = self
        self._received = list(received)

    def recv(self, size: int) -> bytes:
        return self._received.pop(0)[:size]

    def send(self, data: bytes) -> int:
        if not self.room:
            raise BlockingIOError
        self.sent.append(data[: self.room])
        return len(data[: self.room])

    def sendall(self, data: bytes) -> None:
        self.sent.append(data)

    def fileno(self) -> int:
        return 7


class Wait:
    """The wait for a head; records what has come of it."""

    def __init__(self) -> None:
        self.begun: list[bool] = []
        self.ended_by: list[BaseException] = []
        self.connection: Any = None

    def begin(self, *, is_whole: bool) -> None:
        self.begun.append(is_whole)

    def interrupt(self, error: BaseException) -> None:
        self.ended_by.append(error)


def connection(sock: Socket, waits: Waits | None = None) -> Any:
    return Connection(sock, waits or Waits(), 1000)


def unfinished_head(waits: Waits, *received: bytes) -> tuple[Any, Wait]:
    """Return a connection that has sent the first of these pieces of a head, and its wait."""
    made, wait = connection(Socket(received), waits), Wait()
    wait.connection = made
    made.begin_head(wait)
    made.recv(8192)
    waits.unfinished[wait] = None  # type: ignore[index]  # A stand-in.
    return made, wait


def request(*, expects_continue: bool = False) -> Any:
    return SimpleNamespace(unreader=None, _expected_100_continue=expects_continue)


# -- answers --------------------------------------------------------------------------------------

PIECES = {
    "headers and body": ([HEAD, b"body"], [HEAD + b"body"]),
    "no body": ([HEAD], [HEAD]),
    "a body in two pieces": ([HEAD, b"bo", b"dy"], [HEAD + b"bo", b"dy"]),
    "a body like the end of headers": ([HEAD, b"\r\n\r\n"], [HEAD + b"\r\n\r\n"]),
    "chunks that end like headers": (
        [HEAD, b"4\r\nbody\r\n", b"0\r\n\r\n"],
        [HEAD + b"4\r\nbody\r\n", b"0\r\n\r\n"],
    ),
    "nothing": ([], []),
}


@pytest.mark.parametrize(("written", "sent"), PIECES.values(), ids=PIECES)
def test_headers_are_sent_with_what_comes_next(written: list[bytes], sent: list[bytes]) -> None:
    sock = Socket()
    whole = connection(sock)

    for data in written:
        whole.sendall(data)
    whole.send_held()
    whole.send_held()

    assert sock.sent == sent


@pytest.mark.parametrize(
    ("room", "expected"), [(7, [b"another", b" answer"]), (0, [b"another answer"])]
)
def test_what_the_kernel_does_not_take_at_once_is_waited_for(
    room: int, expected: list[bytes]
) -> None:
    sock = Socket()
    sock.room = room

    connection(sock).sendall(b"another answer")

    assert sock.sent == expected


def test_the_headers_of_an_answer_that_failed_are_not_sent() -> None:
    sock = Socket()
    failed = connection(sock)

    failed.sendall(HEAD)
    failed.drop_held()
    failed.sendall(b"another answer")

    assert sock.sent == [b"another answer"]


def test_all_other_calls_go_to_the_socket() -> None:
    assert connection(Socket()).fileno() == 7


# -- heads ----------------------------------------------------------------------------------------

REQUEST = b"POST /predict HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("cut", range(1, len(REQUEST)))
def test_the_end_of_a_head_is_found_wherever_it_is_cut(cut: int) -> None:
    waits, wait = Waits(), Wait()
    body = bytes(HEAD_BYTES)
    head = connection(Socket([REQUEST[:cut], REQUEST[cut:] + body]), waits)

    head.begin_head(wait)
    head.recv(10**6)
    head.recv(10**6)

    assert (wait.begun, waits.head_bytes) == ([False, True], len(REQUEST))
    head.end()
    assert waits.head_bytes == 0


def test_a_head_has_a_limit() -> None:
    waits = Waits()
    piece = b"x" * 8192
    long = connection(Socket([piece] * 4 + [b"y"]), waits)
    long.begin_head(Wait())
    for _ in range(HEAD_BYTES // len(piece)):
        long.recv(8192)

    with pytest.raises(HeadTooLarge, match=f"at most {HEAD_BYTES} bytes"):
        long.recv(8192)

    long.end()
    assert waits.head_bytes == 0


LARGE = b"x" * (SMALL_HEAD_BYTES + 1)


def test_where_all_heads_are_too_many_the_unfinished_one_that_began_first_is_ended() -> None:
    waits = Waits(most_head_bytes=2 * len(LARGE))

    (_, first), (_, second), (newest, third) = (unfinished_head(waits, LARGE) for _ in range(3))

    assert [str(error) for error in first.ended_by] == ["too many request heads are in memory"]
    assert second.ended_by == third.ended_by == []
    assert waits.head_bytes == 2 * len(LARGE)
    newest.end()
    assert waits.head_bytes == len(LARGE)


def test_where_none_can_be_ended_only_a_large_head_is_refused() -> None:
    waits = Waits(most_head_bytes=100)
    small, wait = unfinished_head(waits, b"x" * 101, LARGE)

    with pytest.raises(Busy, match="too many request heads"):
        small.recv(8192)

    assert wait.ended_by == []
    small.end()
    assert waits.head_bytes == 0


def test_the_head_of_an_answered_request_is_not_counted_while_the_client_reads_its_answer() -> None:
    waits = Waits()
    lingering, _ = unfinished_head(waits, LARGE, b"more of the body", b"")
    counted: list[int] = []
    lingering._socket.shutdown = lambda how: counted.append(waits.head_bytes)

    lingering.linger()

    assert counted == [0]


# -- bodies ---------------------------------------------------------------------------------------


def test_continue_is_sent_when_the_body_is_read_and_once() -> None:
    sock = Socket([b"bo", b"dy"])
    asked = connection(sock)
    req = request(expects_continue=True)

    asked.begin_body(req)
    assert (sock.sent, req._expected_100_continue) == ([], False), "gunicorn sends nothing itself"

    assert (asked.recv(99), asked.recv(99)) == (b"bo", b"dy")
    assert sock.sent == [CONTINUE]


def test_continue_is_not_sent_for_a_request_that_is_answered() -> None:
    sock = Socket([REQUEST])
    asked = connection(sock)
    asked.begin_body(request(expects_continue=True))

    asked.begin_head(Wait())
    asked.recv(99)

    assert sock.sent == []


def test_what_is_received_of_one_body_is_limited() -> None:
    long = connection(Socket([b"x" * 600] * 3))
    long.begin_body(request())
    long.recv(8192)
    with pytest.raises(BodyTooLarge):
        long.recv(8192)

    long.begin_body(request())
    assert long.recv(8192), "each body is counted by itself"
