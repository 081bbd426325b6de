"""Made-up results of load tests."""

from typing import Any

from imageserve_loadtest.histogram import COARSE, Histogram
from imageserve_loadtest.result import (
    Counts,
    Latencies,
    Load,
    PhaseLoad,
    QueueSnapshot,
    Result,
    Target,
    Timeline,
    TimelinePoint,
    Tool,
    Verdict,
)

SECONDS = 10.0


def histogram(*seconds: float, digits: int = 3) -> Histogram:
    made = Histogram(digits)
    for each in seconds:
        made.record_s(each)
    return made


def a_result(**changes: Any) -> Result:
    """A hundred good answers within ten seconds: 98 in 20 ms, two in 100 ms."""
    good = (*[0.02] * 98, 0.1, 0.1)
    point = TimelinePoint(
        0.0, 100, 100, {"good": 100}, {"200": 100}, histogram(*good, digits=COARSE)
    )
    values: dict[str, Any] = {
        "target": Target("http://localhost:8000", "stand-in", (64, 64)),
        "load": Load(
            scenario="mine",
            loop="open",
            arrivals="constant",
            phases=(PhaseLoad("all", SECONDS, rate_per_s=10.0),),
            seed=1,
            timeout_s=60.0,
            pictures="generated",
            distinct=2000,
            per_request=1,
            broken_share=0.0,
        ),
        "objective": ("errors=0%", "refused=0%"),
        "started_at": "2026-03-01T12:00:00.000+00:00",
        "seconds": SECONDS,
        "counts": Counts(planned=100, sent=100, good=100, pictures=100, statuses={"200": 100}),
        "latency": Latencies(good=histogram(*good), from_send=histogram(*good)),
        "stages": {"model": histogram(*[0.005] * 100)},
        "lateness": histogram(*[0.002] * 100),
        "timeline": Timeline(1.0, (point,)),
        "verdict": Verdict(holds=True),
        "queue": (QueueSnapshot(0.5, 3, 2, 80.0, 1),),
        "tool": Tool("1.2.3", "3.11.7", "laptop", 2, 0.5),
    }
    return Result(**{**values, **changes})
