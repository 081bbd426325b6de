"""How one model is sized: the settings, their defaults and their ranges."""

from dataclasses import dataclass, field, fields
from typing import Any

from imageserve.config.choices import BATCH_SIZES, DEFAULT_BATCH_SIZE
from imageserve.config.reader import Parser, number, one_of, parsed, whole
from imageserve.errors import SettingsError


def _setting(default: Any, parse: Parser[Any]) -> Any:
    return field(default=default, metadata={"parse": parse})


@dataclass(frozen=True, slots=True)
class Policy:
    """How one model is sized. Each field is also a value of the chart, under ``scaling``.

    There ``target_wait_s`` is called ``targetWaitSeconds``. Raises SettingsError that names the
    field where a value cannot be used.
    """

    min_replicas: int = _setting(1, whole(0, 10_000))
    """Fewest pods. 0: no pod while there are no requests; see ``scale_to_zero_after_s``."""
    max_replicas: int = _setting(4, whole(1, 10_000))
    """Most pods, whatever the load."""
    batch_size: int = _setting(DEFAULT_BATCH_SIZE, whole(*BATCH_SIZES))
    """Most pictures in one batch: ``BATCH_SIZE`` of the workers."""
    target_utilization: float = _setting(0.6, number(0.05, 1))
    """Share of a pod's capacity that the usual load may use. The rest absorbs bursts, and the load
    that arrives while a new pod starts."""
    target_wait_s: float = _setting(2.0, number(0.01, 3600))
    """Longest time that a picture should wait in the queue. Batches that take longer do not count
    as capacity."""
    target_drain_s: float = _setting(30.0, number(1, 3600))
    """A backlog longer than ``target_wait_s`` should be gone within this time."""
    arrivals_window_s: float = _setting(120.0, number(5, 3600))
    """The arrival rate is measured over this time."""
    burst_window_s: float = _setting(10.0, number(5, 3600))
    """The arrival rate is also measured over this shorter time. Where it is clearly higher it
    counts, but only for adding pods."""
    tolerance: float = _setting(0.1, number(0, 1))
    """With ten pods or more, growth by a smaller share than this is ignored. A pod is removed only
    if the others could serve this share of load more."""
    scale_up_period_s: float = _setting(15.0, number(0, 3600))
    """Period of the limits on adding pods."""
    scale_up_max_factor: float = _setting(2.0, number(1, 100))
    """Within a period the pods grow at most by this factor, or by ``scale_up_max_pods``, whichever
    is more."""
    scale_up_max_pods: int = _setting(6, whole(1, 10_000))
    """See ``scale_up_max_factor``."""
    scale_down_window_s: float = _setting(300.0, number(0, 86_400))
    """Pods are removed only when no number that was wanted within this time was higher."""
    scale_down_period_s: float = _setting(60.0, number(0, 3600))
    """Period of the limit on removing pods."""
    scale_down_max_fraction: float = _setting(0.5, number(0.01, 1))
    """Within a period at most this share of the pods is removed; one pod always may be."""
    scale_to_zero_after_s: float = _setting(900.0, number(0, 86_400))
    """With ``min_replicas`` 0, the last pod is removed when no job has come for this long."""
    service_rate_per_replica: float = _setting(0.0, number(0, 1_000_000))
    """Pictures per second of one pod, until a worker has published its own times. 0: not known;
    until then nothing but the wake-up from zero is decided."""
    pod_start_s: float = _setting(60.0, number(0, 3600))
    """Time that a pod takes until it serves (node, image, model, warm-up), until it has been
    measured."""
    max_unschedulable: int = _setting(2, whole(0, 10_000))
    """While pods have had no node for a minute, at most this many more pods than those that serve
    are asked for."""
    budget_weight: float = _setting(1.0, number(0.01, 100))
    """What a picture in time is worth beside one of another model, where both share a budget of
    GPUs that is too small for them."""

    foresight: str = _setting("auto", one_of("auto", "off"))
    """Whether pods are started for jumps that the memory of the last weeks expects."""

    def __post_init__(self) -> None:
        for name, parse in PARSERS.items():
            parsed(name, parse, getattr(self, name))
        if self.max_replicas < self.min_replicas:
            raise SettingsError("max_replicas: must not be below min_replicas")
        if self.burst_window_s > self.arrivals_window_s:
            raise SettingsError("burst_window_s: must not be above arrivals_window_s")


PARSERS = {f.name: f.metadata["parse"] for f in fields(Policy)}
"""The parser of each field."""
