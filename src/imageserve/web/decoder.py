"""A web process's side of one decoder process: starts it, hands it pictures, ends it."""

import json
import math
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Final

from imageserve.decoding import DecodingPolicy
from imageserve.errors import (
    CorruptImage,
    ImageTooLarge,
    NoImage,
    NotAnImage,
    RequestError,
    TimedOut,
    TruncatedImage,
    UnsupportedFormat,
)
from imageserve.web import decoder_process
from imageserve.web.decoder_process import REPLY, Task, configuration

_ERRORS: Final = {
    each.__name__: each
    for each in (
        CorruptImage,
        ImageTooLarge,
        NoImage,
        NotAnImage,
        TruncatedImage,
        UnsupportedFormat,
    )
}
_KEPT = ("PATH", "HOME", "TZ", "LANG")
_KEPT_PREFIXES = ("PYTHON", "LC_", "LD_", "MALLOC_")
"""Variables that a decoder gets; a password is among the others."""
ORPHAN_S = 1.0
"""A decoder whose web process is gone ends this long after the deadline of its picture."""
_REAPING_S = 0.005
_ENDING_S = 5.0
_MOST_ERROR_BYTES = 10_000


class DecoderDied(Exception):
    """The process has ended; ``signal`` is what killed it, or 0."""

    def __init__(self, number: int) -> None:
        super().__init__(f"the decoder ended by signal {number}")
        self.signal = number


class Decoder:
    """One decoder process. It decodes one picture at a time."""

    def __init__(self, policy: DecodingPolicy, niceness: int) -> None:
        """Start the process; it takes a tenth of a second until it decodes.

        Raises OSError where no process can be started.
        """
        self._connection, theirs = socket.socketpair()
        try:
            # All other descriptors are closed in it: Python opens them so.
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-P", "-m", decoder_process.__name__],
                {
                    name: value
                    for name, value in os.environ.items()
                    if name in _KEPT or name.startswith(_KEPT_PREFIXES)
                },
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
                setsigmask=[],
                setsigdef=[signal.SIGPROF, signal.SIGALRM],
            )
            self._connection.sendall(configuration(policy, niceness))
        except OSError:
            self._connection.close()
            raise
        finally:
            theirs.close()

    def decode(self, task: Task, processor_s: float, deadline: float) -> bytes:
        """Return the pixels of a picture, which may take this much processor time.

        After anything but a RequestError that is no TimedOut, the process must be ended.

        Raises:
            RequestError: as ``imageserve.decoding.decode``.
            TimedOut: it is not decoded at ``deadline``, on the monotonic clock.
            DecoderDied: the process has ended.
        """
        try:
            left_s = max(0.001, deadline - time.monotonic())
            self._connection.settimeout(left_s)
            self._connection.sendall(task.head(processor_s, left_s + ORPHAN_S))
            self._connection.sendall(task.data)
            is_good, length = REPLY.unpack(self._received(REPLY.size, deadline))
            if length > max(3 * math.prod(task.size), _MOST_ERROR_BYTES):
                raise EOFError  # A decoder that a picture has taken over cannot fill this process.
            content = self._received(length, deadline)
        except TimeoutError as error:
            raise TimedOut("decoding took all the time there was") from error
        except (EOFError, ConnectionError) as error:
            # One that has closed its connection and lives on was taken over by a picture, perhaps.
            number = self._fate(min(deadline, time.monotonic() + _ENDING_S))
            if number is None or number == signal.SIGALRM:
                raise TimedOut("decoding took all the time there was") from error
            raise DecoderDied(number) from error
        if is_good:
            return content
        name, message = json.loads(content)
        raise _ERRORS.get(name, RequestError)(message)

    def _received(self, count: int, deadline: float) -> bytes:
        chunks: list[bytes] = []
        while count > 0:
            self._connection.settimeout(max(0.001, deadline - time.monotonic()))
            chunk = self._connection.recv(count)
            if not chunk:
                raise EOFError
            chunks.append(chunk)
            count -= len(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _fate(self, deadline: float) -> int | None:
        """Wait for the end of the process; return the signal that killed it, 0 for none.

        None: it has not ended at ``deadline``.
        """
        # Not a blocking wait, which would stop the event loop: a process of a gigabyte takes long
        # to end.
        while True:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                return 0  # Somebody else has waited for it.
            if pid:
                return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            if time.monotonic() >= deadline:
                return None
            time.sleep(_REAPING_S)

    def end(self) -> None:
        """Kill the process, and wait until it has ended."""
        self._connection.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._fate(time.monotonic() + _ENDING_S)
