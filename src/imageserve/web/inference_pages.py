"""What the Open Inference Protocol tells of the server and of its models, read from the queues."""

from collections.abc import Mapping
from typing import Any

from imageserve import __version__
from imageserve.errors import NotFound, QueueError, RequestError, told
from imageserve.inference.contract import (
    OUTPUTS,
    PROBABILITIES,
    ServedModelFacts,
    model_config,
    model_metadata,
    server_metadata,
    version_name,
)
from imageserve.inference.statistics import model_statistics
from imageserve.models.entries import ModelEntry
from imageserve.preparation import Preparation
from imageserve.queue.monitor import Monitor
from imageserve.queue.outputs import given_by_all, versions
from imageserve.queue.preparations import in_force
from imageserve.queue.snapshot import Snapshot
from imageserve.web.refusals import check_version, redis_unavailable, unknown_model

Told = dict[str, Any]

MISSING: Mapping[str, str] = {
    "repository": "there is no model repository: operators change models by `imageserve models`",
    "systemsharedmemory": "shared memory is not served: send tensors in the request",
    "cudasharedmemory": "shared memory is not served: send tensors in the request",
    "logging": "the log is set up by settings",
    "trace": "tracing is set up by settings; a request is traced if its traceparent is sampled",
}
"""Parts of the protocol that would change something -> why they are not there."""


class InferencePages:
    """Answers all of the protocol but inference.

    Raises UnknownModel, UnknownVersion, and RedisUnavailable where a queue cannot be read.
    """

    def __init__(
        self, entries: Mapping[str, ModelEntry], monitor: Monitor, most_pictures: int
    ) -> None:
        """``most_pictures``: of one request."""
        self._entries = entries
        self._monitor = monitor
        self._most_pictures = most_pictures

    def server(self) -> Told:
        return server_metadata(__version__)

    def metadata(self, model: str, version: str = "") -> Told:
        return model_metadata(self._facts(model, version))

    def config(self, model: str, version: str = "") -> Told:
        return model_config(self._facts(model, version))

    def is_ready(self, model: str, version: str = "") -> bool:
        """Whether a worker lives that serves the model, in this version where one is named."""
        entry = self._entry(model)
        served = map(version_name, versions(self._snapshot(entry), entry.name))
        return version in served if version else any(served)

    def statistics(self, model: str = "", version: str = "") -> Told:
        """Return the statistics of one model, or of all."""
        entries = [self._entry(model)] if model else list(self._entries.values())
        return {"model_stats": [self._statistics(each, version) for each in entries]}

    def _statistics(self, entry: ModelEntry, version: str) -> Told:
        snapshot = self._snapshot(entry)
        facts = self._checked(entry, snapshot, version)
        newest = version or version_name(facts.versions[-1] if facts.versions else "")
        return model_statistics(entry.name, newest, snapshot.stats)

    def _facts(self, model: str, version: str) -> ServedModelFacts:
        entry = self._entry(model)
        return self._checked(entry, self._snapshot(entry), version)

    def _checked(self, entry: ModelEntry, snapshot: Snapshot, version: str) -> ServedModelFacts:
        facts = served_facts(entry, snapshot, self._most_pictures)
        if version:
            check_version(version, entry.name, facts.versions)
        return facts

    def _entry(self, model: str) -> ModelEntry:
        if model not in self._entries:
            raise unknown_model(model, self._entries)
        return self._entries[model]

    def _snapshot(self, entry: ModelEntry) -> Snapshot:
        found = self._monitor.snapshots()[entry.queue]
        if isinstance(found, QueueError):
            raise redis_unavailable()
        return found


def served_facts(entry: ModelEntry, snapshot: Snapshot, most_pictures: int) -> ServedModelFacts:
    """Return what a queue tells of its model."""
    workers = [each for each in snapshot.live_workers if each.model == entry.name]
    preparation = in_force(snapshot, entry.name, entry.preparation)
    classes = {worker.classes for worker in workers} - {0}
    runtimes = {worker.runtime for worker in workers} - {""}
    given = given_by_all(workers) if workers else []
    return ServedModelFacts(
        name=entry.name,
        versions=tuple(map(version_name, versions(snapshot, entry.name))),
        shape=preparation.shape if isinstance(preparation, Preparation) else None,
        classes=classes.pop() if len(classes) == 1 else 0,
        outputs=tuple(name for name, vector in OUTPUTS.items() if vector in given)
        or (PROBABILITIES,),
        most_pictures=most_pictures,
        runtime=runtimes.pop() if len(runtimes) == 1 else "",
    )


def not_served(path: str) -> RequestError:
    """Return the error for an address below ``/v2`` at which there is nothing."""
    part = path.removeprefix("/v2/").partition("/")[0]
    return NotFound(MISSING.get(part, f"there is nothing at {told(path, 200)}"))
