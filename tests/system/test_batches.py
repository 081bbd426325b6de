"""How a worker runs its batches, seen from outside."""

import re
from concurrent.futures import Future
from functools import partial

from PIL import Image
from tests.pictures import encoded
from tests.redis_server import free_port
from tests.system.client import Client, Reply, in_background
from tests.system.conftest import MakeStack
from tests.system.samples import SIZE, samples
from tests.system.stack import Stack

ROUNDING_MS = 20
"""Redis counts whole milliseconds, and processes do not wake up to the microsecond."""

NEEDS_ALL_MEMORY = (255, 255, 0)
"""On a picture of this colour the stand-in is out of memory, unless it is alone in its batch."""


def sent_before_it_runs(stack: Stack, pictures: list[bytes]) -> list[Reply]:
    """Queue all pictures while the worker is frozen, then let it run; return the answers."""
    (worker,) = stack.workers
    worker.pause()
    calls = [partial(stack.http.predict, picture) for picture in pictures]
    futures: list[Future[Reply]]
    with in_background(calls) as futures:
        stack.wait_for(lambda: stack.waiting() == len(pictures), "all pictures are queued")
        worker.resume()
    return [future.result() for future in futures]


def test_the_time_in_the_queue_includes_waiting_for_the_model_inside_the_worker(
    make_stack: MakeStack,
) -> None:
    model_ms = 400
    model = f"stand-in:batch_ms={model_ms},image_ms=0,size={SIZE}"
    stack = make_stack(MODEL=model, BATCH_SIZE="1")
    replies = sent_before_it_runs(stack, [picture.data for picture in samples(3)])
    waited = sorted(queue_ms_of(reply) for reply in replies)
    # A worker takes the next picture while the model still runs on the one before.
    assert waited[1] >= model_ms - ROUNDING_MS
    assert waited[2] >= 2 * model_ms - ROUNDING_MS


def queue_ms_of(reply: Reply) -> float:
    found = re.search(r"queue;dur=([\d.]+)", reply.headers["server-timing"])
    assert found
    return float(found[1])


def test_after_a_batch_without_enough_memory_batches_are_at_most_half_as_large(
    make_stack: MakeStack,
) -> None:
    port = free_port()
    model = f"stand-in:batch_ms=5,image_ms=0,size={SIZE},poison=1"
    stack = make_stack(MODEL=model, BATCH_SIZE="16", METRICS_PORT=str(port))
    assert batch_limit(port) == 16
    greedy = encoded(Image.new("RGB", (SIZE, SIZE), NEEDS_ALL_MEMORY), "PNG")
    replies = sent_before_it_runs(stack, [greedy, *(each.data for each in samples(15))])
    assert {reply.status for reply in replies} == {200}
    assert batch_limit(port) == 8


def batch_limit(port: int) -> float:
    found = re.search(
        r"^imageserve_batch_limit\{.*\} (.+)$", Client(port).get("/metrics").text, re.M
    )
    assert found
    return float(found[1])
