"""The names and types of a queue's keys in Redis. Pure.

With Q = ``image_queue``. The hash tag ``{Q}`` puts all of them into one cluster slot.

========================  =======  ===========================================  ====================
key                       type     content                                      lifetime
========================  =======  ===========================================  ====================
``Q``                     list     jobs, JSON, in order: see ``order.lua``      capped: QUEUE_LIMIT
``{Q}:hold``              list     jobs moved by a waking BLMOVE                drained by any claim
``{Q}:waiting``           zset     id -> when it was queued, ms, of ``Q``       1 h guard
``{Q}:retry``             list     redelivered jobs: their worker died          1 h guard
``{Q}:leases``            zset     id -> lease expiry, ms                       1 h guard
``{Q}:inflight``          hash     id -> claim token, newline, job              1 h guard
``{Q}:attempts``          hash     id -> leases lost so far                     1 h guard
``{Q}:dead``              list     the last 1000 ``{entry, reason, at}``        24 h
``{Q}:id:<id>``           string   nonce of the enqueue                         deadline + 60 s
``{Q}:p:<id>``            string   the pixels, raw                              the job's deadline
``{Q}:r:<id>``            string   the result, JSON                             result_ttl_ms
``{Q}:stats``             hash     monotonic counters                           none; fixed fields
``{Q}:workers``           zset     worker id -> last seen, ms                   pruned, 1 h guard
``{Q}:workers:info``      hash     worker id -> WorkerInfo, JSON                pruned, 1 h guard
``{Q}:web``               zset     web process id -> last seen, ms              pruned, 1 h guard
``{Q}:web:info``          hash     web process id -> WebInfo, JSON              pruned, 1 h guard
``{Q}:wanted``            string   the desired version of the model             none; one short text
``{Q}:preparation``       string   model and preparation of the last worker     none; 1 KiB at most
``{Q}:arrivals``          string   the autoscaler's memory, see its memory.py   28 d; 64 KiB at most
``{Q}:quota:<name>``      string   when the quota of this name is whole, us     then; 28 d at most
``{Q}:reply:<process>``   channel  results for one web process
``{Q}:selftest:<uuid>:*``            the start-up self-test's own keys            a minute
========================  =======  ===========================================  ====================
"""

import re

GUARD_MS = 3_600_000
"""TTL of keys that are renewed while in use: an abandoned queue leaves nothing behind."""


class Keys:
    """The names of one queue's keys."""

    def __init__(self, queue: str, prefix: str | None = None) -> None:
        self._prefix = prefix = prefix or f"{{{queue}}}"
        self.queue = queue
        self.hold = f"{prefix}:hold"
        self.waiting = f"{prefix}:waiting"
        self.retry = f"{prefix}:retry"
        self.leases = f"{prefix}:leases"
        self.inflight = f"{prefix}:inflight"
        self.attempts = f"{prefix}:attempts"
        self.dead = f"{prefix}:dead"
        self.stats = f"{prefix}:stats"
        self.workers = f"{prefix}:workers"
        self.workers_info = f"{prefix}:workers:info"
        self.web = f"{prefix}:web"
        self.web_info = f"{prefix}:web:info"
        self.desired = f"{prefix}:wanted"
        self.preparation = f"{prefix}:preparation"
        self.arrivals = f"{prefix}:arrivals"

    def nonce(self, job_id: str) -> str:
        return f"{self._prefix}:id:{job_id}"

    def pixels(self, job_id: str) -> str:
        return f"{self._prefix}:p:{job_id}"

    def result(self, job_id: str) -> str:
        return f"{self._prefix}:r:{job_id}"

    def quota(self, name: str) -> str:
        return f"{self._prefix}:quota:{name}"

    def reply(self, process: str) -> str:
        return f"{self._prefix}:reply:{process}"

    def selftest(self, run: str) -> "Keys":
        """Keys of a throw-away queue in the same slot, for the start-up self-test."""
        prefix = f"{self._prefix}:selftest:{run}"
        return Keys(f"{prefix}:queue", prefix)

    def types(self) -> dict[str, str]:
        """The keys that belong to the queue as a whole, not to one job, with their types."""
        return {
            **dict.fromkeys((self.queue, self.hold, self.retry, self.dead), "list"),
            **dict.fromkeys((self.waiting, self.leases, self.workers, self.web), "zset"),
            **dict.fromkeys((self.inflight, self.attempts, self.stats), "hash"),
            **dict.fromkeys((self.workers_info, self.web_info), "hash"),
            **dict.fromkeys((self.desired, self.preparation, self.arrivals), "string"),
        }

    def patterns(self) -> tuple[str, str]:
        """What all keys of the queue match, as ACL rules of Redis write it."""
        escaped = re.sub(r"([\\*?\[\]])", r"\\\1", self.queue)
        return escaped, f"{{{escaped}}}:*"

    def channel_patterns(self) -> tuple[str, str]:
        """What all channels of the queue match, those of the self-test included."""
        prefix = self.patterns()[1].removesuffix("*")
        return f"{prefix}reply:*", f"{prefix}selftest:*"

    # The keys of a script, in the order in which it takes them.

    def of_enqueue(self, job_id: str) -> list[str]:
        """Return those of a job without a quota; the key of a quota comes behind them."""
        own = [self.nonce(job_id), self.pixels(job_id)]
        return [self.queue, self.hold, *own, self.retry, self.leases, self.stats, self.waiting]

    def of_claim(self) -> list[str]:
        lists = [self.queue, self.hold, self.retry]
        taken = [self.leases, self.inflight, self.attempts]
        return [*lists, *taken, self.dead, self.stats, self.waiting]

    def of_finish(self) -> list[str]:
        """Those before the keys of each job."""
        return [self.leases, self.inflight, self.attempts, self.stats, self.dead]

    def of_release(self) -> list[str]:
        taken = [self.leases, self.inflight, self.attempts]
        return [self.queue, self.hold, *taken, self.retry, self.waiting]

    def of_purge(self) -> list[str]:
        return [self.queue, self.waiting]

    def of_heartbeat(self) -> list[str]:
        return [self.workers, self.workers_info, self.desired, self.preparation]

    def of_web_heartbeat(self) -> list[str]:
        return [self.web, self.web_info, self.desired, self.preparation]

    def of_snapshot(self) -> list[str]:
        lists = [self.queue, self.hold, self.retry]
        seen = [self.workers, self.workers_info, self.dead, self.web, self.web_info]
        return [*lists, self.leases, self.stats, *seen, self.preparation, self.waiting]
