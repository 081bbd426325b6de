"""How one model is to be sized: the settings, their defaults, and what they may be."""

import math
from dataclasses import dataclass, fields

from imageserve.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Policy:
    """How one model is to be sized. Each field is a setting of the chart, under ``scaling``.

    The chart writes names its own way: ``target_wait_s`` is ``targetWaitSeconds`` there. Raises
    SettingsError that names the field where a value cannot be used.
    """

    min_replicas: int = 1
    """Fewest pods. 0: none at all while nobody asks for anything; see ``scale_to_zero_after_s``."""
    max_replicas: int = 4
    """Most pods, whatever the load: what the cluster or the bill can bear."""
    batch_size: int = 32
    """Most pictures that a worker takes at once: ``BATCH_SIZE`` of the workers."""
    target_utilization: float = 0.6
    """Share of a pod's capacity that the usual load may take, above 0 to 1. The rest is for chance
    and for what comes while a pod starts."""
    target_wait_s: float = 2.0
    """A picture should not wait longer. Batches that take longer do not count as capacity."""
    target_drain_s: float = 30.0
    """What waits beyond ``target_wait_s`` should be worked off within this time."""
    arrivals_window_s: float = 120.0
    """Arrivals are counted over this time."""
    burst_window_s: float = 10.0
    """Arrivals are also counted over this shorter time, and believed where there are clearly more:
    upwards only."""
    tolerance: float = 0.1
    """From ten pods on, a share of fewer than this more is not worth a change; and a pod goes only
    when the rest would do for this share more of load. 0 to 1."""
    scale_up_period_s: float = 15.0
    """The limit of steps upwards counts what was added within this time."""
    scale_up_max_factor: float = 2.0
    """Within a period the pods at most grow by this factor, or by ``scale_up_max_pods``, whichever
    is more. 1 to 100."""
    scale_up_max_pods: int = 4
    """See ``scale_up_max_factor``."""
    scale_down_window_s: float = 300.0
    """Pods go only when none of the numbers wanted within this time was higher."""
    scale_down_period_s: float = 60.0
    """The limit of steps downwards counts what was removed within this time."""
    scale_down_max_fraction: float = 0.25
    """Within a period at most this share of the pods goes, but one may always. Above 0 to 1."""
    scale_to_zero_after_s: float = 900.0
    """With ``min_replicas`` 0, the last pod goes when no job came for this long."""
    service_rate_per_replica: float = 0.0
    """Pictures a second of one pod until a worker has published its own times. 0: not known; then
    nothing but a wake-up from zero is decided until one has."""
    pod_start_s: float = 60.0
    """How long a pod takes to serve, until that was measured: node, image, model, warm-up."""
    max_unschedulable: int = 2
    """While pods have found no node for a minute, at most so many more than serve are asked for."""

    def __post_init__(self) -> None:
        for each in fields(self):
            self._check_number(each.name, whole=each.type is int)
        for name, low, high in _RANGES:
            if not low <= getattr(self, name) <= high:
                raise SettingsError(f"{name}: must be from {low:g} to {high:g}")
        if self.max_replicas < self.min_replicas:
            raise SettingsError("max_replicas: must not be below min_replicas")
        if self.burst_window_s > self.arrivals_window_s:
            raise SettingsError("burst_window_s: must not be above arrivals_window_s")

    def _check_number(self, name: str, *, whole: bool) -> None:
        value = getattr(self, name)
        kinds = (int,) if whole else (int, float)
        # To Python, True is a number; in YAML, `yes` is True.
        if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
            raise SettingsError(f"{name}: must be a {'whole ' if whole else ''}number")


_RANGES = (
    ("min_replicas", 0, 10_000),
    ("max_replicas", 1, 10_000),
    ("batch_size", 1, 1024),
    ("target_utilization", 0.05, 1),
    ("target_wait_s", 0.01, 3600),
    ("target_drain_s", 1, 3600),
    ("arrivals_window_s", 5, 3600),
    ("burst_window_s", 5, 3600),
    ("tolerance", 0, 1),
    ("scale_up_period_s", 0, 3600),
    ("scale_up_max_factor", 1, 100),
    ("scale_up_max_pods", 1, 10_000),
    ("scale_down_window_s", 0, 86_400),
    ("scale_down_period_s", 0, 3600),
    ("scale_down_max_fraction", 0.01, 1),
    ("scale_to_zero_after_s", 0, 86_400),
    ("service_rate_per_replica", 0, 1_000_000),
    ("pod_start_s", 0, 3600),
    ("max_unschedulable", 0, 10_000),
)
"""Field, least and most."""
