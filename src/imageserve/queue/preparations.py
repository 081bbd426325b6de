"""How pictures for a queue are prepared: what its workers say, and what is kept of that. Pure.

A preparation belongs to a version of a model, so the workers know it; web processes read it from
the snapshot that admission has anyway. ``{Q}:preparation`` keeps the last one, so that a model that
was scaled to zero gets pictures of the right kind and is woken by them.
"""

import json
from collections import defaultdict
from collections.abc import Iterable

from imageserve.config.choices import DEFAULT_INTERPOLATION
from imageserve.preparation import Preparation, decode_preparation, encode_preparation
from imageserve.queue.fields import json_object
from imageserve.queue.snapshot import Snapshot, WorkerInfo, per_second

MOST_BYTES = 1024
"""Most that is kept."""

NEVER_SEEN = "no worker of it has been seen yet, and the settings do not say its input size"


def in_force(snapshot: Snapshot, model: str, own: Preparation | None) -> Preparation | str:
    """Return how pictures for a model are prepared, or why that is not known.

    Only workers of its name count. ``own`` is what settings and files say, where they say enough.
    """
    workers = [each for each in snapshot.live_workers if each.model == model]
    old = [each for each in workers if each.preparation is None]
    if old:
        return _most_capable(_as_in_0_1_0(old, own))
    known = [
        (each.preparation, each) for each in workers if isinstance(each.preparation, Preparation)
    ]
    if known:
        return _most_capable(known)
    if workers:
        return f"its workers are of a later release: update this one ({workers[0].preparation})"
    return _decode_kept(snapshot.kept, model) or own or NEVER_SEEN


def _as_in_0_1_0(
    workers: Iterable[WorkerInfo], own: Preparation | None
) -> list[tuple[Preparation, WorkerInfo]]:
    """Return what workers of 0.1.0 take: squeezed pictures, resized as the settings say."""
    interpolation = own.interpolation if own else DEFAULT_INTERPOLATION
    return [(Preparation(each.shape[:2], interpolation=interpolation), each) for each in workers]


def _most_capable(workers: Iterable[tuple[Preparation, WorkerInfo]]) -> Preparation:
    """Return the preparation of those that do most pictures a second together."""
    per_s: dict[Preparation, float] = defaultdict(float)
    for preparation, worker in workers:
        per_s[preparation] += per_second(worker.bucket_ms)
    return max(per_s, key=lambda each: (per_s[each], each.fingerprint))


def encode_kept(info: WorkerInfo) -> str:
    """Write the value of ``{Q}:preparation`` for a worker; "" leaves it as it is."""
    if not isinstance(info.preparation, Preparation):
        return ""
    told = {"model": info.model, "preparation": encode_preparation(info.preparation)}
    text = json.dumps(told, separators=(",", ":"))
    return text if len(text) <= MOST_BYTES else ""


def _decode_kept(text: str, model: str) -> Preparation | None:
    """Read what `encode_kept` wrote; None where it is of another model or cannot be read.

    A wrong one harms nobody: a job says how its picture was prepared, and the first worker that
    comes corrects both.
    """
    try:
        told = json_object(text)
        return decode_preparation(told.get("preparation")) if told.get("model") == model else None
    except ValueError:
        return None
