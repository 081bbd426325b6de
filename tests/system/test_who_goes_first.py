"""More comes than the model can do: tight deadlines before patient ones, background behind all."""

import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

from tests.system.conftest import MakeStack
from tests.system.samples import sample
from tests.system.stack import Stack

BATCH_SIZE, BATCH_S = 4, 0.2
TIGHT_S = 1.2
GOOD = sample(1)


class Crowd:
    """Clients that each send a picture, again and again."""

    def __init__(self, stack: Stack, pool: ThreadPoolExecutor) -> None:
        self.statuses: Counter[tuple[str, int]] = Counter()
        self._stack = stack
        self._pool = pool
        self._over = threading.Event()
        self._clients: list[Future[None]] = []

    def come(self, count: int, who: str, **headers: str) -> None:
        self._clients += [self._pool.submit(self._client, who, headers) for _ in range(count)]

    def _client(self, who: str, headers: dict[str, str]) -> None:
        while not self._over.is_set():
            reply = self._stack.http.predict(GOOD.data, **headers)
            self.statuses[who, reply.status] += 1

    def go(self) -> None:
        """Send no more, and wait for the answers that are on their way."""
        self._over.set()
        for client in self._clients:
            client.result()


def test_the_urgent_go_first_and_nobody_is_starved(make_stack: MakeStack) -> None:
    stack = make_stack(
        MODEL=f"stand-in:batch_ms={1000 * BATCH_S:.0f},image_ms=0,size=64",
        BATCH_SIZE=str(BATCH_SIZE),
    )
    with ThreadPoolExecutor(60) as pool:
        crowd = Crowd(stack, pool)
        crowd.come(40, "patient")
        crowd.come(8, "background", X_Priority="background")
        stack.wait_for(lambda: stack.waiting() >= 40, "a backlog of two seconds")
        queue = stack.http.get("/status").json["models"]["stand-in"]
        assert 0 < queue["background"] <= 8
        before = Counter(crowd.statuses)

        tight = [tight_picture(stack) for _ in range(6)]

        during = crowd.statuses - before
        crowd.go()
    assert tight.count(200) >= 5, "first in, first out would need two seconds"
    done = during["patient", 200] + during["background", 200] + tight.count(200)
    # A batch may be under way at either end.
    assert done / 10 - 1 - BATCH_SIZE <= during["background", 200] <= done / 10 + 1 + BATCH_SIZE
    assert {status for _, status in crowd.statuses} == {200}, "nobody is refused or left waiting"
    assert crowd.statuses["background", 200] >= 8
    stack.wait_for(stack.idle, "all jobs are done")


def tight_picture(stack: Stack) -> int:
    began = time.monotonic()
    reply = stack.http.predict(GOOD.data, X_Request_Timeout=str(TIGHT_S))
    return reply.status if time.monotonic() - began < TIGHT_S + 1 else 0
