"""The waiting room: who may wait for Redis, how long, and in which order they leave.

The guests are threads, the clock is the test's.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from tests.redis_server import PATIENCE_S, eventually

from imageserve.queue.listener import OUTAGE_S, Breaker
from imageserve.web.greenlets import Wait
from imageserve.web.waiting_room import MOST_LEAVING, Guest, NotWaited, Places, WaitingRoom

LONG_S = 1000.0


class Scene:
    """A room before a node that is away, and guests who hold their turn until they are told."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.now = 100.0
        self.breaker = Breaker(lambda: self.now)
        self.places = Places(8)
        self.room = self.another_room(self.breaker)
        self.served: list[int] = []
        self.inside = 0
        self.most_inside = 0
        self.hold = threading.Event()
        self.hold.set()
        self._lock = threading.Lock()
        self._pool = pool

    def another_room(self, breaker: Breaker) -> WaitingRoom:
        return WaitingRoom(breaker, self.places, 10.0, lambda: self.now)

    def comes(self, number: int, wait: Wait | None = None, for_s: float = LONG_S) -> "Future[str]":
        """``number``: up to 10; the higher, the later its deadline, by a little."""
        guest = Guest(self.now + for_s - (10 - number) / 1000, wait or Wait())
        before = len(self.room)
        future = self._pool.submit(self._visit, guest, number)
        eventually(lambda: len(self.room) > before or future.done(), "a guest in the room")
        return future

    def _visit(self, guest: Guest, number: int = 0) -> str:
        try:
            with self.room.turn(guest):
                with self._lock:
                    self.served.append(number)
                    self.inside += 1
                    self.most_inside = max(self.most_inside, self.inside)
                assert self.hold.wait(PATIENCE_S)
                with self._lock:
                    self.inside -= 1
        except NotWaited as refused:
            return str(refused)
        return "served"

    def answers(self) -> None:
        """The node answers again."""
        self.breaker.reset()


@pytest.fixture
def scene() -> Iterator[Scene]:
    with ThreadPoolExecutor(16) as pool:
        yield Scene(pool)


def results(futures: list["Future[str]"]) -> list[str]:
    return [future.result(PATIENCE_S) for future in futures]


def test_nobody_waits_while_the_node_answers(scene: Scene) -> None:
    scene.hold.clear()
    futures = [scene._pool.submit(scene._visit, Guest(LONG_S, Wait())) for _ in range(9)]
    eventually(lambda: scene.inside == 9, "all of them at once")
    scene.hold.set()
    assert set(results(futures)) == {"served"}


def test_guests_leave_by_deadline_a_few_at_a_time(scene: Scene) -> None:
    scene.breaker.trip()
    # The sixth has less time than the others, or had its turn before, and failed.
    futures = [scene.comes(number) for number in (2, 3, 4, 5, 7, 1, 6)]
    scene.hold.clear()
    scene.answers()
    eventually(lambda: scene.inside == MOST_LEAVING, "the first few")
    assert sorted(scene.served) == [1, 2, 3, 4]
    scene.hold.set()
    assert set(results(futures)) == {"served"}
    assert sorted(scene.served[4:]) == [5, 6, 7]
    assert scene.most_inside == MOST_LEAVING
    assert (len(scene.room), scene.places.taken) == (0, 0)


class _Killed(threading.Event):
    """Ends its greenlet as soon as it waits, as a timeout or a kill does."""

    def wait(self, timeout: float | None = None) -> bool:
        raise SystemExit


def test_a_guest_whose_greenlet_is_killed_leaves_no_one_waiting_behind_it(scene: Scene) -> None:
    scene.breaker.trip()
    with pytest.raises(SystemExit):
        scene._visit(Guest(LONG_S, Wait(_Killed())))
    assert (len(scene.room), scene.places.taken) == (0, 0)
    next_one = scene.comes(1)
    scene.answers()
    assert next_one.result(PATIENCE_S) == "served"


def test_who_comes_while_others_leave_stays_behind_them(scene: Scene) -> None:
    scene.breaker.trip()
    futures = [scene.comes(number) for number in range(6)]
    scene.hold.clear()
    scene.answers()
    eventually(lambda: scene.inside == MOST_LEAVING, "the first few")
    futures.append(scene.comes(6))
    scene.hold.set()
    assert set(results(futures)) == {"served"}
    assert scene.served[-1] in (5, 6)


def test_one_guest_at_a_time_tries_whether_the_node_answers(scene: Scene) -> None:
    scene.breaker.trip()
    futures = [scene.comes(number) for number in (1, 2, 3)]
    assert scene.served == []
    scene.hold.clear()
    scene.now += OUTAGE_S
    scene.room._call_next()
    eventually(lambda: scene.served == [1], "the first tries")
    scene.breaker.trip()  # In vain.
    scene.hold.set()
    assert results(futures[:1]) == ["served"]
    assert scene.served == [1]
    scene.now += OUTAGE_S
    scene.room._call_next()
    assert results(futures[1:]) == ["served", "served"]
    assert scene.most_inside == 1


def test_the_patience_counts_from_the_first_failure(scene: Scene) -> None:
    scene.breaker.trip()
    scene.now += 9
    scene.breaker.trip()
    late = scene.comes(1)
    scene.now += 0.99
    scene.breaker.trip()
    scene.room._call_next()
    assert not late.done()
    scene.now += 0.01
    scene.room._call_next()
    assert results([late]) == ["the outage lasts"]
    assert results([scene.comes(2)]) == ["the outage lasts"]

    # One at a time still tries.
    scene.now += OUTAGE_S
    assert results([scene.comes(3)]) == ["served"]
    assert scene.places.taken == 0


def test_places_are_those_of_the_process_whatever_node_is_away(scene: Scene) -> None:
    scene.breaker.trip()
    waiting = [scene.comes(number) for number in range(8)]
    assert results([scene.comes(9)]) == ["too many requests wait for the end of the outage"]

    other = Breaker(lambda: scene.now)
    other.trip()
    with pytest.raises(NotWaited), scene.another_room(other).turn(Guest(LONG_S, Wait())):
        pytest.fail("no place is free")

    scene.answers()
    assert set(results(waiting)) == {"served"}


def test_a_deadline_and_a_hang_up_free_the_place(scene: Scene) -> None:
    scene.breaker.trip()
    hung_up = Wait()
    futures = [scene.comes(1, hung_up), scene.comes(2, for_s=0.4), scene.comes(3)]
    hung_up.hang_up()
    assert results(futures[:1]) == ["its time is over"]
    scene.now += 0.4
    scene.room._call_next()
    assert results(futures[1:2]) == ["its time is over"]
    assert scene.places.taken == 1
    scene.answers()
    assert results(futures[2:]) == ["served"]
