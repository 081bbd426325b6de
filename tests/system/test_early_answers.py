"""A server that answers before it has read the whole upload must not lose its answer (decision 9).

A connection that is closed with unread bytes is reset, and the client's system then discards
what it has received.
"""

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from tests.system.client import answer_on, post_head
from tests.system.stack import Stack, running

CLIENTS = 10
TOO_LARGE = 40 * 2**20
"""More than the limit, and more than the buffers between client and server hold."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("early")
    with running(directory, redis_program, workers=0, WEB_PROCESSES="1") as stack:
        yield stack


def status_of_upload(stack: Stack, body: bytes | Iterator[bytes]) -> int:
    """Send a picture as many programs do: urllib reads nothing before all is sent."""
    url = f"http://127.0.0.1:{stack.port}/predict"
    headers = {"Content-Type": "image/jpeg"}
    request = urllib.request.Request(url, data=body, headers=headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)
    with refused.value as answer:
        return answer.code


def in_chunks(size: int) -> Iterator[bytes]:
    piece = bytes(2**16)
    for _ in range(size // len(piece)):
        yield piece


def test_a_client_that_sends_too_much_gets_its_413(stack: Stack) -> None:
    body = bytes(TOO_LARGE)
    assert [status_of_upload(stack, body) for _ in range(CLIENTS)] == [413] * CLIENTS


def test_a_client_that_sends_too_much_in_chunks_gets_its_413(stack: Stack) -> None:
    answers = [status_of_upload(stack, in_chunks(TOO_LARGE)) for _ in range(CLIENTS)]
    assert answers == [413] * CLIENTS


def test_a_client_that_goes_on_sending_is_not_read_for_ever(stack: Stack) -> None:
    with stack.http.open(post_head(TOO_LARGE)) as connection:
        assert answer_on(connection).status == 413
        began = time.monotonic()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            send_for_ever(connection)
        assert time.monotonic() - began > 1


def send_for_ever(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x")
        time.sleep(0.01)
