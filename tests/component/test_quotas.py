"""Quotas of keys: ENQUEUE counts what it accepts, nothing else, and accepts what the rate allows.

The promises are held by the in-memory twin and by real servers, like those of ``test_queue.py``.
"""

from tests.component.test_queue import MINUTE_MS, PIXELS, Bench, a_job, bench, put, stats

from imageserve.queue.admission import Admission, EnqueueCode, Limits
from imageserve.queue.quota import Quota

__all__ = ["bench"]

SLOW = Quota("team-a", 0.01, 3)
"""Three at once, and no other one while a test runs."""


def offer(bench: Bench, job_id: str, quota: Quota | None = SLOW) -> Admission:
    return bench.queue.enqueue(a_job(job_id), PIXELS, MINUTE_MS, Limits(quota=quota))


def test_a_burst_is_taken_and_then_nothing(bench: Bench) -> None:
    answers = [offer(bench, each) for each in "abcde"]

    codes = [answer.code for answer in answers]
    assert codes == 3 * [EnqueueCode.ACCEPTED] + 2 * [EnqueueCode.RATE_LIMITED]
    assert [answer.wait_ms for answer in answers[:2]] == [0, 0]
    assert all(90_000 < answer.wait_ms <= 100_000 for answer in answers[2:])
    # What is refused leaves nothing behind, and needs no worker more.
    assert bench.queue.pixels(["d"]) == [None]
    assert stats(bench) == {"accepted": 3}
    assert put(bench, "anybody")[0].code is EnqueueCode.ACCEPTED
