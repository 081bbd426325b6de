"""How pictures for a queue are prepared, as its workers say or were heard to say."""

from dataclasses import replace
from typing import Any

import pytest

from imageserve.preparation import Preparation
from imageserve.queue.preparations import NEVER_SEEN, encode_kept, in_force
from imageserve.queue.snapshot import LIVE_MS, Snapshot, WorkerInfo

NOW = 1_000_000
CROP = Preparation((8, 8), resize="crop", interpolation="bicubic")
PAD = Preparation((8, 8), resize="pad")
OWN = Preparation((4, 4), resize="crop", interpolation="box")


def worker(preparation: Preparation | str | None, ms: float = 10.0, **more: Any) -> WorkerInfo:
    info = WorkerInfo("w", "m", (8, 6, 3), 1, {1: ms}, "ready", "host", NOW)
    return replace(info, preparation=preparation, **more)


def found(*workers: WorkerInfo, own: Preparation | None = OWN, kept: str = "") -> Preparation | str:
    return in_force(Snapshot(NOW, 0, 0, 0, 0, 0, workers=workers, kept=kept), "m", own)


def test_the_workers_say_it_whatever_the_settings_say() -> None:
    assert found(worker(CROP)) == CROP
    assert found(worker(CROP), own=None) == CROP


def test_of_several_the_one_of_those_that_do_most_counts() -> None:
    fast, slow = worker(PAD, 10), worker(CROP, 15)
    assert found(fast, slow) == found(slow, fast) == PAD
    assert found(fast, slow, slow) == CROP
    # Of equals it is the same one for all web processes.
    alike = worker(CROP, 10)
    assert found(fast, alike) == found(alike, fast)
    assert found(worker(CROP, bucket_ms={})) == CROP


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"model": "n"}, id="of another model"),
        pytest.param({"state": "stopping"}, id="that stops"),
        pytest.param({"last_seen": NOW - LIVE_MS - 1}, id="that is silent"),
    ],
)
@pytest.mark.parametrize("preparation", [PAD, None, "of a later release"])
def test_a_worker_does_not_count(
    other: dict[str, Any], preparation: Preparation | str | None
) -> None:
    assert found(worker(CROP, 1000), worker(preparation, **other)) == CROP
    assert found(worker(preparation, **other)) == OWN
    assert found(worker(preparation, **other), own=None) == NEVER_SEEN


def test_beside_a_worker_of_0_1_0_pictures_are_what_it_takes() -> None:
    old = worker(None, 1000)
    assert found(worker(CROP), old) == Preparation((8, 6), interpolation="box")
    assert found(old, own=None) == Preparation((8, 6))
    larger = worker(None, 10, shape=(9, 9, 3))
    assert found(worker(CROP), old, larger, own=None) == Preparation((9, 9))


def test_what_only_a_later_release_can_do_is_not_guessed() -> None:
    later = worker("the preparation has a field 'rotate' that is not known here")
    said = found(later, kept=encode_kept(worker(PAD)))
    assert isinstance(said, str)
    assert "update" in said
    assert "rotate" in said
    assert found(later, worker(CROP, 1000)) == CROP


def test_without_a_worker_the_last_one_counts_and_then_the_settings() -> None:
    assert found(kept=encode_kept(worker(CROP))) == CROP
    assert found(kept=encode_kept(worker(CROP, model="n"))) == OWN
    assert found() == OWN
    assert found(own=None) == NEVER_SEEN


def test_what_is_kept_has_a_bound() -> None:
    assert encode_kept(worker(CROP, model="m" * 2000)) == ""
    assert encode_kept(worker(None)) == encode_kept(worker("unknown")) == ""
