"""The in-memory twin of a queue, for tests within one process.

It keeps the promises of the queue on Redis (one suite runs against both), but not its durability.
Leases and deadlines use the clock that it is given.
"""

import json
import secrets
import threading
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.queues import RedisQueue

from imageserve.errors import QueueError
from imageserve.models.entries import ModelEntry
from imageserve.queue.admission import Admission, EnqueueCode, Limits
from imageserve.queue.consumer import NO_COUNTS, NO_ROOM, Claim, Lease
from imageserve.queue.fields import is_amount
from imageserve.queue.keys import Keys
from imageserve.queue.listener import Breaker, Tickets
from imageserve.queue.monitor import PURGED, Monitor
from imageserve.queue.order import Order
from imageserve.queue.preparations import encode_kept
from imageserve.queue.producer import Producer, ProducerConfig
from imageserve.queue.quota import Quota
from imageserve.queue.redis.exchange import Value
from imageserve.queue.snapshot import (
    SILENT_MS,
    UNKNOWN_PACE,
    Pace,
    Snapshot,
    WebInfo,
    WorkerInfo,
)
from imageserve.queue.wire import (
    BACKGROUND,
    WOULD_TIME_OUT,
    Finished,
    Job,
    Result,
    encode_open_job,
    readable,
    result_of_error,
)
from imageserve.web.predict import ServedModel
from imageserve.web.waiting_room import Places, WaitingRoom


@dataclass
class _Leased:
    token: str
    entry: str
    until: int


class MemoryQueue(RedisQueue):
    """One queue in this process's memory; it delivers results to ``tickets`` itself."""

    def __init__(self, name: str, clock_ms: Callable[[], int]) -> None:
        # No call of the Redis queue's own: nothing of Redis is used.
        self.name = name
        self.keys = Keys(name)
        self.tickets = Tickets(f"{name}:reply:memory")
        self._clock_ms = clock_ms
        self._changed = threading.Condition()
        self._waiting: deque[str] = deque()
        self._retry: deque[str] = deque()
        self._leases: dict[str, _Leased] = {}
        self._attempts: Counter[str] = Counter()
        self._ended_by: dict[str, str] = {}
        self._dead: deque[dict[str, Any]] = deque(maxlen=1000)
        self._pixels: dict[str, tuple[bytes, int]] = {}
        self._results: dict[str, tuple[Result, int]] = {}
        self._ids: dict[str, tuple[str, int]] = {}
        self._stats: Counter[str] = Counter()
        self._workers: dict[str, WorkerInfo] = {}
        self._web: dict[str, WebInfo] = {}
        self._desired = ""
        self._kept = ""
        self.whole_us: dict[str, int] = {}
        """By the name of a quota: when it is whole again, as Redis has it."""

    def enqueue(self, job: Job, pixels: bytes, timeout_ms: int, limits: Limits) -> Admission:
        with self._changed:
            now = self._clock_ms()
            reply, until = self._ids.get(job.id, ("", 0))
            if until > now:
                is_own = reply == job.reply
                return Admission(EnqueueCode.OWN_RETRY if is_own else EnqueueCode.COLLISION, 0)
            job = replace(job, ts=now, deadline=now + timeout_ms)
            admission = self._admission(job, limits)
            if admission.code is not EnqueueCode.ACCEPTED:
                self._drop_dead_heads(now)
                admission = self._admission(job, limits)
            if admission.code is not EnqueueCode.ACCEPTED:
                self._stats["rejected"] += 1
                return admission
            accepted, wait_ms = self._count(limits.quota, limits.together)
            if not accepted:
                return Admission(EnqueueCode.RATE_LIMITED, self._backlog(), wait_ms)
            self._accept(job, pixels)
            return Admission(EnqueueCode.ACCEPTED, self._backlog(), wait_ms)

    def _count(self, quota: Quota | None, together: int) -> tuple[bool, int]:
        """Count a job of a quota, if it may come; return when it, or the next one, may, in ms."""
        if quota is None:
            return True, 0
        now_us, all_us = 1000 * self._clock_ms(), quota.burst * quota.interval_us
        kept_us = self.whole_us.get(quota.name, 0) - now_us
        used_us = min(max(kept_us, 0), all_us) + quota.interval_us
        wait_us = used_us + (together - 1) * quota.interval_us - all_us
        if wait_us > 0:
            self.whole_us[quota.name] = now_us + min(kept_us, all_us)
            return False, wait_us // 1000
        self.whole_us[quota.name] = now_us + used_us
        return True, max(0, used_us + quota.interval_us - all_us) // 1000

    def _accept(self, job: Job, pixels: bytes) -> None:
        self._ids[job.id] = job.reply, job.deadline + 60_000
        self._pixels[job.id] = (pixels, job.deadline)
        entry = encode_job(job)
        self._waiting.insert(self._rank(entry), entry)
        self._stats["accepted"] += 1
        self._changed.notify()

    def _rank(self, entry: str, *, first: bool = False) -> int:
        """Return the place of an entry: after those of the same key, or ``first`` before them."""
        bisect = bisect_left if first else bisect_right
        return bisect(self._waiting, key_of(entry), key=key_of)

    @property
    def _boundary(self) -> int:
        """The rank of the first background job."""
        return bisect_left(self._waiting, 1, key=lambda entry: key_of(entry)[0])

    def push(self, entry: str) -> None:
        """Queue an entry as a foreign writer would: with no checks."""
        with self._changed:
            self._waiting.append(entry)
            self._changed.notify()

    def _backlog(self) -> int:
        return len(self._waiting) + len(self._retry) + len(self._leases)

    def _admission(self, job: Job, limits: Limits) -> Admission:
        backlog = self._backlog()
        if len(self._waiting) >= limits.max_jobs:
            return Admission(EnqueueCode.FULL, backlog)
        if (backlog + 1) * job.bytes > limits.max_bytes:
            return Admission(EnqueueCode.BYTES_FULL, backlog)
        others, rank = backlog - len(self._waiting), self._rank(encode_job(job))
        ahead = others + rank
        if job.priority:
            ahead = others + min(rank, 10 * (rank - self._boundary) + 9)
        is_late = ahead > 0 and self._ends(ahead, limits) > job.deadline
        if limits.speed.per_s and (is_late or self._delays_others(job, rank, others, limits)):
            return Admission(EnqueueCode.WOULD_TIME_OUT, ahead)
        return Admission(EnqueueCode.ACCEPTED, backlog)

    def _ends(self, ahead: int, limits: Limits) -> float:
        return self._clock_ms() + limits.speed.end_ms(ahead)

    def _delays_others(self, job: Job, rank: int, others: int, limits: Limits) -> bool:
        behind = [] if job.priority else list(self._waiting)[rank : self._boundary]
        looks = min(16, len(behind))
        for look in range(looks):
            place = look * (len(behind) - 1) // (looks - 1) if looks > 1 else 0
            ahead = others + rank + place
            theirs = deadline_of(behind[place])
            if self._ends(ahead, limits) <= theirs < self._ends(ahead + 1, limits):
                return True
        return False

    def _drop_dead_heads(self, now: int) -> None:
        for _ in range(64):
            if not self._waiting or not is_expired(self._waiting[0], now):
                return
            self._waiting.popleft()
            self._stats["expired"] += 1

    def count_refused(self, job_id: str = "") -> None:
        del job_id
        self._stats["rejected"] += 1

    def missing(self, job_ids: Sequence[str]) -> list[str]:
        del job_ids
        return []  # Memory loses nothing.

    def cancel(self, job_ids: Sequence[str]) -> None:
        with self._changed:
            for job_id in job_ids:
                self._pixels.pop(job_id, None)

    def remove_results(self, job_ids: Sequence[str]) -> None:
        with self._changed:
            for job_id in job_ids:
                self._results.pop(job_id, None)

    def results(self, job_ids: Sequence[str]) -> list[Result | None]:
        with self._changed:
            now = self._clock_ms()
            found = [self._results.get(job_id) for job_id in job_ids]
            return [entry[0] if entry and entry[1] > now else None for entry in found]

    def claim(
        self,
        n: int,
        lease: Lease,
        *,
        redelivered: bool,
        min_depth: int = 0,
        pace: Pace = UNKNOWN_PACE,
        token: str = "",
        again: bool = False,
    ) -> Claim:
        with self._changed:
            now = self._clock_ms()
            token = token or secrets.token_hex(8)
            held = [leased.entry for leased in self._leases.values() if leased.token == token]
            if again and held:
                lost = self._attempts.get(entry_id(held[-1]) or "", 0)
                return self._leased(token, now, lease, held, [], [], lost=lost)
            dead: list[str] = []
            late: list[str] = []
            self._reap(now, lease, dead)
            if redelivered and self._retry:
                ended = expected_end(now, pace, 1)
                taken, late = self._take(self._retry, 1, now, ended, dead)
                if taken:
                    lost = self._attempts[entry_id(taken[0]) or ""]
                    return self._leased(token, now, lease, taken, late, dead, lost=max(1, lost))
            if len(self._waiting) < min_depth:
                return self._leased(token, now, lease, [], late, dead)
            ended = expected_end(now, pace, min(n, len(self._waiting)))
            both_wait = 0 < self._boundary < len(self._waiting)
            tenth, expired = self._take(self._tenth(n), n, now, ended, dead)
            taken, more = self._take(self._waiting, n - len(tenth), now, ended, dead)
            taken = tenth + taken
            if both_wait and taken:
                self._stats["shared"] += len(taken)
            expired += more + late
            return self._leased(token, now, lease, taken, expired, dead)

    def _tenth(self, n: int) -> deque[str]:
        """Take out the background jobs whose turn is in this claim, where both classes wait."""
        first, shared = self._boundary, self._stats["shared"]
        count = (shared + n) // 10 - shared // 10 if 0 < first < len(self._waiting) else 0
        found = deque(list(self._waiting)[first : first + count])
        for entry in found:
            self._waiting.remove(entry)
        return found

    def _reap(self, now: int, lease: Lease, dead: list[str]) -> None:
        for job_id in [i for i, leased in self._leases.items() if leased.until <= now]:
            entry = self._leases.pop(job_id).entry
            self._attempts[job_id] += 1
            if self._attempts[job_id] >= lease.max_attempts:
                del self._attempts[job_id]
                reason = "its worker died each time it ran"
                self._bury(entry, reason)
                dead.append(entry)
                for _, job in readable([entry]):
                    self._store_one(result_of_error(job, "model_failed", reason))
            else:
                self._retry.append(entry)

    def _take(
        self, source: deque[str], n: int, now: int, ended: float, dead: list[str]
    ) -> tuple[list[str], list[str]]:
        taken: dict[str, str] = {}
        expired: list[str] = []
        while source and len(taken) < n:
            entry = source.popleft()
            job_id = entry_id(entry)
            if job_id is None:
                self._bury(entry, "not a job")
                dead.append(entry)
            elif is_expired(entry, now) or 0 < deadline_of(entry) < ended:
                self._attempts.pop(job_id, None)
                expired.append(entry)
                for _, job in readable([] if is_expired(entry, now) else [entry]):
                    code = WOULD_TIME_OUT if "preparation" in entry_fields(entry) else "busy"
                    self._store_one(result_of_error(job, code, "it would be late"))
            elif job_id not in self._leases:
                taken.setdefault(job_id, entry)
        self._stats["expired"] += len(expired)
        return list(taken.values()), expired

    def _leased(
        self,
        token: str,
        now: int,
        lease: Lease,
        entries: list[str],
        expired: list[str],
        dead: list[str],
        *,
        lost: int = 0,
    ) -> Claim:
        self._stats["dead"] += len(dead)
        for entry in entries:
            job_id = entry_id(entry) or ""
            self._leases[job_id] = _Leased(token, entry, now + lease.lease_ms)
        return Claim(token, now, tuple(entries), tuple(expired), tuple(dead), lost)

    def wait(self, block_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting), block_s)

    def pixels(self, job_ids: Sequence[str], room: memoryview = NO_ROOM) -> list[Value | None]:
        with self._changed:
            now = self._clock_ms()
            found = [self._pixels.get(job_id) for job_id in job_ids]
            return [entry[0] if entry and entry[1] > now else None for entry in found]

    def finish(
        self, token: str, finished: Sequence[Finished], counts: Mapping[str, int] = NO_COUNTS
    ) -> list[bool]:
        with self._changed:
            own = [job for job in finished if self._holds(token, job.id)]
            for job in own:
                self._finish_one(job)
                self._ended_by[job.id] = token
            if own:
                self._stats.update(counts)
            return [self._ended_by.get(job.id) == token for job in finished]

    def _finish_one(self, job: Finished) -> None:
        entry = self._leases.pop(job.id).entry
        self._attempts.pop(job.id, None)
        self._stats[job.counter] += 1
        self._stats["items"] += job.counter != "expired"
        queue_us, model_us = round(1000 * job.result.queue_ms), round(1000 * job.result.model_ms)
        if job.counter == "completed":
            self._stats.update(queue_us=queue_us, model_us=model_us)
        else:
            self._stats["failed_us"] += queue_us + model_us
        self._stats["last_ms"] = max(self._stats["last_ms"], self._clock_ms())
        self._store_one(job)
        if job.dead:
            self._bury(entry, job.dead)
            self._stats["dead"] += 1

    def _store_one(self, job: Finished) -> None:
        self._pixels.pop(job.id, None)
        now = self._clock_ms()
        old = self._results.get(job.id)
        if old is None or old[1] <= now:
            self._results[job.id] = (job.result, now + job.ttl_ms)
            self.tickets.deliver(job.result)

    def _holds(self, token: str, job_id: str) -> bool:
        leased = self._leases.get(job_id)
        return leased is not None and leased.token == token

    def extend(self, token: str, job_ids: Sequence[str], lease_ms: int) -> int:
        with self._changed:
            held = [job_id for job_id in job_ids if self._holds(token, job_id)]
            for job_id in held:
                self._leases[job_id].until = self._clock_ms() + lease_ms
            return len(held)

    def release(self, token: str, job_ids: Sequence[str]) -> int:
        with self._changed:
            held = [job_id for job_id in job_ids if self._holds(token, job_id)]
            for job_id in reversed(held):
                entry = self._leases.pop(job_id).entry
                if job_id in self._attempts:
                    self._retry.appendleft(entry)
                else:
                    self._waiting.insert(self._rank(entry, first=True), entry)
            self._changed.notify(len(held))
            return len(held)

    def bury(self, entry: str, reason: str) -> None:
        with self._changed:
            self._bury(entry, reason)

    def _bury(self, entry: str, reason: str) -> None:
        self._dead.appendleft({"entry": entry, "reason": reason, "at": self._clock_ms()})

    def heartbeat(self, info: WorkerInfo) -> str:
        with self._changed:
            now = self._clock_ms()
            self._workers[info.id] = replace(info, last_seen=now)
            self._kept = encode_kept(info) or self._kept
            for worker in list(self._workers.values()):
                if worker.last_seen <= now - SILENT_MS:
                    del self._workers[worker.id]
            return self._desired

    def web_heartbeat(self, info: WebInfo) -> None:
        with self._changed:
            self._web[info.id] = replace(info, last_seen=self._clock_ms())

    def web_leave(self, web_id: str) -> None:
        with self._changed:
            self._web.pop(web_id, None)

    def leave(self, worker_id: str) -> None:
        with self._changed:
            self._workers.pop(worker_id, None)

    def set_desired(self, text: str) -> None:
        with self._changed:
            self._desired = text

    def desired(self) -> str:
        with self._changed:
            return self._desired

    def snapshot(self) -> Snapshot:
        with self._changed:
            now = self._clock_ms()
            return Snapshot(
                now=now,
                queued=len(self._waiting),
                retry=len(self._retry),
                in_flight=len(self._leases),
                dead=len(self._dead),
                oldest_ms=now - min((queued_at(each, now) for each in self._waiting), default=now),
                order=self._order(),
                stats=dict(self._stats),
                workers=tuple(self._workers.values()),
                web=tuple(self._web.values()),
                kept=self._kept,
            )

    def _order(self) -> Order:
        length = len(self._waiting)
        points = min(16, length)
        ranks = [i * (length - 1) // (points - 1) if points > 1 else 0 for i in range(points)]
        sketch = [number for rank in ranks for number in (rank, *key_of(self._waiting[rank]))]
        return Order.of(length, length - self._boundary, sketch)

    def dead(self, count: int) -> list[dict[str, Any]]:
        with self._changed:
            return list(self._dead)[:count]

    def purge(self) -> int:
        with self._changed:
            entries = [self._waiting.popleft() for _ in range(len(self._waiting))]
            for _, job in readable(entries):
                self._store_one(result_of_error(job, "busy", PURGED))
            return len(entries)


class MemoryMonitor(Monitor):
    """Reads in-memory queues as a `Monitor` does."""

    def __init__(self, *queues: MemoryQueue) -> None:
        self._read_from = queues

    def snapshots(self) -> dict[str, Snapshot | QueueError]:
        found: dict[str, Snapshot | QueueError] = {}
        for queue in self._read_from:
            try:
                found[queue.name] = queue.snapshot()
            except QueueError as error:
                found[queue.name] = error
        return found


def producer_on(queue: MemoryQueue, config: ProducerConfig | None = None) -> Producer:
    """Return a producer of an in-memory queue, with a breaker of its own."""
    return Producer(queue, queue.tickets, Breaker(), config or ProducerConfig())


def served_by(
    entry: ModelEntry, producer: Producer, *, patience_s: float = 0.0, places: int = 0
) -> ServedModel:
    """Return a model with its queue and a waiting room, by default one that nobody may enter."""
    return ServedModel(entry, producer, WaitingRoom(producer.breaker, Places(places), patience_s))


def entry_id(entry: str) -> str | None:
    """Return the id of a job; None where the entry is no job."""
    job_id = entry_fields(entry).get("id")
    return job_id if isinstance(job_id, str) else None


def is_expired(entry: str, now: int) -> bool:
    deadline = entry_fields(entry).get("deadline")
    return isinstance(deadline, int | float) and deadline <= now


def key_of(entry: str) -> tuple[int, int]:
    """Return what the list is ordered by: class and deadline."""
    return int(entry_fields(entry).get("priority") == BACKGROUND), deadline_of(entry)


def expected_end(now: int, pace: Pace, count: int) -> float:
    """Return when a batch of ``count`` ends that is claimed now; ``now`` where it is not known."""
    sizes = sorted(pace.bucket_ms)
    if not sizes:
        return now
    bucket = next((size for size in sizes if size >= count), sizes[-1])
    return now + round(pace.begin_ms) + round(pace.bucket_ms[bucket])


def queued_at(entry: str, now: int) -> int:
    """Return when a job was queued, ms; ``now`` where it does not say."""
    ts = entry_fields(entry).get("ts")
    return int(ts) if isinstance(ts, int | float) and 0 <= ts <= now else now


def deadline_of(entry: str) -> int:
    """Return the deadline of a job, ms; 0 where it does not say."""
    deadline = entry_fields(entry).get("deadline")
    return int(deadline) if deadline is not None and is_amount(deadline) else 0


def entry_fields(entry: str) -> dict[str, Any]:
    """Return the fields of an entry; none where it is no JSON object."""
    try:
        fields = json.loads(entry)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def encode_job(job: Job) -> str:
    """Write a job, complete."""
    return f'{encode_open_job(job)},"ts":{job.ts},"deadline":{job.deadline}}}'
