"""A process that decodes pictures for a web process, one after the other.

It is a program of its own, not a fork: it has no connection to Redis, no client and no secret. It
reads tasks from its standard input, a socket, and answers on the same. Each task has limits of
processor time and memory, which the kernel enforces. It ends when the web process has ended: the
socket is closed then, and a picture that is being decoded has a time limit.
"""

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from imageserve.decoding import DecodingPolicy, decode, too_much_memory
from imageserve.errors import CorruptImage, RequestError
from imageserve.preparation import Preparation, decode_preparation, encode_preparation

REPLY = struct.Struct("<BI")
"""A reply's head: 1 for pixels or 0 for an error, and how many bytes follow."""
SLACK_BYTES = 32 * 2**20
"""Memory that a task may take beyond what was reckoned: for Python, and for the allocator."""

_TASK = struct.Struct("<ddQII")
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Task:
    """A picture to decode."""

    data: bytes
    preparation: Preparation
    memory_bytes: int
    """Memory that it may take."""
    ids: Mapping[str, str] = field(default_factory=dict)
    """What the log says of its request."""

    def head(self, processor_s: float, seconds: float) -> bytes:
        """Return what is sent before ``data``.

        At ``processor_s`` of processor time the process is killed by SIGPROF, and when it has
        worked for ``seconds``, by SIGALRM.
        """
        how = json.dumps(encode_preparation(self.preparation)).encode()
        limits = (processor_s, seconds, self.memory_bytes)
        return _TASK.pack(*limits, len(how), len(self.data)) + how


def configuration(policy: DecodingPolicy, niceness: int) -> bytes:
    """Return what a process is sent first."""
    fields = {**asdict(policy), "formats": sorted(policy.formats)}
    text = json.dumps({"policy": fields, "niceness": niceness}).encode()
    return _LENGTH.pack(len(text)) + text


def main() -> None:
    """Serve tasks until the other side of the socket is closed."""
    # A terminal's Ctrl-C and a supervisor's SIGTERM are for the web process, which may need this
    # one for the requests that it still answers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = socket.socket(fileno=0)
    connection.setblocking(True)  # gevent has made both ends non-blocking.
    tasks = connection.makefile("rb")
    with suppress(EOFError, ConnectionError):
        config = json.loads(_read(tasks, _LENGTH.unpack(_read(tasks, _LENGTH.size))[0]))
        fields = {**config["policy"], "formats": frozenset(config["policy"]["formats"])}
        os.nice(config["niceness"])
        policy = DecodingPolicy(**fields)
        while True:
            is_good, content = _next_answer(tasks, policy)
            connection.sendall(REPLY.pack(is_good, len(content)))
            connection.sendall(content)


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError
    return data


def _next_answer(file: BinaryIO, policy: DecodingPolicy) -> tuple[bool, bytes]:
    """Read a task and do it; return whether it is decoded, and its pixels or its error."""
    head = _TASK.unpack(_read(file, _TASK.size))
    processor_s, seconds, memory_bytes, length_of_how, length = head
    preparation = decode_preparation(json.loads(_read(file, length_of_how)))
    data = _read(file, length)
    _limit(processor_s, seconds)
    _limit_memory(memory_bytes)
    errno_of_c = _errno_of_c()
    errno_of_c.value = 0
    try:
        return True, decode(data, preparation, policy)
    except RequestError as error:
        # libwebp calls everything invalid, a lack of memory too. It stays in errno.
        lacks_memory = isinstance(error, CorruptImage) and errno_of_c.value == errno.ENOMEM
        return False, _described(too_much_memory() if lacks_memory else error)
    finally:
        _limit(0, 0)


def _described(error: RequestError) -> bytes:
    return json.dumps([type(error).__name__, error.message]).encode()


def _errno_of_c() -> ctypes.c_int:
    """Return the variable in which the C library notes its last error."""
    try:
        address_of = ctypes.CDLL(None).__errno_location
    except AttributeError:  # Not on Linux.
        return ctypes.c_int()
    address_of.restype = ctypes.c_void_p
    return ctypes.c_int.from_address(address_of())


def _limit(processor_s: float, seconds: float) -> None:
    """Be killed after this much processor time, and after this much time; 0: not at all."""
    signal.setitimer(signal.ITIMER_PROF, processor_s)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_memory(count: int) -> None:
    """Let the process take ``count`` bytes, and some, beyond what it has now. On Linux only."""
    with suppress(FileNotFoundError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        soft = pages * resource.getpagesize() + count + SLACK_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or soft < hard:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


if __name__ == "__main__":
    main()
