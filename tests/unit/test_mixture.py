"""When several models or versions on one queue are worth a warning."""

from imageserve.queue.mixture import MOST_HOSTS, ROLLOUT_S, Mixture
from imageserve.queue.snapshot import WorkerInfo


def worker(host: str, version: str = "v1", model: str = "m") -> WorkerInfo:
    return WorkerInfo(host, model, (8, 8, 3), 4, {4: 20.0}, "ready", host, version=version)


OLD, NEW = worker("pod-a"), worker("pod-b", "v2")


def test_one_version_is_nothing_to_speak_of() -> None:
    mixture = Mixture("q")
    for now_s in range(0, 10_000, 100):
        assert mixture.warning([OLD, worker("pod-c")], now_s) == ""
    assert mixture.warning([], 10_000) == ""


def test_a_rollout_is_named_once_it_takes_more_than_ten_minutes() -> None:
    mixture = Mixture("q")
    assert mixture.warning([OLD, NEW], 100) == ""
    assert mixture.warning([OLD, NEW], 100 + ROLLOUT_S) == ""

    told = mixture.warning([OLD, NEW], 101 + ROLLOUT_S)

    assert "the queue q for more than 10 minutes: m, version v1, on pod-a; m, version v2" in told
    assert "on pod-b" in told
    for seconds in range(1000):
        assert mixture.warning([NEW, OLD, worker("pod-c")], 102 + ROLLOUT_S + seconds) == ""


def test_a_rollout_that_ends_in_time_starts_the_time_of_the_next_one() -> None:
    mixture = Mixture("q")
    assert mixture.warning([OLD, NEW], 0) == ""
    assert mixture.warning([NEW], ROLLOUT_S) == ""
    assert mixture.warning([NEW, worker("pod-c", "v3")], ROLLOUT_S + 1) == ""
    assert mixture.warning([NEW, worker("pod-c", "v3")], 2 * ROLLOUT_S) == ""
    assert "v3" in mixture.warning([NEW, worker("pod-c", "v3")], 2 * ROLLOUT_S + 2)


def test_two_models_are_named_at_once_and_once_per_change() -> None:
    mixture = Mixture("q")
    other = worker("pod-x", model="n")
    assert "several models work on the queue q" in mixture.warning([OLD, other], 0)
    assert mixture.warning([OLD, other], 1) == ""
    assert mixture.warning([OLD], 2) == ""
    assert "n, version v1, on pod-x" in mixture.warning([OLD, other], 3)


def test_a_warning_stays_short_whatever_the_workers_are_called() -> None:
    hosts = [worker("h" * 5000 + str(n), "v" * 5000) for n in range(50)]
    told = Mixture("q").warning([*hosts, worker("x", model="m" * 5000)], 0)
    assert len(told) < 1500
    assert f"and {50 - MOST_HOSTS} more" in Mixture("q").warning(
        [*(worker(f"pod-{n}") for n in range(50)), worker("x", model="n")], 0
    )
