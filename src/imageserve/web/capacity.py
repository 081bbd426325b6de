"""Tells each queue how many pictures a second this web process could decode."""

import logging
import os
import resource
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from imageserve.errors import QueueError
from imageserve.models.runtimes import granted_processors
from imageserve.queue.producer import Producer
from imageserve.queue.snapshot import HEARTBEAT_S, WebInfo
from imageserve.web.lifecycle import Lifecycle
from imageserve.web.line import DecodeLine
from imageserve.web.pace import Throughput

log = logging.getLogger(__name__)


class CapacityTeller:
    """Measures and publishes in a thread, at the pace of a worker's heartbeats."""

    def __init__(
        self,
        producers: Sequence[Producer],
        line: DecodeLine,
        lifecycle: Lifecycle,
        processes: int,
    ) -> None:
        """``processes``: the web processes that share this one's processors."""
        self._id = uuid.uuid4().hex
        self._producers = producers
        self._line = line
        self._lifecycle = lifecycle
        self._processes = processes
        self._throughput = Throughput()
        self._at = time.monotonic()
        self._cpu_s = family_cpu_s()
        self._used = replace(line.used)

    def start(self) -> None:
        threading.Thread(target=self._run, name="capacity", daemon=True).start()

    def _run(self) -> None:
        while not self._lifecycle.stopping:
            time.sleep(HEARTBEAT_S)
            # Without this thread the process would count as gone, and nothing would say why.
            try:
                self.tell()
            except Exception:
                log.critical("bug while telling the capacity", exc_info=True)

    def tell(self) -> None:
        """Measure once more, and tell each queue."""
        self._measure()
        processors = granted_processors() / self._processes
        info = WebInfo(self._id, self._throughput.per_s(processors))
        for producer in self._producers:
            try:
                if self._lifecycle.stopping:
                    producer.leave(self._id)
                else:
                    producer.publish(info)
            except QueueError as error:
                log.debug("the capacity was not told: %s", error)  # The listener tells of outages.

    def _measure(self) -> None:
        now, cpu_s, used = time.monotonic(), family_cpu_s(), replace(self._line.used)
        self._throughput.add(now - self._at, cpu_s - self._cpu_s, used.since(self._used))
        self._at, self._cpu_s, self._used = now, cpu_s, used


def family_cpu_s() -> float:
    """Return the processor time of this process and its children, ended ones included."""
    return sum(map(_rusage_s, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))) + sum(
        map(_running_s, _children())
    )


def _rusage_s(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def _children() -> list[str]:
    found = []
    for task in Path("/proc/self/task").glob("*/children"):
        found += _text(task).split()
    return found


def _running_s(pid: str) -> float:
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # It has ended.
