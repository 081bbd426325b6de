"""Who may act: of several autoscalers, the one that holds the Lease.

A leader is leader for ``renew_deadline_s`` from the moment it *asked* for its last successful
renewal; others wait for ``duration_s`` from the moment they *saw* it. Between the two lies time for
a write that had begun. Each side measures with its own steady clock, so no clocks are compared, and
asking "am I the leader?" needs no network: a call that hangs cannot make a leader of the past act.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from imageserve.autoscaler.cluster import Cluster, LeaseRecord
from imageserve.errors import ClusterConflict, ClusterError

log = logging.getLogger(__name__)

LETTING_GO_S = 1.0
"""How long a stopping leader waits for a write under way before it gives the lease back."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of an election; the defaults are those of Kubernetes' own controllers."""

    duration_s: int = 15
    """Whole seconds, as a Lease has them."""
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0


def steady_s() -> float:
    """Return seconds that only ever grow; where the system offers it, sleep counts too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Leadership:
    """Whether this process may act. This one always may: there is no other."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._acting = 0
        self._closed = False

    @property
    def problem(self) -> str:
        """Why nobody can become leader; "" where all is well."""
        return ""

    def leading(self) -> bool:
        return not self._closed

    @contextmanager
    def acting(self) -> Iterator[bool]:
        """Give whether one may act right now; leadership is not let go before the block ends."""
        with self._changed:
            allowed = self.leading()
            self._acting += allowed
        try:
            yield allowed
        finally:
            with self._changed:
                self._acting -= allowed
                self._changed.notify_all()

    def start(self, changed: Callable[[], None]) -> None:
        """Take part; ``changed`` is called when this process has become the leader."""

    def stop(self) -> None:
        """Act no more."""
        self._close()

    def _close(self) -> bool:
        """Let nobody begin to act any more; returns whether nobody acts."""
        with self._changed:
            self._closed = True
            return self._changed.wait_for(lambda: not self._acting, LETTING_GO_S)


class Election(Leadership):
    """Holds a Lease, or waits for it, in a thread of its own."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        identity: str,
        timing: Timing,
        clock: Callable[[], float] = steady_s,
    ) -> None:
        """Take part as ``identity``, which must be no other process's."""
        super().__init__()
        self._cluster = cluster
        self._name = name
        self._identity = identity
        self._timing = timing
        self._clock = clock
        self._seen = LeaseRecord(version="")
        self._seen_at_s = -float("inf")
        self._valid_until_s = -float("inf")
        self._led = False
        self._problem = ""
        self._stopping = threading.Event()
        self._one_at_a_time = threading.Lock()

    @property
    def problem(self) -> str:
        return self._problem

    def leading(self) -> bool:
        return not self._closed and self._clock() < self._valid_until_s

    def start(self, changed: Callable[[], None]) -> None:
        threading.Thread(
            target=self._take_part, args=(changed,), name="election", daemon=True
        ).start()

    def stop(self) -> None:
        """Act no more, and give the lease back so that another need not wait for its end."""
        idle = self._close()
        self._stopping.set()
        if not (idle and self._one_at_a_time.acquire(timeout=LETTING_GO_S)):
            log.warning("a call is still under way: the lease is left to end by itself")
            return
        try:
            self._give_back()
        finally:
            self._one_at_a_time.release()

    def _take_part(self, changed: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            self.attempt()
            if self._note_change():
                changed()
            # Not all at once: of two that try in the same instant, one gets a conflict.
            self._stopping.wait(self._timing.retry_s * random.uniform(0.8, 1.0))

    def attempt(self) -> None:
        """Renew the lease, or take it if it is free."""
        with self._one_at_a_time:
            if self._closed:
                return
            try:
                self._attempt()
            except ClusterConflict:
                self._seen = replace(self._seen, version="")
            except ClusterError as error:
                self._say_problem(str(error))
            else:
                self._say_problem("")

    def _attempt(self) -> None:
        started_s = self._clock()
        # The holder knows the version that it wrote itself, and saves the reading.
        if not (self.leading() and self._seen.version):
            self._observe(self._cluster.lease(self._name))
        if self._is_anothers():
            self._valid_until_s = -float("inf")
            return
        written = self._cluster.write_lease(self._name, self._own_record(), self._seen.version)
        self._seen, self._seen_at_s = written, self._clock()
        self._valid_until_s = started_s + self._timing.renew_deadline_s

    def _observe(self, record: LeaseRecord) -> None:
        if record.version == self._seen.version:
            return
        if not record.holder and record.duration_s is None:
            # Written anew without its content, by an upgrade perhaps: its holder may still act.
            record = replace(self._seen, version=record.version)
        self._seen, self._seen_at_s = record, self._clock()

    def _is_anothers(self) -> bool:
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

    def _give_back(self) -> None:
        if self._seen.holder != self._identity or self._clock() >= self._valid_until_s:
            return
        record = replace(self._own_record(), holder="", duration_s=1)
        try:
            self._cluster.write_lease(self._name, record, self._seen.version)
        except ClusterError as error:
            log.warning("the lease was not given back and ends by itself: %s", error)
        else:
            log.info("gave the lease back")

    def _note_change(self) -> bool:
        leading = self.leading()
        became = leading and not self._led
        if leading != self._led:
            log.info("leading" if leading else "no longer leading")
        self._led = leading
        return became

    def _say_problem(self, problem: str) -> None:
        if problem and not self._problem:
            log.error("the lease cannot be used, trying until it can: %s", problem)
        self._problem = problem
