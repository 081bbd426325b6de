"""The limits of one web process: request slots, and bytes of uploads."""

import threading

import pytest

from imageserve.errors import Busy
from imageserve.web.classify import Slots
from imageserve.web.upload import UploadMemory


def test_one_more_than_the_slots_is_refused_until_one_is_free() -> None:
    slots = Slots(2)

    with slots.taken():
        with slots.taken():
            with pytest.raises(Busy, match="all 2 request slots are taken") as caught:
                slots.check()
            with pytest.raises(Busy), slots.taken():
                pytest.fail("a third slot was taken")
        slots.check()
        assert slots.in_use == 1

    assert caught.value.retry_after_s == 1
    assert slots.in_use == 0


def test_a_slot_is_free_again_after_an_exception() -> None:
    slots = Slots(1)

    with pytest.raises(ValueError, match="broken"), slots.taken():
        raise ValueError("broken")

    assert slots.in_use == 0


def test_threads_never_take_more_slots_than_there_are() -> None:
    slots, most, refused = Slots(3), [0], [0]
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        for _ in range(200):
            try:
                with slots.taken():
                    most[0] = max(most[0], slots.in_use)
            except Busy:
                refused[0] += 1

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most[0] <= 3
    assert slots.in_use == 0


def test_bytes_are_freed_at_the_end_of_the_request() -> None:
    memory = UploadMemory(100)

    with memory.account() as account:
        account.take(60)
        account.take(40)
        assert memory.held == 100

    assert memory.held == 0


def test_bytes_over_the_limit_are_refused_and_not_counted() -> None:
    memory = UploadMemory(100)

    with memory.account() as first, memory.account() as second:
        first.take(60)
        with pytest.raises(Busy, match="too many uploads are in memory") as caught:
            second.take(41)
        second.take(40)
        assert (memory.held, first.bytes, second.bytes) == (100, 60, 40)

    assert caught.value.retry_after_s == 1
    assert memory.held == 0


def test_bytes_are_freed_after_an_exception() -> None:
    memory = UploadMemory(100)

    def upload() -> None:
        with memory.account() as account:
            account.take(60)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        upload()

    assert memory.held == 0


def test_taking_no_bytes_is_allowed_when_the_memory_is_full() -> None:
    memory = UploadMemory(10)

    with memory.account() as account:
        account.take(10)
        account.take(0)

    assert memory.held == 0
