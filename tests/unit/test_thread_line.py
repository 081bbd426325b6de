"""The line of a process whose requests are threads."""

import threading
import time
from collections.abc import Callable

import pytest
from tests.redis_server import eventually

from imageserve.errors import TimedOut, WouldTimeOut
from imageserve.grpc_server.line import ThreadLine
from imageserve.web.decode_order import Asked


def asked(seconds: float = 30.0, *, background: bool = False) -> Asked:
    return Asked(time.monotonic() + seconds, background)


class Crowd:
    """Threads that decode one picture each, and note when they have it."""

    def __init__(self, line: ThreadLine) -> None:
        self.line = line
        self.decoded: list[str] = []
        self.failed: dict[str, Exception] = {}
        self.at_once = 0
        self.most_at_once = 0
        self._threads: list[threading.Thread] = []

    def come(self, name: str, its: Asked, work: Callable[[], object] = lambda: None) -> None:
        """Start a thread, and return when it has its turn or its place in the line."""
        before = self.line.pictures
        thread = threading.Thread(target=self._decode, args=(name, its, work))
        self._threads.append(thread)
        thread.start()
        eventually(lambda: self.line.pictures > before, f"{name} is in the line")

    def _decode(self, name: str, its: Asked, work: Callable[[], object]) -> None:
        try:
            with self.line.turn(its):
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                self.decoded.append(name)
                try:
                    work()
                finally:
                    self.at_once -= 1
        except Exception as error:
            self.failed[name] = error

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def held() -> threading.Event:
    """Until it is set the first picture is decoded."""
    return threading.Event()


def test_one_is_decoded_at_a_time_and_the_tightest_goes_first(held: threading.Event) -> None:
    crowd = Crowd(ThreadLine())
    crowd.come("first", asked(), held.wait)
    crowd.come("patient", asked(30))
    crowd.come("background", asked(1, background=True))
    crowd.come("tight", asked(20))

    held.set()
    crowd.join()

    assert crowd.decoded == ["first", "tight", "patient", "background"]
    assert (crowd.most_at_once, crowd.line.pictures, crowd.failed) == (1, 0, {})
    assert crowd.line.used.pictures == 4


def test_who_fails_or_leaves_lets_the_next_one_decode(held: threading.Event) -> None:
    crowd = Crowd(ThreadLine())

    def fail() -> None:
        held.wait()
        raise ValueError("a picture")

    crowd.come("bad", asked(), fail)
    crowd.come("late", asked(0.05))
    crowd.come("good", asked())
    eventually(lambda: "late" in crowd.failed, "its time is over")

    held.set()
    crowd.join()

    assert isinstance(crowd.failed["bad"], ValueError)
    assert isinstance(crowd.failed["late"], TimedOut)
    assert (crowd.decoded, crowd.line.pictures) == (["bad", "good"], 0)


def test_what_would_be_late_is_refused_by_the_same_rule(held: threading.Event) -> None:
    crowd = Crowd(ThreadLine())
    crowd.line.answered(None, 5.0)  # So long answers take after decoding.
    crowd.come("first", asked(), held.wait)
    crowd.come("second", asked())

    with pytest.raises(WouldTimeOut):
        crowd.line.check(asked(1.0))
    held.set()
    crowd.join()

    assert crowd.decoded == ["first", "second"]


def test_no_turn_is_lost_among_many_threads() -> None:
    crowd = Crowd(ThreadLine())
    start = threading.Barrier(16)

    def many(number: int) -> None:
        start.wait()
        for picture in range(50):
            # Some give up at about the moment at which their turn comes.
            crowd._decode(f"{number}/{picture}", asked(0.002 if picture % 5 == 0 else 30), int)

    threads = [threading.Thread(target=many, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert len(crowd.decoded) + len(crowd.failed) == 800
    assert (crowd.most_at_once, crowd.line.pictures) == (1, 0)
    assert all(isinstance(each, TimedOut | WouldTimeOut) for each in crowd.failed.values())
