"""Headers and body of an answer leave in one piece."""

import pytest

from imageserve.web.server import WholeAnswers

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


class Connection:
    """Records the data of each call."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sent.append(data)

    def fileno(self) -> int:
        return 7


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
    connection = Connection()
    whole = WholeAnswers(connection)

    for data in written:
        whole.sendall(data)
    whole.send_held()
    whole.send_held()

    assert connection.sent == sent


def test_all_other_calls_go_to_the_connection() -> None:
    assert WholeAnswers(Connection()).fileno() == 7
