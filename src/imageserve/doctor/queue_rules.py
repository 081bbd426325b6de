"""What is wrong with queues, workers and limits. Pure."""

from collections import Counter
from collections.abc import Iterator

from imageserve.config.settings import Settings
from imageserve.doctor.facts import Facts, Found
from imageserve.models.stand_in import RUNTIME
from imageserve.queue.snapshot import LIVE_MS, Snapshot, per_second

SLOW = 0.5
"""A worker that does less than this share of the fastest one of its model is too slow."""
SMALLER = 0.5
"""A side that can do less than this share of the other leaves the other idle."""


def queue_findings(facts: Facts) -> Iterator[Found]:
    for model, snapshot in facts.snapshots():
        yield from _workers(model, snapshot)
        yield from _versions(model, snapshot)
        yield from _capacity(model, snapshot)
        yield from _room(model, snapshot, facts.settings)
        if snapshot.dead:
            what = f"{snapshot.dead} pictures of model {model} were given up"
            if reasons := facts.queues[model].reasons:
                often, count = Counter(reasons).most_common(1)[0]
                what += f"; of the last {len(reasons)}, {count} because: {often}"
            yield "dead", what
    limits = facts.settings
    if limits.max_attempts > 1 and limits.lease_s >= limits.request_timeout_s / 2:
        what = f"LEASE_S is {limits.lease_s:g}, REQUEST_TIMEOUT_S {limits.request_timeout_s:g}: "
        yield "lease-too-long", what + "no time is left to do again what a killed worker had"
    for queue in facts.other_queues:
        what = f"workers take jobs from the queue {queue}, which no model of these settings has"
        yield "queue-without-model", what
    for line in facts.unfit_keys:
        yield "unfit-key", f"API_KEYS_FILE, {line}"


def _workers(model: str, snapshot: Snapshot) -> Iterator[Found]:
    live = snapshot.live_workers
    if not live:
        name = "no-workers" if snapshot.waiting else "idle-without-workers"
        yield name, f"model {model} has no live worker; {snapshot.waiting} pictures wait"
    served = {worker.model for worker in live}
    if len(served) > 1:
        yield "two-models", f"workers of {' and '.join(sorted(served))} share the queue of {model}"
    elif served and served != {model}:
        yield "wrong-model", f"the workers on the queue of model {model} serve {served.pop()}"
    if any(worker.runtime == RUNTIME for worker in live):
        yield "stand-in", f"model {model} is a stand-in: its labels are made up"
    silent = [w.id for w in snapshot.workers if snapshot.now - w.last_seen > LIVE_MS]
    if silent and live:
        yield "silent-workers", f"{len(silent)} workers of {model} are silent, such as {silent[0]}"


def _versions(model: str, snapshot: Snapshot) -> Iterator[Found]:
    live = snapshot.live_workers
    for worker in live:
        if worker.problem:
            yield "worker-problem", f"worker {worker.id} of model {model}: {worker.problem}"
    versions = sorted({worker.version or "none" for worker in live})
    if len(versions) > 1 and not any(worker.loading for worker in live):
        yield "versions-differ", f"workers of model {model} serve versions {', '.join(versions)}"


def _capacity(model: str, snapshot: Snapshot) -> Iterator[Found]:
    web, workers = snapshot.web_capacity_per_s, snapshot.capacity_per_s
    if web and workers and min(web, workers) < SMALLER * max(web, workers):
        side = "web processes" if web < workers else "workers"
        what = f"the {side} of model {model} can do {min(web, workers):.0f} pictures a second, "
        yield "capacity-differs", what + f"the other side {max(web, workers):.0f}"
    speeds = {worker.id: per_second(worker.bucket_ms) for worker in snapshot.live_workers}
    best = max(speeds.values(), default=0.0)
    for worker, speed in speeds.items():
        if speed < SLOW * best:
            what = f"worker {worker} of model {model} does {speed:.0f} pictures a second, "
            yield "slow-worker", what + f"the fastest one {best:.0f}"


def _room(model: str, snapshot: Snapshot, limits: Settings) -> Iterator[Found]:
    """Look whether limits leave room for what the workers take at once, and time for a batch."""
    live, half_ms = snapshot.live_workers, 500 * limits.request_timeout_s
    longest_ms = max((max(w.bucket_ms.values(), default=0.0) for w in live), default=0.0)
    if longest_ms > half_ms:
        what = f"a batch of model {model} takes {longest_ms / 1000:.1f} s, more than half of "
        yield "batch-too-long", what + f"REQUEST_TIMEOUT_S, {limits.request_timeout_s:g}"
    elif live and snapshot.oldest_ms > half_ms:
        what = f"the oldest picture of {model} has waited for {snapshot.oldest_ms / 1000:.0f} s"
        yield "queue-old", what
    taken = 2 * sum(worker.batch_size for worker in live)
    size = max((w.shape[0] * w.shape[1] * w.shape[2] for w in live), default=0)
    if taken > limits.queue_limit or taken * size > limits.queue_bytes_limit:
        what = f"two batches for each worker of {model}, {taken} pictures of {size} bytes, are "
        yield "queue-too-small", what + "more than its queue may hold"
