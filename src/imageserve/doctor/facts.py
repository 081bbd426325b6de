"""What the doctor has seen of a system. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from imageserve.config.settings import Settings
from imageserve.errors import QueueError
from imageserve.queue.snapshot import Snapshot

Object = Mapping[str, Any]
Found = tuple[str, str]
"""The name of a finding, of `imageserve.doctor.advice`, and what was seen."""


class WebFacts(NamedTuple):
    """One web server: what it says at ``/status`` and ``/metrics``."""

    url: str
    status: Object
    metrics: str
    problem: str = ""
    """Why it cannot be asked."""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was seen; what could not be seen is empty."""

    now_ms: int
    """By the clock of the doctor's machine, since the epoch, in the middle of reading queues."""
    settings: Settings = field(default_factory=Settings)
    queues: Mapping[str, Snapshot | QueueError] = field(default_factory=dict)
    """By model."""
    dead: Mapping[str, Sequence[Object]] = field(default_factory=dict)
    """By model: the newest entries of the dead list."""
    infos: tuple[Object, ...] = ()
    """Of each Redis."""
    other_queues: tuple[str, ...] = ()
    """Queues with workers that no setting names."""
    keys_problem: str = ""
    web: WebFacts | None = None
    deployments: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    """Of the release, as Kubernetes gives them."""

    def snapshots(self) -> Iterator[tuple[str, Snapshot]]:
        """Yield each model whose queue could be read."""
        for model, read in self.queues.items():
            if isinstance(read, Snapshot):
                yield model, read


def holding(*rules: tuple[object, str, str]) -> Iterator[Found]:
    """Yield name and sentence of the rules whose first element, a condition, holds."""
    return ((name, what) for holds, name, what in rules if holds)
