"""What the doctor has seen of a system. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from imageserve.config.settings import Settings
from imageserve.queue.snapshot import Snapshot

Object = Mapping[str, Any]
"""JSON."""


Found = tuple[str, str]
"""The name of a finding, of `imageserve.doctor.advice`, and what was seen."""


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """One model's queue."""

    queue: str
    snapshot: Snapshot | None = None
    problem: str = ""
    """Why there is no snapshot."""
    is_forbidden: bool = False
    """Redis answers and refuses; otherwise it does not answer."""
    reasons: tuple[str, ...] = ()
    """Of the newest entries of the dead list."""


class Sample(NamedTuple):
    """One line of ``/metrics``."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class WebFacts:
    """One web server, over HTTP."""

    url: str
    problem: str = ""
    """Why it cannot be asked."""
    status: Object = field(default_factory=dict)
    """Its ``/status``."""
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """All that was seen; what could not be seen is empty."""

    now_ms: int
    """By the clock of the doctor's machine, since the epoch, at the middle of the reading."""
    settings: Settings = field(default_factory=Settings)
    """Those of the doctor, best the same as the web server's."""
    queues: Mapping[str, QueueFacts] = field(default_factory=dict)
    """By model."""
    servers: tuple[Object, ...] = ()
    """INFO of each Redis."""
    other_queues: tuple[str, ...] = ()
    """Queues with workers that no setting names."""
    unfit_keys: tuple[str, ...] = ()
    """Lines of API_KEYS_FILE that can be no key."""
    web: WebFacts | None = None
    deployments: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    """Of the release, as Kubernetes gives them."""

    def snapshots(self) -> Iterator[tuple[str, Snapshot]]:
        """Yield each model whose queue could be read."""
        for model, queue in self.queues.items():
            if queue.snapshot:
                yield model, queue.snapshot


_LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def samples_of(text: str) -> tuple[Sample, ...]:
    """Read ``/metrics``."""
    return tuple(
        Sample(name, dict(_LABEL.findall(labels)), float(value))
        for name, labels, value in _LINE.findall(text)
    )
