"""``python -m bench.carrier URL QUEUE BYTES``: carry jobs through a queue until told to stop.

It does what web servers and workers do on Redis, without pictures or model: each job is queued in a
round trip of its own, claimed and finished in batches. A line on standard input asks for the count
so far; its end ends the process.
"""

import sys
import threading
import uuid
from itertools import count

from tests.queues import RedisQueue

from imageserve.predictions import Prediction
from imageserve.queue.admission import EnqueueCode, Limits
from imageserve.queue.consumer import Lease
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.wire import Finished, Job, Result, decode_job

BATCH = 32
_LEASE = Lease(lease_ms=60_000)
_LIMITS = Limits(max_jobs=10**6, max_bytes=2**40)
_LABELS = tuple(Prediction(f"label {n}", 1 / (n + 2)) for n in range(5))


def carry(queue: RedisQueue, payload: bytes) -> None:
    """Queue, claim and finish one batch of jobs with this payload."""
    shape = (1, len(payload) // 3, 3)
    for _ in range(BATCH):
        job = Job(uuid.uuid4().hex, "carrier", shape, 5, "carrier", "carrier", 60_000)
        admission = queue.enqueue(job, payload, 60_000, _LIMITS)
        if admission.code is not EnqueueCode.ACCEPTED:
            raise SystemExit(f"carrier: a job was refused: {admission.code.name}")
    claim = queue.claim(BATCH, _LEASE, redelivered=False)
    ids = [decode_job(entry).id for entry in claim.entries]
    queue.pixels(ids)
    queue.finish(claim.token, [_finished(job_id) for job_id in ids], {"batches": 1, "busy_ms": 1})


def _finished(job_id: str) -> Finished:
    result = Result(job_id, "carrier", 1, 1, BATCH, predictions=_LABELS)
    return Finished(job_id, "carrier", result, 1_000, "completed")


def main(url: str, name: str, size: int) -> None:
    queue = RedisQueue(RedisAccess(url), name)
    payload = bytes(size - size % 3)
    done = [0]

    def run() -> None:
        for batches in count(1):
            carry(queue, payload)
            done[0] = batches * BATCH

    threading.Thread(target=run, daemon=True).start()
    for _ in sys.stdin:
        print(done[0], flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
