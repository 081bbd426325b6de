"""What is served and how it is doing: read from the queues when a client asks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from imageserve.errors import QueueError
from imageserve.metrics import Readings
from imageserve.models.entries import ModelEntry
from imageserve.models.stand_in import RUNTIME, is_stand_in
from imageserve.preparation import Preparation
from imageserve.queue.admission import Limits
from imageserve.queue.monitor import Monitor
from imageserve.queue.outputs import given_by_all
from imageserve.queue.preparations import in_force
from imageserve.queue.snapshot import Snapshot, WorkerInfo


class Overview:
    """Reads the queue of each model."""

    def __init__(self, entries: Mapping[str, ModelEntry], monitor: Monitor, limits: Limits) -> None:
        self._entries = entries
        self._monitor = monitor
        self._limits = limits

    def models(self) -> dict[str, dict[str, Any]]:
        """Return what is served under each name (None: unknown)."""
        snapshots = self._snapshots()
        return {name: _model(each, snapshots.get(name)) for name, each in self._entries.items()}

    def status(self) -> dict[str, Any]:
        """Return the state of each queue, without those that could not be read."""
        snapshots = self._snapshots()
        return {
            "models": {
                name: {**_status(snapshot), **self._filling(name, snapshot)}
                for name, snapshot in snapshots.items()
            },
            "redis": "ok" if len(snapshots) == len(self._entries) else "unavailable",
        }

    def readings(self) -> Readings:
        """Return the queues' gauges, without queues that could not be read."""
        return {
            (name, self._entries[name].queue): {
                **_gauges(snapshot),
                **_known({f"imageserve_{k}": v for k, v in self._filling(name, snapshot).items()}),
            }
            for name, snapshot in self._snapshots().items()
        }

    def _filling(self, name: str, snapshot: Snapshot) -> dict[str, int | None]:
        """Return how full a queue and its Redis are, and their limits; None: not known."""
        entry = self._entries[name]
        preparation = in_force(snapshot, entry.name, entry.preparation)
        # As ENQUEUE counts: by the bytes that a picture has now.
        each = preparation.bytes if isinstance(preparation, Preparation) else None
        return {
            "queue_limit": self._limits.max_jobs,
            "queue_bytes": None if each is None else snapshot.backlog * each,
            "queue_bytes_limit": self._limits.max_bytes,
            "redis_bytes": snapshot.redis_bytes or None,
            "redis_bytes_limit": snapshot.redis_bytes_limit or None,
        }

    def _snapshots(self) -> dict[str, Snapshot]:
        """Return the snapshots of the models whose queue could be read."""
        found = self._monitor.snapshots()
        read = ((name, found[entry.queue]) for name, entry in self._entries.items())
        return {name: each for name, each in read if not isinstance(each, QueueError)}


def _gauges(snapshot: Snapshot) -> dict[str, float]:
    gauges: dict[str, float | None] = {
        "imageserve_queue_length": snapshot.waiting,
        "imageserve_queue_background": snapshot.background,
        "imageserve_queue_in_flight": snapshot.in_flight,
        "imageserve_queue_oldest_seconds": snapshot.oldest_ms / 1000,
        "imageserve_queue_dead": snapshot.dead,
        "imageserve_capacity_per_second": round(snapshot.capacity_per_s, 2),
        "imageserve_web_capacity_per_second": _rounded(snapshot.web_capacity_per_s),
        "imageserve_workers": len(snapshot.tables),
    }
    return _known(gauges)


def _known(gauges: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in gauges.items() if value is not None}


def _model(entry: ModelEntry, snapshot: Snapshot | None) -> dict[str, Any]:
    workers = snapshot.live_workers if snapshot else []
    # What runs is what the workers say. Where none lives, or old ones are silent, the settings of
    # the web process say whether a stand-in is to run.
    told = {worker.runtime for worker in workers} - {""}
    preparation: Preparation | str | None = entry.preparation
    if snapshot:
        preparation = in_force(snapshot, entry.name, entry.preparation)
    known = preparation if isinstance(preparation, Preparation) else None
    return {
        "queue": entry.queue,
        "input_size": list(known.size) if known else None,
        "interpolation": known.interpolation if known else None,
        "preparation": asdict(known) if known else None,
        "workers": len(workers) if snapshot else None,
        "runtime": next(iter(told)) if len(told) == 1 else None,
        **_outputs([each for each in workers if each.model == entry.name]),
        "stand_in": told == {RUNTIME} if told else is_stand_in(entry.network),
    }


def _outputs(workers: Sequence[WorkerInfo]) -> dict[str, Any]:
    """Return what all workers give, and how; None where they do not say, or not the same."""
    known = [worker.outputs for worker in workers if worker.outputs]
    kinds = {outputs.multi_label for outputs in known}
    classes = {worker.classes for worker in workers} - {0}
    return {
        "outputs": given_by_all(workers) if known else None,
        "multi_label": kinds.pop() if len(kinds) == 1 else None,
        "classes": classes.pop() if len(classes) == 1 else None,
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 2)


def _status(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "queued": snapshot.waiting,
        "background": snapshot.background,
        "in_flight": snapshot.in_flight,
        "completed": snapshot.stats.get("completed", 0),
        "oldest_ms": snapshot.oldest_ms,
        "expected_wait_ms": snapshot.expected_wait_ms,
        "capacity_per_s": round(snapshot.capacity_per_s, 2),
        "web_capacity_per_s": _rounded(snapshot.web_capacity_per_s),
        "dead": snapshot.dead,
        "workers": [
            {
                "id": worker.id,
                "host": worker.host,
                "state": worker.state,
                "last_seen_ms": snapshot.now - worker.last_seen,
                "version": worker.version,
                "problem": worker.problem,
            }
            for worker in snapshot.workers
        ],
    }
