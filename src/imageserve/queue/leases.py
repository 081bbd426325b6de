"""Renews the leases of claimed jobs while the model runs, in a thread of its own.

Renewal is bounded in time: a worker that hangs must lose its jobs to a healthy one.
"""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from imageserve.errors import QueueError

log = logging.getLogger(__name__)

LEAST_PATIENCE_S = 30.0
PATIENCE_FACTOR = 5
"""A batch may take this many times the slowest known batch before it counts as hung."""


class LeaseStore(Protocol):
    """A queue whose leases can be renewed."""

    def extend(self, token: str, job_ids: Sequence[str], lease_ms: int) -> int:
        """Renew leases; returns how many are still held."""


@dataclass
class _Held:
    ids: Sequence[str]
    since: float


class LeaseKeeper:
    """Renews each held claim three times per lease."""

    def __init__(self, store: LeaseStore, lease_ms: int) -> None:
        self.patience_s = LEAST_PATIENCE_S
        self._store = store
        self._lease_ms = lease_ms
        self._held: dict[str, _Held] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def set_slowest_ms(self, slowest_ms: float) -> None:
        """Derive the patience from the slowest known batch."""
        self.patience_s = max(LEAST_PATIENCE_S, PATIENCE_FACTOR * slowest_ms / 1000)

    def hold(self, token: str, ids: Sequence[str]) -> None:
        """Renew from now on. A second call, when the model starts, restarts the patience."""
        self._held[token] = _Held(ids, time.monotonic())

    def drop(self, token: str) -> None:
        self._held.pop(token, None)

    def _run(self) -> None:
        while not self._stopped.wait(self._lease_ms / 3000):
            for token, held in list(self._held.items()):
                try:
                    self._renew(token, held)
                # This loop must never end: without it each long batch would run twice.
                except Exception:
                    log.critical("bug while renewing a lease", exc_info=True)

    def _renew(self, token: str, held: _Held) -> None:
        if time.monotonic() - held.since > self.patience_s:
            log.error("a batch of %d hangs: its jobs go to another worker", len(held.ids))
            self.drop(token)
            return
        try:
            if self._store.extend(token, held.ids, self._lease_ms) == 0 and token in self._held:
                log.warning("lost the lease of a batch of %d", len(held.ids))
                self.drop(token)
        except QueueError as error:
            # The main loop reports the outage; leases may survive it.
            log.debug("leases not renewed: %s", error)
