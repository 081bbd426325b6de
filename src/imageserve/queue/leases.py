"""Leases of claimed batches: while they are renewed, no other worker takes their jobs."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from imageserve.errors import QueueError

log = logging.getLogger(__name__)

LEAST_PATIENCE_S = 30.0
PATIENCE_FACTOR = 5
"""A batch may take this many times the slowest known batch before it counts as hung."""


class Leases(Protocol):
    """Where the leases are."""

    def extend(self, token: str, job_ids: Sequence[str], lease_ms: int) -> int:
        """Renew leases; returns how many are still held. Raises QueueError."""


@dataclass(frozen=True, slots=True)
class _Held:
    ids: Sequence[str]
    since: float
    """When its patience began, on the monotonic clock."""
    about: Callable[[], Mapping[str, Any]]
    """Returns what log lines say of the jobs."""


class LeaseKeeper:
    """Renews each held claim three times per lease."""

    def __init__(self, store: Leases, lease_ms: int) -> None:
        self.patience_s = LEAST_PATIENCE_S
        self._store = store
        self._lease_ms = lease_ms
        self._held: dict[str, _Held] = {}
        self._ending: set[str] = set()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def set_slowest_ms(self, slowest_ms: float) -> None:
        """Derive the patience from the slowest known batch."""
        self.patience_s = max(LEAST_PATIENCE_S, PATIENCE_FACTOR * slowest_ms / 1000)

    def hold(
        self, token: str, ids: Sequence[str], about: Callable[[], Mapping[str, Any]] = dict
    ) -> None:
        """Renew from now on. A second call, when the model starts, restarts the patience.

        ``about`` returns what log lines say of the jobs.
        """
        self._held[token] = _Held(ids, time.monotonic(), about)

    def ending(self, token: str) -> None:
        """Renew without a word: its end is being stored, and the reply to that says how it went.

        It may have ended already though its holder does not know, as the reply was lost.
        """
        self._ending.add(token)

    def drop(self, token: str) -> None:
        self._held.pop(token, None)
        self._ending.discard(token)

    def _run(self) -> None:
        while not self._stopped.wait(self._lease_ms / 3000):
            for token, held in list(self._held.items()):
                try:
                    self._renew(token, held)
                # This loop must never end: without it each long batch would run twice.
                except Exception:
                    fields = {"fields": held.about()}
                    log.critical("bug while renewing a lease", exc_info=True, extra=fields)

    def _renew(self, token: str, held: _Held) -> None:
        if time.monotonic() - held.since > self.patience_s and token not in self._ending:
            text = "a batch of %d hangs: its jobs go to another worker"
            log.error(text, len(held.ids), extra={"fields": held.about()})
            self.drop(token)
            return
        try:
            if self._store.extend(token, held.ids, self._lease_ms) == 0 and token in self._held:
                if token not in self._ending:
                    text = "lost the lease of a batch of %d"
                    log.warning(text, len(held.ids), extra={"fields": held.about()})
                self.drop(token)
        except QueueError as error:
            # The main loop reports the outage; leases may survive it.
            log.debug("leases not renewed: %s", error, extra={"fields": held.about()})
