"""The decoder processes of a web process: what is not small and plain is decoded there.

A process can be killed, a thread cannot. There are two, each with a line of its own: one for what
takes little time by its header, such as photos of a phone, and one for all else, so that nobody's
costly pictures hold up the others. Both share one budget of memory. In a line the cheapest goes
first. What would wait for long is refused at once.

Knows the sockets and threads of the standard library only: in a web process they are gevent's.
"""

import heapq
import itertools
import json
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from imageserve import metrics
from imageserve.decoding import Cost, DecodingPolicy
from imageserve.errors import (
    Busy,
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
from imageserve.web.greenlets import Wait

log = logging.getLogger(__name__)

# -- one decoder process ---------------------------------------------------------------------------

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
            if length > max(task.preparation.bytes, _MOST_ERROR_BYTES):
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


# -- two of them, and their lines ------------------------------------------------------------------

QUICK_S = 0.5
"""What takes less processor time, as reckoned, goes to the first decoder: a photo of 48 megapixels
takes 0.3 s."""
QUICK_MOST_S = 2.0
"""What takes more than this, other than reckoned, is stopped, and begun again by the second."""
QUICK_PATIENCE_S = 3.0
COSTLY_PATIENCE_S = 10.0
"""A picture that would wait for longer is refused. One may always wait for the one that runs."""
NICENESS_OF_COSTLY = 5
ATTEMPTS = 2
_LEARNING = 0.2
"""Weight of the newest picture in the measured speed of a decoder: this, or the seconds that were
reckoned if they are fewer. A small picture says little of what a large one will take."""
_MOST_TIMES = 4.0
"""A picture counts as taking no more than this multiple of what was expected."""


@dataclass(slots=True)
class _Place:
    """A picture in a line. Places are compared to find the cheapest, of equals the first."""

    cost: Cost
    number: int
    wait: Wait
    began: float | None = None
    """When it had its turn; None while it waits."""

    def __lt__(self, other: "_Place") -> bool:
        return (self.cost.seconds, self.number) < (other.cost.seconds, other.number)


class _TakesLong(Exception):
    """A picture has taken all the processor time that it may take."""


class _Lane:
    """One decoder and its line."""

    def __init__(self, name: str, policy: DecodingPolicy, niceness: int, patience_s: float) -> None:
        self.name = name
        self.patience_s = patience_s
        self.line: list[_Place] = []
        self.running: _Place | None = None
        self._policy = policy
        self._niceness = niceness
        self._decoder: Decoder | None = None
        self._pace = 1.0
        """Seconds for each second that was reckoned."""

    def ahead_s(self, cost_s: float) -> float:
        """Return how long a picture would wait for those before it."""
        ahead = sum(place.cost.seconds for place in self.line if place.cost.seconds <= cost_s)
        if self.running is not None and self.running.began is not None:
            elapsed = time.monotonic() - self.running.began
            ahead += max(0.0, self.running.cost.seconds - elapsed / self._pace)
        return ahead * self._pace

    def learn(self, place: _Place) -> None:
        """Note how long a picture took that was decoded."""
        if place.began is not None and place.cost.seconds > 0:
            pace = (time.monotonic() - place.began) / place.cost.seconds
            pace = min(pace, _MOST_TIMES * self._pace)
            self._pace += min(_LEARNING, place.cost.seconds) * (pace - self._pace)

    def started(self) -> Decoder:
        """Return the decoder, started where there is none.

        Raises Busy where it cannot be started.
        """
        if self._decoder is None:
            try:
                self._decoder = Decoder(self._policy, self._niceness)
            except OSError as error:
                log.error("a decoder cannot be started: %s", error)
                raise Busy("no decoder can be started", retry_after_s=1) from error
        return self._decoder

    def replace(self, reason: str) -> None:
        """End the decoder, and start another."""
        metrics.decoder_restarts_total.labels(reason).inc()
        self.end()
        self.start()

    def start(self) -> None:
        with suppress(Busy):  # The next picture tries again.
            self.started()

    def decode(self, task: Task, processor_s: float, deadline: float) -> bytes:
        """Decode a picture; if the decoder dies, once more.

        Raises _TakesLong after ``processor_s``, and else what `Decoders.decode` does.
        """
        number = 0
        for _ in range(ATTEMPTS):
            try:
                return self.started().decode(task, processor_s, deadline)
            except DecoderDied as died:
                number = died.signal
                takes_long = number == signal.SIGPROF
                self.replace("processor time" if takes_long else "died")
                if takes_long:
                    raise _TakesLong from died
                text = "a decoder process ended by signal %d; another one takes over"
                log.warning(text, number, extra={"fields": task.ids})
            except BaseException as error:
                # Nobody reads what the decoder will answer to a picture that was given up.
                if isinstance(error, TimedOut) or not isinstance(error, RequestError):
                    self.replace("deadline")
                raise
        # By the kernel, which is out of memory, or by a person; 0: it could not work at all.
        if number in (signal.SIGKILL, 0):
            raise Busy("the decoder ended twice, not by this picture", retry_after_s=1)
        raise CorruptImage("the picture makes its decoder fail")

    def end(self) -> None:
        if self._decoder is not None:
            self._decoder.end()
            self._decoder = None


class Decoders:
    """Decodes pictures in processes of its own, within limits of time and memory."""

    def __init__(self, policy: DecodingPolicy, processor_s: float) -> None:
        """Start the first decoder. ``processor_s``: most processor time of one picture."""
        self._processor_s = processor_s
        self._memory_left = policy.max_memory
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._quick = _Lane("quick", policy, 0, QUICK_PATIENCE_S)
        self._costly = _Lane("costly", policy, NICENESS_OF_COSTLY, COSTLY_PATIENCE_S)
        self._quick.start()  # The other one starts with its first picture.

    def decode(self, task: Task, cost: Cost, deadline: float, wait: Wait) -> bytes:
        """Return the pixels of a picture, before ``deadline`` on the monotonic clock.

        Raises:
            Busy: those ahead would take too long.
            TimedOut: the deadline has passed, or ``wait`` was told that the client hung up.
            ImageTooLarge: it takes more processor time or memory than allowed.
            RequestError: as ``imageserve.decoding.decode``.
        """
        if cost.seconds <= QUICK_S:
            most_s = min(QUICK_MOST_S, self._processor_s)
            with suppress(_TakesLong):
                return self._in_lane(self._quick, task, cost, deadline, wait, most_s)
            cost = Cost(self._processor_s, cost.memory_bytes)
        try:
            most_s = self._processor_s
            return self._in_lane(self._costly, task, cost, deadline, wait, most_s)
        except _TakesLong as error:
            raise ImageTooLarge(
                f"decoding the picture takes more than {most_s:g} seconds of processor time, "
                "which is the limit"
            ) from error

    def _in_lane(
        self,
        lane: _Lane,
        task: Task,
        cost: Cost,
        deadline: float,
        wait: Wait,
        processor_s: float,
    ) -> bytes:
        place = _Place(cost, next(self._numbers), wait)
        self._join(lane, place, deadline)
        try:
            self._wait_for_turn(place, deadline)
            with metrics.decoder_seconds.labels(lane.name).time():
                pixels = lane.decode(task, processor_s, deadline)
            lane.learn(place)
            return pixels
        finally:
            self._leave(lane, place)

    def end(self) -> None:
        """End both processes. Without it they end when this process does."""
        for lane in (self._quick, self._costly):
            lane.end()

    def _join(self, lane: _Lane, place: _Place, deadline: float) -> None:
        with self._lock:
            most_s = deadline - time.monotonic()
            if lane.line:
                most_s = min(most_s / 2, lane.patience_s)
            over_s = lane.ahead_s(place.cost.seconds) - most_s
            if over_s > 0:
                message = f"{len(lane.line)} large pictures wait to be decoded"
                raise Busy(message, retry_after_s=max(1, math.ceil(over_s)))
            heapq.heappush(lane.line, place)
            metrics.decoder_line.inc()
            self._give_turns(lane)

    def _give_turns(self, last: _Lane) -> None:
        """Let the first of each line begin, where its decoder is free and there is memory.

        Where there is none, it waits for the other decoder's picture. When that ends, the line of
        the decoder that was ``last`` to work comes second: each waits for one picture of the other.
        """
        for lane in sorted((self._quick, self._costly), key=lambda lane: lane is last):
            if (
                lane.running is None
                and lane.line
                and lane.line[0].cost.memory_bytes <= self._memory_left
            ):
                place = lane.running = heapq.heappop(lane.line)
                metrics.decoder_line.dec()
                self._memory_left -= place.cost.memory_bytes
                place.began = time.monotonic()
                place.wait.wake.set()

    def _wait_for_turn(self, place: _Place, deadline: float) -> None:
        while place.began is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or place.wait.gone:
                raise TimedOut("too many large pictures are being decoded")
            place.wait.wake.wait(left_s)
            # It tells of results too, but who waits for those looks for them before it waits.
            place.wait.wake.clear()

    def _leave(self, lane: _Lane, place: _Place) -> None:
        with self._lock:
            if lane.running is place:
                lane.running = None
                self._memory_left += place.cost.memory_bytes
            else:
                lane.line = [each for each in lane.line if each is not place]
                heapq.heapify(lane.line)
                metrics.decoder_line.dec()
            self._give_turns(lane)
