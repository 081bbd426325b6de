"""Another program's data under a name of the queue: it is named, and every process survives it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.redis_server import free_port
from tests.system.client import Client
from tests.system.samples import sample
from tests.system.stack import Program, Stack, stacks


@pytest.fixture
def stack(tmp_path: Path, redis_program: str) -> Iterator[Stack]:
    stack = Stack(tmp_path, redis_program, {"WEB_PROCESSES": "1"}, ())
    stacks.append(stack)
    stack.redis.start()
    yield stack
    stacks.remove(stack)
    stack.end()


def answers_rightly(stack: Stack) -> bool:
    reply = stack.http.predict(sample(1).data)
    return reply.status == 200 and reply.labels[0] == sample(1).label


def named(program: Program, what: str) -> int:
    """Return how many lines name the key."""
    return len(program.lines(f"{what}: another program uses this name"))


def test_a_key_of_another_type_is_named_and_survived(stack: Stack) -> None:
    taken = f"{stack.keys.queue} is a string and must be a list"
    stack.db.set(stack.keys.queue, "another program's")
    stack.start_web(wait=False)
    worker = stack.start_worker(wait=False, METRICS_PORT=str(free_port()))

    stack.wait_for(lambda: named(worker, taken), "the worker names it", 60)
    stack.wait_for(lambda: named(stack.web, taken), "the web server names it", 60)
    assert stack.http.status_of("/readyz") == 503
    assert Client(worker.metrics_port).status_of("/readyz") == 503

    stack.db.rename(stack.keys.queue, "elsewhere")
    stack.wait_ready()
    stack.wait_working()
    assert answers_rightly(stack)

    taken = f"{stack.keys.leases} is a hash and must be a zset"
    stack.db.delete(stack.keys.leases)
    stack.db.hset(stack.keys.leases, "another", "program's")
    reply = stack.http.predict(sample(1).data)
    assert (reply.status, reply.code) == (503, "redis_unavailable")
    stack.wait_for(lambda: named(worker, taken), "the worker names it")
    assert named(stack.web, taken)

    stack.db.delete(stack.keys.leases)
    stack.wait_for(lambda: answers_rightly(stack), "answers")

    taken = f"{stack.keys.dead} is a string and must be a list"
    stack.db.set(stack.keys.dead, "another program's")
    stack.wait_for(
        lambda: answers_rightly(stack) and named(stack.web, taken), "it is named, and answers come"
    )
    stack.db.delete(stack.keys.dead)
    for program in (stack.web, worker):
        assert program.alive
        assert "Traceback" not in program.output()
        assert len(program.lines("another program uses this name")) < 10
