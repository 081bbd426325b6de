"""What is served and how it is doing: read from the queues when somebody asks."""

import logging
from collections.abc import Mapping
from typing import Any

from imageserve.errors import QueueError
from imageserve.metrics import QueueReadings
from imageserve.queue.capacity import expected_wait_ms, per_second
from imageserve.queue.queue import Snapshot, live_tables
from imageserve.web.predictor import Served

log = logging.getLogger(__name__)


class Overview:
    """Reads every model's queue."""

    def __init__(self, models: Mapping[str, Served]) -> None:
        self._models = models

    def models(self) -> dict[str, dict[str, Any]]:
        """Return the models with their queue, input size and live workers (None: unknown)."""
        snapshots = self._snapshots()
        return {
            name: {
                "queue": served.entry.queue,
                "input_size": list(served.entry.input_size),
                "interpolation": served.entry.interpolation,
                "workers": len(live_tables(snapshots[name])) if name in snapshots else None,
            }
            for name, served in self._models.items()
        }

    def status(self) -> dict[str, Any]:
        """Return the state of every queue; without the models Redis was not asked about."""
        snapshots = self._snapshots()
        return {
            "models": {name: _status(snapshot) for name, snapshot in snapshots.items()},
            "redis": "ok" if len(snapshots) == len(self._models) else "unavailable",
        }

    def readings(self) -> QueueReadings:
        """Return the queues' gauges; nothing for a queue that cannot be read."""
        return {
            (name, self._models[name].entry.queue): {
                "imageserve_queue_length": snapshot.queued + snapshot.retry,
                "imageserve_queue_in_flight": snapshot.in_flight,
                "imageserve_queue_oldest_seconds": snapshot.oldest_ms / 1000,
                "imageserve_queue_dead": snapshot.dead,
                "imageserve_capacity_per_second": _capacity(snapshot),
                "imageserve_workers": len(live_tables(snapshot)),
            }
            for name, snapshot in self._snapshots().items()
        }

    def _snapshots(self) -> dict[str, Snapshot]:
        snapshots = {}
        for name, served in self._models.items():
            try:
                snapshots[name] = served.queue.snapshot()
            except QueueError as error:
                log.debug("queue %s cannot be read: %s", served.entry.queue, error)
                break  # One Redis: the next queue would only take another time-out.
        return snapshots


def _capacity(snapshot: Snapshot) -> float:
    return round(sum(map(per_second, live_tables(snapshot))), 2)


def _status(snapshot: Snapshot) -> dict[str, Any]:
    wait_ms = expected_wait_ms(snapshot.backlog, _capacity(snapshot))
    return {
        "queued": snapshot.queued + snapshot.retry,
        "in_flight": snapshot.in_flight,
        "oldest_ms": snapshot.oldest_ms,
        "expected_wait_ms": None if wait_ms is None else round(wait_ms),
        "capacity_per_s": _capacity(snapshot),
        "dead": snapshot.dead,
        "workers": [
            {
                "id": worker.id,
                "host": worker.host,
                "state": worker.state,
                "last_seen_ms": snapshot.now - worker.last_seen,
                "version": worker.version,
            }
            for worker in snapshot.workers
        ],
    }
