"""Leader election over real HTTP; each candidate has a clock that the test moves."""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.kubernetes_api import KubernetesApi
from tests.redis_server import eventually

from imageserve.autoscaler import kubernetes
from imageserve.autoscaler.kubernetes import connect
from imageserve.autoscaler.lease import Election, Leadership, Timing

LEASE = "imageserve-autoscaler"
TIMING = Timing(duration_s=15, renew_deadline_s=10.0, retry_s=2.0)


class Candidate:
    """An election with a clock of its own."""

    def __init__(self, api: KubernetesApi, directory: Path, name: str) -> None:
        self.now_s = 0.0
        cluster = connect(None, name, str(api.kubeconfig(directory, name)))
        self.election = Election(cluster, LEASE, name, TIMING, lambda: self.now_s)

    def attempt(self, after_s: float = 0.0) -> bool:
        """Let time pass and attempt once; returns whether it leads."""
        self.now_s += after_s
        self.election.attempt()
        return self.election.leading()


@pytest.fixture
def first(kubernetes_api: KubernetesApi, tmp_path: Path) -> Candidate:
    return Candidate(kubernetes_api, tmp_path, "first")


@pytest.fixture
def second(kubernetes_api: KubernetesApi, tmp_path: Path) -> Candidate:
    return Candidate(kubernetes_api, tmp_path, "second")


def spec(api: KubernetesApi) -> dict[str, object]:
    found: dict[str, object] = api.get("leases", LEASE).get("spec", {})
    return found


def holder(api: KubernetesApi) -> object:
    return spec(api).get("holderIdentity")


def test_a_lease_as_the_chart_renders_it_is_free(
    first: Candidate, kubernetes_api: KubernetesApi
) -> None:
    assert not first.election.leading()

    assert first.attempt()
    assert spec(kubernetes_api)["holderIdentity"] == "first"
    assert spec(kubernetes_api)["leaseDurationSeconds"] == 15
    assert spec(kubernetes_api)["leaseTransitions"] == 1


def test_there_is_one_leader(first: Candidate, second: Candidate) -> None:
    assert [first.attempt(), second.attempt()] == [True, False]


def test_a_leader_stays_one_while_it_renews(
    first: Candidate, second: Candidate, kubernetes_api: KubernetesApi
) -> None:
    for _ in range(10):
        assert [first.attempt(after_s=2), second.attempt(after_s=2)] == [True, False]

    assert spec(kubernetes_api)["leaseTransitions"] == 1


def test_a_renewal_needs_one_call(first: Candidate, kubernetes_api: KubernetesApi) -> None:
    first.attempt()
    before = len(kubernetes_api.requests)

    first.attempt(after_s=2)

    assert [each.verb for each in kubernetes_api.requests[before:]] == ["patch"]


def test_a_leader_that_cannot_renew_stops_before_another_begins(
    first: Candidate, second: Candidate
) -> None:
    first.attempt()
    second.attempt()

    first.now_s += TIMING.renew_deadline_s
    leading = first.election.leading()
    early = second.attempt(after_s=TIMING.duration_s - 0.1)
    late = second.attempt(after_s=0.1)

    assert (leading, early, late) == (False, False, True)


def test_leadership_lasts_from_the_moment_the_renewal_was_sent(
    first: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An answer that takes 9 s leaves one second of leadership.
    write = first.election._cluster.write_lease

    def slow(*arguments: object) -> object:
        first.now_s += 9
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(first.election._cluster, "write_lease", slow)

    assert first.attempt()
    first.now_s += 1
    assert not first.election.leading()


def test_a_request_that_hangs_does_not_extend_leadership(
    first: Candidate, kubernetes_api: KubernetesApi
) -> None:
    first.attempt()
    kubernetes_api.fail("patch", "leases", how="hang")
    renewing = threading.Thread(target=first.attempt, daemon=True)
    renewing.start()

    first.now_s += TIMING.renew_deadline_s

    assert not first.election.leading()
    kubernetes_api.recover()
    renewing.join(30)


def test_a_candidate_that_lost_the_lease_follows(first: Candidate, second: Candidate) -> None:
    first.attempt()
    second.attempt()
    second.attempt(after_s=TIMING.duration_s)

    assert not first.attempt(after_s=TIMING.duration_s)


def test_of_two_attempts_in_the_same_instant_one_wins(
    first: Candidate, second: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = first.election._cluster.lease

    def read_and_be_late(name: str) -> object:
        found = read(name)
        second.attempt()
        return found

    monkeypatch.setattr(first.election._cluster, "lease", read_and_be_late)

    assert not first.attempt()
    assert second.election.leading()


def test_a_takeover_is_counted(
    first: Candidate, second: Candidate, kubernetes_api: KubernetesApi
) -> None:
    first.attempt()
    second.attempt()
    second.attempt(after_s=TIMING.duration_s)

    assert holder(kubernetes_api) == "second"
    assert spec(kubernetes_api)["leaseTransitions"] == 2


def test_a_restarted_container_of_the_same_pod_goes_on_at_once(
    first: Candidate, kubernetes_api: KubernetesApi, tmp_path: Path
) -> None:
    first.attempt()

    assert Candidate(kubernetes_api, tmp_path, "first").attempt()
    assert spec(kubernetes_api)["leaseTransitions"] == 1


def test_a_released_lease_is_free_at_once(
    first: Candidate, second: Candidate, kubernetes_api: KubernetesApi
) -> None:
    first.attempt()
    second.attempt()

    first.election.stop()

    assert (first.election.leading(), holder(kubernetes_api)) == (False, "")
    assert second.attempt(after_s=0.1)
    assert not first.attempt()
    assert spec(kubernetes_api)["leaseTransitions"] == 2


def test_a_follower_releases_nothing(
    first: Candidate, second: Candidate, kubernetes_api: KubernetesApi
) -> None:
    first.attempt()
    second.attempt()

    second.election.stop()

    assert holder(kubernetes_api) == "first"


def test_a_lease_whose_content_was_removed_stays_its_holders(
    first: Candidate, second: Candidate, kubernetes_api: KubernetesApi
) -> None:
    first.attempt()
    second.attempt()
    kubernetes_api.remove("leases", LEASE)
    kubernetes_api.add_lease(LEASE)

    early = second.attempt(after_s=TIMING.duration_s - 0.1)
    # Its own version is out of date: one refusal, then it reads and writes again.
    first.attempt(after_s=2)
    again = first.attempt()

    assert (early, again, holder(kubernetes_api)) == (False, True, "first")


@pytest.mark.parametrize(
    "fault",
    [{"status": 500}, {"status": 403}, {"status": 404}, {"how": "reset"}, {"how": "hang"}],
    ids=["500", "403", "404", "reset", "hang"],
)
def test_a_failing_api_is_reported_once_and_tried_again(
    fault: dict[str, Any],
    first: Candidate,
    kubernetes_api: KubernetesApi,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(kubernetes, "WRITE_TIMEOUT_S", (0.2, 0.2))
    kubernetes_api.fail("get", "leases", **fault)
    caplog.set_level(logging.ERROR)

    tries = [first.attempt(after_s=2), first.attempt(after_s=2)]
    problem = first.election.problem
    kubernetes_api.recover()
    after = first.attempt(after_s=2)

    assert (tries, after, first.election.problem) == ([False, False], True, "")
    assert "get leases" in problem
    assert len(caplog.records) == 1


def test_a_stop_waits_for_a_write_in_progress(
    first: Candidate, second: Candidate, kubernetes_api: KubernetesApi
) -> None:
    first.attempt()
    entered, leave = threading.Event(), threading.Event()

    def write() -> None:
        with first.election.acting() as allowed:
            assert allowed
            entered.set()
            leave.wait(30)

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    assert entered.wait(30)
    stopping = threading.Thread(target=first.election.stop, daemon=True)
    stopping.start()
    eventually(lambda: not first.election.leading(), "no write may begin any more")

    assert holder(kubernetes_api) == "first"
    with first.election.acting() as allowed:
        assert not allowed
    leave.set()
    stopping.join(30)
    writing.join(30)


def test_a_thread_takes_part_until_it_is_stopped(
    kubernetes_api: KubernetesApi, tmp_path: Path
) -> None:
    cluster = connect(None, "first", str(kubernetes_api.kubeconfig(tmp_path, "first")))
    election = Election(cluster, LEASE, "first", Timing(3600, 3000.0, 0.02))
    elected = threading.Event()

    election.start(elected)

    assert elected.wait(30)
    eventually(lambda: len(kubernetes_api.asked("patch", "leases")) > 2, "it renews")
    election.stop()
    assert holder(kubernetes_api) == ""


def test_without_an_election_this_process_leads() -> None:
    alone = Leadership()

    with alone.acting() as allowed:
        assert allowed
    alone.stop()
    with alone.acting() as allowed:
        assert not allowed
