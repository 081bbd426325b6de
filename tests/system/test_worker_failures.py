"""Workers that share a queue, are killed, crash and freeze: every job is answered exactly once."""

import json
import signal
import time
from collections import Counter
from functools import partial
from itertools import cycle
from typing import Any, cast

from tests.system.client import Reply, at_once, in_background
from tests.system.conftest import MakeStack
from tests.system.samples import KILLS, Sample, poison, samples
from tests.system.stack import Program, Stack

ONE_AT_A_TIME = {"MODEL": "stand-in:batch_ms=600,image_ms=0,size=64", "BATCH_SIZE": "1"}
"""Slow enough to be caught in the middle of a batch."""

NO_ANSWERS: list[dict[str, Any]] = [
    {"predictions": [{"label": 5, "probability": "x"}]},
    {"predictions": [{"label": "a", "probability": float("nan")}]},
    {"predictions": []},
    {"error": {"code": "model_failed", "message": ["a"]}},
    {"predictions": [{"label": "a", "probability": 1.0}], "queue_ms": "soon"},
]


def assert_labels(replies: list[Reply], pictures: list[Sample]) -> None:
    assert [reply.labels[0] for reply in replies] == [picture.label for picture in pictures]


def done_by(*workers: Program) -> Counter[str]:
    return Counter(job_id for worker in workers for job_id in worker.done_ids())


def test_three_workers_under_stress_do_every_job_exactly_once(make_stack: MakeStack) -> None:
    stack = make_stack(workers=3, MODEL="stand-in:batch_ms=20,image_ms=1,size=64", BATCH_SIZE="8")
    pictures = samples(400)
    replies = at_once([partial(stack.http.predict, p.data) for p in pictures])
    assert_labels(replies, pictures)

    assert stack.stats()["accepted"] == len(pictures)
    assert stack.stats()["completed"] == len(pictures)
    assert stack.stats()["items"] == len(pictures)
    stack.wait_for(lambda: done_by(*stack.workers).total() >= len(pictures), "all are logged")
    done = done_by(*stack.workers)
    assert len(done) == done.total() == len(pictures)
    assert all(worker.done_ids() for worker in stack.workers)
    assert len(stack.names("r")) == len(pictures)
    assert stack.idle()
    assert not stack.names("p")
    assert stack.keys_without_expiry() == []


def test_a_hundred_waiting_jobs_are_shared_by_two_workers_and_each_is_done_once(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(workers=2, MODEL="stand-in:batch_ms=400,image_ms=0,size=64", BATCH_SIZE="8")
    pictures = samples(100)
    pause_all(stack)
    with in_background([partial(stack.http.predict, p.data) for p in pictures]) as futures:
        stack.wait_for(lambda: stack.waiting() == 100, "a hundred wait")
        for worker in stack.workers:
            worker.resume()
    assert_labels([future.result() for future in futures], pictures)

    assert stack.stats()["completed"] == stack.stats()["items"] == 100
    stack.wait_for(lambda: done_by(*stack.workers).total() >= 100, "all are logged")
    done = done_by(*stack.workers)
    assert len(done) == done.total() == 100
    shares = [len(worker.done_ids()) for worker in stack.workers]
    assert min(shares) >= 16, shares


def pause_all(stack: Stack) -> None:
    for worker in stack.workers:
        worker.pause()


def caught_in_the_middle(stack: Stack) -> Program:
    """Let two workers take four jobs, freeze the first in the middle of its first, and return it.

    Each then runs one job and has fetched one more.
    """
    stack.wait_for(lambda: stack.waiting() == 4, "four jobs wait")
    for worker in stack.workers:
        worker.resume()
    stack.wait_for(lambda: stack.leased() == 4, "both workers hold two jobs")
    victim = stack.workers[0]
    victim.pause()
    return victim


def test_a_client_of_a_killed_worker_gets_its_labels_from_another(make_stack: MakeStack) -> None:
    stack = make_stack(workers=2, LEASE_S="0.6", **ONE_AT_A_TIME)
    pictures = samples(4)
    pause_all(stack)
    with in_background([partial(stack.http.predict, p.data) for p in pictures]) as futures:
        caught_in_the_middle(stack).kill()
    assert_labels([future.result() for future in futures], pictures)
    _, survivor = stack.workers
    stack.wait_for(lambda: len(survivor.batches()) >= 4, "all are logged")
    assert len([line for line in survivor.batches() if line["solo"]]) == 2
    assert stack.stats()["accepted"] == stack.stats()["completed"] == 4
    assert stack.idle()
    assert stack.keys_without_expiry() == []


def test_a_frozen_worker_that_comes_back_changes_nothing(make_stack: MakeStack) -> None:
    stack = make_stack(workers=2, LEASE_S="0.6", **ONE_AT_A_TIME)
    pictures = samples(4)
    pause_all(stack)
    with in_background([partial(stack.http.predict, p.data) for p in pictures]) as futures:
        zombie = caught_in_the_middle(stack)
    assert_labels([future.result() for future in futures], pictures)
    before, results = stack.stats(), {key: stack.db.get(key) for key in stack.names("r")}
    assert before["completed"] == 4

    zombie.resume()
    stack.wait_for(lambda: sum(line["late"] for line in zombie.batches()) == 2, "it is late twice")
    assert stack.stats() == before
    assert {key: stack.db.get(key) for key in stack.names("r")} == results
    again = samples(2, first=10)
    assert_labels(at_once([partial(stack.http.predict, p.data) for p in again]), again)
    assert stack.keys_without_expiry() == []


def test_a_picture_that_kills_workers_is_given_up_and_its_neighbours_are_not(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(
        workers=3,
        MODEL="stand-in:batch_ms=20,image_ms=0,size=64,poison=1",
        BATCH_SIZE="8",
        LEASE_S="0.6",
    )
    pictures = samples(7)
    killer = poison(KILLS)
    pause_all(stack)
    bodies = [*(p.data for p in pictures), killer]
    with in_background([partial(stack.http.predict, body) for body in bodies]) as futures:
        stack.wait_for(lambda: stack.waiting() == 8, "all wait")
        for worker in stack.workers:
            worker.resume()
    *good, bad = [future.result() for future in futures]
    assert_labels(good, pictures)
    assert (bad.status, bad.code) == (422, "model_failed")
    assert stack.db.llen(stack.keys.dead) == 1
    assert stack.stats()["dead"] == 1
    assert sorted(worker.alive for worker in stack.workers) == [False, False, True]
    stack.wait_for(stack.idle, "no job is left")
    stack.wait_for(lambda: not stack.names("p"), "no pixels are left")
    assert stack.keys_without_expiry() == []


def test_a_stopped_worker_finishes_its_batch_and_gives_the_next_one_back_at_once(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(workers=2, LEASE_S="60", **ONE_AT_A_TIME)
    pictures = samples(4)
    pause_all(stack)
    with in_background([partial(stack.http.predict, p.data) for p in pictures]) as futures:
        leaver = caught_in_the_middle(stack)
        leaver.send(signal.SIGTERM)
        leaver.resume()
        assert leaver.wait() == 0
        assert stack.leased() <= 2, "it has kept nothing"
    assert_labels([future.result() for future in futures], pictures)
    _, other = stack.workers
    stack.wait_for(lambda: len(other.batches()) >= 3, "all are logged")
    assert [len(leaver.done_ids()), len(other.done_ids())] == [1, 3]
    assert leaver.lines("gave 1 jobs back")
    assert not any(line["solo"] for line in other.batches())
    assert stack.db.zcard(stack.keys.workers) == 1
    assert stack.keys_without_expiry() == []


def test_a_batch_that_outlasts_the_time_to_stop_is_answered_by_its_worker(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(workers=2, LEASE_S="60", SHUTDOWN_S="1", **ONE_AT_A_TIME)
    pictures = samples(4)
    pause_all(stack)
    with in_background([partial(stack.http.predict, p.data) for p in pictures]) as futures:
        leaver = caught_in_the_middle(stack)
        leaver.send(signal.SIGTERM)
        leaver.resume()
        stack.wait_for(lambda: b'"stopping"' in b"".join(stack.worker_infos()), "it has noticed")
        leaver.pause()
        time.sleep(1.1)  # Longer than SHUTDOWN_S.
        leaver.resume()
        assert leaver.wait() == 0
    assert_labels([future.result() for future in futures], pictures)
    (batch,) = leaver.batches()
    assert (batch["jobs"], batch["late"]) == (1, 0)
    assert leaver.lines("gave 1 jobs back")
    assert stack.idle()


def test_an_idle_worker_stops_when_told(make_stack: MakeStack) -> None:
    stack = make_stack(workers=2)
    stack.workers[0].send(signal.SIGTERM)
    assert stack.workers[0].wait() == 0
    picture = samples(1)[0]
    assert stack.http.predict(picture.data).labels[0] == picture.label
    assert stack.db.zcard(stack.keys.workers) == 1


def test_a_worker_stops_when_told_even_while_redis_is_away(make_stack: MakeStack) -> None:
    stack = make_stack()
    (worker,) = stack.workers
    stack.redis.kill()
    stack.wait_for(lambda: worker.lines("Redis does not answer"), "the worker notices")
    worker.send(signal.SIGTERM)
    assert worker.wait(15) == 0


def test_an_answer_that_is_none_is_not_believed(make_stack: MakeStack) -> None:
    stack = make_stack(workers=0)

    def answer(wrong: dict[str, Any]) -> None:
        """Take one job, and write what no worker would."""
        if entry := stack.db.lpop(stack.keys.queue):
            job = json.loads(cast(bytes, entry))
            result = {"v": 1, "id": job["id"], "model": job["model"], "batch": 1, "model_ms": 1}
            text = json.dumps({**result, "queue_ms": 1, **wrong})
            stack.db.set(stack.keys.result(job["id"]), text, px=10_000)
            stack.db.publish(job["reply"], text)

    picture = samples(1)[0].data
    asking = [partial(stack.http.predict, picture, X_Request_Timeout="1")] * 20
    with in_background(asking) as futures:
        for wrong in cycle(NO_ANSWERS):
            if all(future.done() for future in futures):
                break
            answer(wrong)
            time.sleep(0.002)
    outcomes = {(reply.status, reply.code) for reply in (future.result() for future in futures)}
    assert outcomes <= {(503, "busy"), (504, "timed_out")}
    assert len(stack.web.lines("cannot be read")) > len(NO_ANSWERS)
