"""Plays a script on a connection of its own, and reads whatever comes."""

import select
import socket
import struct
import time
from contextlib import suppress

from bench.fuzz.answers import Malformed, read_answers
from bench.fuzz.judge import CLOSED, OPEN, REFUSED, RESET, Seen
from bench.fuzz.scripts import Ending, Script

PATIENCE_S = 40.0
"""Far above every time-out of the server: what is still open then stays open."""


def play(script: Script, port: int) -> Seen:
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    except OSError:
        return Seen(b"", REFUSED)
    with connection:
        return _Play(script, connection).run()


class _Play:
    def __init__(self, script: Script, connection: socket.socket) -> None:
        self._script = script
        self._connection = connection
        self._data = b""
        self._end = ""
        self._port: int = connection.getsockname()[1]

    def run(self) -> Seen:
        with suppress(OSError):  # The server may answer and close before it has read everything.
            self._send()
        if self._script.ending is Ending.RESET:
            lingering = struct.pack("ii", 1, 0)
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
            return Seen(b"", CLOSED, self._port)
        if self._script.ending is Ending.HALF_CLOSE:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + PATIENCE_S
        while not self._end and not self._is_satisfied():
            self._read(max(0.0, deadline - time.monotonic()))
        return Seen(self._data, self._end or OPEN, self._port)

    def _send(self) -> None:
        for number, data in enumerate(self._script.sends):
            if number and self._script.pause_s:
                time.sleep(self._script.pause_s)
            self._connection.sendall(data)

    def _is_satisfied(self) -> bool:
        """Whether all expected answers are there; then a client closes."""
        if self._script.expected is None:
            return False
        with suppress(Malformed):
            answers, _ = read_answers(self._data, head=self._script.head)
            return len(answers) >= len(self._script.expected)
        return True

    def _read(self, seconds: float) -> None:
        try:
            if not select.select([self._connection], [], [], seconds)[0]:
                self._end = OPEN
                return
            data = self._connection.recv(65_536)
        except OSError:
            self._end = RESET
            return
        self._data += data
        if not data:
            self._end = CLOSED
