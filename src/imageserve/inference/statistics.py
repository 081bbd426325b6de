"""From a queue's counters to the statistics of the protocol. Pure.

FINISH keeps the counters, in Redis: every web process says the same. Each picture is a request of
its own here. Workers of 0.1.0 add the numbers of pictures and of batches, and no times.
"""

import re
from collections.abc import Mapping
from typing import Any

Counters = Mapping[str, int]

_CALLS = re.compile("calls:([0-9]{1,9})")


def model_statistics(name: str, version: str, counters: Counters) -> dict[str, Any]:
    """Return the statistics of one model; times of the counters are microseconds."""
    completed, failed = counters.get("completed", 0), counters.get("failed", 0)
    expired = counters.get("expired", 0)
    queue_us, model_us = counters.get("queue_us", 0), counters.get("model_us", 0)
    return {
        "name": name,
        "version": version,
        "last_inference": counters.get("last_ms", 0),
        "inference_count": completed,
        "execution_count": counters.get("batches", 0),
        "inference_stats": {
            "success": _duration(completed, queue_us + model_us),
            "fail": _duration(failed + expired, counters.get("failed_us", 0)),
            "queue": _duration(completed, queue_us),
            # Pictures are decoded and prepared before they are queued.
            "compute_input": _duration(completed, 0),
            "compute_infer": _duration(completed, model_us),
            "compute_output": _duration(completed, 0),
            "cache_hit": _duration(0, 0),
            "cache_miss": _duration(0, 0),
        },
        "batch_stats": _batches(counters),
    }


def _batches(counters: Counters) -> list[dict[str, Any]]:
    sizes = sorted(int(match[1]) for name in counters if (match := _CALLS.fullmatch(name)))
    return [
        {
            "batch_size": size,
            "compute_input": _duration(counters[f"calls:{size}"], 0),
            "compute_infer": _duration(
                counters[f"calls:{size}"], counters.get(f"calls_us:{size}", 0)
            ),
            "compute_output": _duration(counters[f"calls:{size}"], 0),
        }
        for size in sizes
    ]


def _duration(count: int, us: int) -> dict[str, int]:
    return {"count": count, "ns": 1000 * us}
