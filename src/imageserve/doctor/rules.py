"""What is wrong with Redis, the web server, queues, workers and limits. Pure."""

import re
from collections import Counter
from collections.abc import Iterator

from imageserve.config.settings import Settings
from imageserve.doctor.facts import Facts, Found, Object, holding
from imageserve.errors import QueueError, QueueUnavailable
from imageserve.models.stand_in import RUNTIME
from imageserve.queue.self_test import MAXMEMORY_SHARE
from imageserve.queue.snapshot import LIVE_MS, Snapshot, per_second

FULL, SLOW, CLOCK_S = 0.9, 0.5, 2.0
"""The share of maxmemory from which on Redis is full; the share of what others can do below which
one is too slow; how far clocks may differ."""
_BUGS = re.compile(r'^imageserve_requests_total\{.*status="500".*\} (\S+)$', re.MULTILINE)


def redis_findings(facts: Facts) -> Iterator[Found]:
    for model, read in facts.queues.items():
        if isinstance(read, QueueError):
            name = "redis-away" if isinstance(read, QueueUnavailable) else "redis-refuses"
            yield name, f"the queue of model {model}: {read}"
    # On a cluster each queue may be on a node of its own.
    queues = 1 if len(facts.infos) > 1 else len(facts.queues)
    for info in facts.infos:
        yield from _redis(info, queues * facts.settings.queue_bytes_limit)
    for _, snapshot in facts.snapshots():
        late_s = (facts.now_ms - snapshot.now) / 1000
        side = "behind" if late_s > 0 else "ahead of"
        what = f"the clock of Redis is {abs(late_s):.0f} s {side} that of this machine"
        yield from holding((abs(late_s) > CLOCK_S, "clock", what))


def _redis(info: Object, wanted: int) -> Iterator[Found]:
    """``wanted``: bytes that full queues take."""
    parts = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    failed = [f"{each}: {info[each]}" for each in parts if info.get(each, "ok") != "ok"]
    most, used = int(info.get("maxmemory") or 0), int(info.get("used_memory") or 0)
    evicted, policy = info.get("evicted_keys"), info.get("maxmemory_policy", "noeviction")
    evicts = f"Redis has maxmemory-policy {policy}: when full it throws pictures away"
    no_aof = "Redis keeps no append-only file: a restart loses the waiting pictures"
    room = f"full queues take {wanted >> 20} MiB: too much for a maxmemory of {most >> 20} MiB"
    yield from holding(
        (info.get("role") == "slave", "redis-replica", "Redis is a replica: it takes no jobs"),
        (failed, "redis-disk", f"Redis cannot write to its disk: {', '.join(failed)}"),
        (not info.get("aof_enabled"), "redis-no-aof", no_aof),
        (most and policy != "noeviction", "redis-evicts", evicts),
        (evicted, "redis-evicted", f"Redis has thrown {evicted} keys away since its start"),
        (not most, "redis-no-maxmemory", "Redis has no maxmemory: the system may kill it"),
        (
            used > FULL * most > 0,
            "redis-full",
            f"Redis uses {used / (most or 1):.0%} of its maxmemory",
        ),
        (wanted > MAXMEMORY_SHARE * most > 0, "queue-larger-than-redis", room),
    )


def web_findings(facts: Facts) -> Iterator[Found]:
    if not facts.web:
        return
    url, status, metrics, problem = facts.web
    there = status.get("models", {})
    blind = not problem and status.get("redis") != "ok"
    differs = not problem and not blind and facts.queues.keys() != there.keys()
    others = f"the web server serves {', '.join(there)}; these settings: {', '.join(facts.queues)}"
    yield from holding(
        (problem, "web-away", f"the web server at {url} does not answer: {problem}"),
        (blind, "web-without-redis", "the web server cannot read all of its queues"),
        (differs, "other-models", others),
    )
    for model, snapshot in facts.snapshots():
        told = {worker["id"] for worker in there.get(model, {}).get("workers", ())}
        seen = {worker.id for worker in snapshot.workers}
        what = f"the web server sees other workers of model {model} than this command"
        yield from holding((told and seen and not told & seen, "other-workers", what))
    bugs = int(sum(map(float, _BUGS.findall(metrics))))
    yield from holding((bugs, "bugs", f"{bugs} requests were answered 500 since its start"))


def queue_findings(facts: Facts) -> Iterator[Found]:
    limits = facts.settings
    for model, snapshot in facts.snapshots():
        yield from _workers(model, snapshot)
        yield from _speeds(model, snapshot)
        yield from _room(model, snapshot, limits)
        if snapshot.dead:
            what = f"{snapshot.dead} pictures of model {model} were given up"
            if newest := facts.dead.get(model):
                often, count = Counter(each["reason"] for each in newest).most_common(1)[0]
                what += f"; of the last {len(newest)}, {count} because: {often}"
            yield "dead", what
    lease = f"LEASE_S ({limits.lease_s:g}) leaves no time to do again what a killed worker had"
    late = limits.max_attempts > 1 and limits.lease_s >= limits.request_timeout_s / 2
    yield from holding(
        (late, "lease-too-long", lease),
        (facts.keys_problem, "unfit-key", facts.keys_problem),
    )
    for queue in facts.other_queues:
        yield "queue-without-model", f"workers use the queue {queue}, which no model here has"


def _workers(model: str, snapshot: Snapshot) -> Iterator[Found]:
    live, wait = snapshot.live_workers, snapshot.waiting
    served = sorted({worker.model for worker in live})
    wrong = f"the workers on the queue of model {model} serve {' and '.join(served)}"
    silent = [w.id for w in snapshot.workers if snapshot.now - w.last_seen > LIVE_MS and live]
    versions = sorted({worker.version or "none" for worker in live})
    differ = len(versions) > 1 and not any(worker.loading for worker in live)
    stand_in = any(worker.runtime == RUNTIME for worker in live)
    nobody, of = f"model {model} has no live worker", f"workers of model {model}"
    yield from holding(
        (not live and wait, "no-workers", f"{nobody}, and {wait} pictures wait"),
        (not live and not wait, "idle-without-workers", f"{nobody}; no picture waits"),
        (live and served != [model], "wrong-model", wrong),
        (stand_in, "stand-in", f"model {model} is a stand-in: its labels are made up"),
        (silent, "silent-workers", f"{of} are silent: {', '.join(silent)}"),
        (differ, "versions-differ", f"{of} serve versions {', '.join(versions)}"),
    )
    for w in live:
        told = f"worker {w.id} of model {model}: {w.problem}"
        yield from holding((w.problem, "worker-problem", told))


def _speeds(model: str, snapshot: Snapshot) -> Iterator[Found]:
    # More than the workers can do is no fault: web processes are cheap, workers are scaled.
    web, workers = snapshot.web_capacity_per_s, snapshot.capacity_per_s
    less = (
        f"web processes decode {web or 0:.0f} pictures of {model} a second, workers {workers:.0f}"
    )
    yield from holding((web and web < SLOW * workers, "capacity-differs", less))
    speeds = {worker.id: per_second(worker.bucket_ms) for worker in snapshot.live_workers}
    best = max(speeds.values(), default=0.0)
    for worker, speed in speeds.items():
        what = f"worker {worker} of model {model} does {speed:.0f} pictures a second, "
        yield from holding((speed < SLOW * best, "slow-worker", f"{what}the fastest {best:.0f}"))


def _room(model: str, snapshot: Snapshot, limits: Settings) -> Iterator[Found]:
    """Look whether limits leave room for what the workers take at once, and time for a batch."""
    live = snapshot.live_workers
    longest_s = max((ms for w in live for ms in w.bucket_ms.values()), default=0.0) / 1000
    batch = f"a batch of model {model} takes {longest_s:.1f} s: over half of REQUEST_TIMEOUT_S"
    taken = 2 * sum(worker.batch_size for worker in live)
    size = max((w.shape[0] * w.shape[1] * w.shape[2] for w in live), default=0)
    little = taken > limits.queue_limit or taken * size > limits.queue_bytes_limit
    room = f"two batches for each worker of model {model}, {taken} pictures of {size} bytes, are "
    yield from holding(
        (longest_s > limits.request_timeout_s / 2, "batch-too-long", batch),
        (little, "queue-too-small", f"{room}more than its queue may hold"),
    )
