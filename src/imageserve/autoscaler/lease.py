"""Leader election: of several autoscalers, only the holder of the Lease writes.

A leader leads for ``renew_deadline_s`` after it *sent* its last successful renewal; others wait for
``duration_s`` after they *saw* it. The time between the two is for a write that had begun. Each
process uses its own monotonic clock, so clocks are never compared. ``leading`` needs no request: a
request that hangs cannot keep a former leader leading.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from imageserve.autoscaler.cluster import LeaseRecord
from imageserve.errors import ClusterConflict, ClusterError

if TYPE_CHECKING:
    from imageserve.autoscaler.kubernetes import KubernetesCluster

log = logging.getLogger(__name__)

RELEASE_WAIT_S = 1.0
"""How long a stopping leader waits for a write in progress before it releases the Lease."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of an election. The defaults are those of Kubernetes' own controllers."""

    duration_s: int = 15
    """Whole seconds, as in the Lease."""
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0


def steady_s() -> float:
    """Return the seconds of a monotonic clock that also runs during sleep, where there is one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Leadership:
    """Whether this process may write. Without an election it always may, until ``stop``."""

    problem = ""
    """Why the Lease cannot be used; "" where it can."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._acting = 0
        self._closed = False

    def leading(self) -> bool:
        return not self._closed

    @contextmanager
    def acting(self) -> Iterator[bool]:
        """Yield True while this process leads; releasing the Lease waits for the block."""
        with self._changed:
            allowed = self.leading()
            self._acting += allowed
        try:
            yield allowed
        finally:
            with self._changed:
                self._acting -= allowed
                self._changed.notify_all()

    def start(self, elected: threading.Event) -> None:
        """Take part in the election; ``elected`` is set when this process becomes the leader."""

    def stop(self) -> bool:
        """Let no further write begin; returns whether none is in progress."""
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: not self._acting, RELEASE_WAIT_S)


class Election(Leadership):
    """Holds a Lease, or waits for it, in a thread of its own."""

    def __init__(
        self,
        cluster: "KubernetesCluster",
        name: str,
        identity: str,
        timing: Timing,
        clock: Callable[[], float] = steady_s,
    ) -> None:
        """Take part as ``identity``, which no other process may use."""
        super().__init__()
        self._cluster = cluster
        self._name = name
        self._identity = identity
        self._timing = timing
        self._clock = clock
        self._seen = LeaseRecord(version="")
        self._seen_at_s = -float("inf")
        self._valid_until_s = -float("inf")
        self._was_leading = False
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        """Held during requests: only one attempt or release at a time."""

    def leading(self) -> bool:
        return not self._closed and self._clock() < self._valid_until_s

    def start(self, elected: threading.Event) -> None:
        threading.Thread(target=self._run, args=(elected,), name="election", daemon=True).start()

    def stop(self) -> bool:
        """Allow no more writes, and release the Lease so that no other waits for its end."""
        idle = super().stop()
        self._stopping.set()
        if not (idle and self._lock.acquire(timeout=RELEASE_WAIT_S)):
            log.warning("the Lease is not released, as a request is in progress: it will expire")
            return False
        try:
            self._release()
        finally:
            self._lock.release()
        return True

    def _run(self, elected: threading.Event) -> None:
        while not self._stopping.is_set():
            self.attempt()
            if self._became_leader():
                elected.set()
            # Jitter: of two attempts in the same instant, one gets a conflict.
            self._stopping.wait(self._timing.retry_s * random.SystemRandom().uniform(0.8, 1.0))

    def attempt(self) -> None:
        """Renew the Lease, or take it if it is free."""
        with self._lock:
            if self._closed:
                return
            try:
                self._attempt()
            except ClusterConflict:
                self._seen = replace(self._seen, version="")
            except ClusterError as error:
                self._set_problem(str(error))
            else:
                self._set_problem("")

    def _attempt(self) -> None:
        started_s = self._clock()
        # A leader knows the version that it has written, and need not read it.
        if not (self.leading() and self._seen.version):
            self._note_record(self._cluster.lease(self._name))
        if self._is_held_by_other():
            self._valid_until_s = -float("inf")
            return
        written = self._cluster.write_lease(self._name, self._own_record(), self._seen.version)
        self._seen, self._seen_at_s = written, self._clock()
        self._valid_until_s = started_s + self._timing.renew_deadline_s

    def _note_record(self, record: LeaseRecord) -> None:
        if record.version == self._seen.version:
            return
        if not record.holder and record.duration_s is None:
            # Its content was removed, perhaps by an upgrade: the former holder may still write.
            record = replace(self._seen, version=record.version)
        self._seen, self._seen_at_s = record, self._clock()

    def _is_held_by_other(self) -> bool:
        if self._seen.holder in ("", self._identity):
            return False
        waiting_s = self._seen.duration_s or self._timing.duration_s
        return self._clock() < self._seen_at_s + waiting_s

    def _own_record(self) -> LeaseRecord:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        seen = self._seen
        kept = seen.holder == self._identity
        return LeaseRecord(
            version="",
            holder=self._identity,
            duration_s=self._timing.duration_s,
            acquired=seen.acquired if kept else now,
            renewed=now,
            transitions=seen.transitions if kept else seen.transitions + 1,
        )

    def _release(self) -> None:
        if self._seen.holder != self._identity or self._clock() >= self._valid_until_s:
            return
        record = replace(self._own_record(), holder="", duration_s=1)
        try:
            self._cluster.write_lease(self._name, record, self._seen.version)
        except ClusterError as error:
            log.warning("the Lease is not released and will expire: %s", error)
        else:
            log.info("released the Lease")

    def _became_leader(self) -> bool:
        leading, before = self.leading(), self._was_leading
        if leading != before:
            log.info("leading" if leading else "no longer leading")
        self._was_leading = leading
        return leading and not before

    def _set_problem(self, problem: str) -> None:
        if problem and not self.problem:
            log.error("the Lease cannot be used, retrying: %s", problem)
        self.problem = problem
