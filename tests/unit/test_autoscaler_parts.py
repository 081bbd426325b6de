"""The small parts of the autoscaler: pauses, pods, observations, backoffs, statuses."""

import math
from dataclasses import replace

import pytest

from imageserve.autoscaler.cluster import (
    BUSY,
    GONE,
    IDLE,
    PAUSED,
    PAUSED_REPLICAS,
    Deployment,
    Pod,
    PodSummary,
    PodWatch,
    deletion_costs,
    pause_of,
    room_in_rollout,
)
from imageserve.autoscaler.decision import Action, Decision, Observation
from imageserve.autoscaler.load import average_table
from imageserve.autoscaler.pod_start import StartStamps, pod_start
from imageserve.autoscaler.scaler import (
    LONGEST_BACKOFF_S,
    FailureBackoff,
    error_source,
    observation,
)
from imageserve.autoscaler.scaler_status import EventReason, ScalerStatus, reason_of
from imageserve.errors import (
    ClusterConflict,
    ClusterError,
    ClusterForbidden,
    ClusterMissing,
    ClusterUnavailable,
    QueueUnavailable,
)
from imageserve.queue.snapshot import LIVE_MS, Snapshot, WorkerInfo

DEPLOYMENT = Deployment("model", "uid", "1", replicas=2, ready=1)
UNREAD = QueueUnavailable("Redis: away")


@pytest.mark.parametrize(
    ("annotations", "replicas"),
    [
        pytest.param({PAUSED: "true"}, None, id="true"),
        pytest.param({PAUSED: ""}, None, id="an empty value counts as true"),
        pytest.param({PAUSED: "yes please"}, None, id="so does anything else"),
        pytest.param({PAUSED_REPLICAS: "3"}, 3, id="at a number"),
        pytest.param({PAUSED_REPLICAS: "0"}, 0, id="at zero"),
        pytest.param({PAUSED: "false", PAUSED_REPLICAS: "3"}, 3, id="a number is enough"),
        pytest.param({PAUSED_REPLICAS: "many"}, None, id="not a number"),
        pytest.param({PAUSED_REPLICAS: "-1"}, None, id="fewer than none"),
    ],
)
def test_annotations_pause(annotations: dict[str, str], replicas: int | None) -> None:
    pause = pause_of(annotations)

    assert pause is not None
    assert pause.replicas == replicas
    assert "imageserve.dev/" in pause.annotation


@pytest.mark.parametrize(
    "annotations", [{}, {PAUSED: "false"}, {PAUSED: " False "}, {"other/paused": "true"}]
)
def test_other_annotations_do_not_pause(annotations: dict[str, str]) -> None:
    assert pause_of(annotations) is None


def pod(
    name: str, ready_s: float | None = None, *, unschedulable: bool = False, cost: int = 0
) -> Pod:
    return Pod(name, f"uid-{name}", StartStamps(100.0, ready_s=ready_s), unschedulable, cost)


def test_each_start_counts_once() -> None:
    watch = PodWatch()

    first = watch.update([pod("a", 110.0), pod("b")], 0.0)
    second = watch.update([pod("a", 110.0), pod("c", 160.0), pod("b", 140.0)], 5.0)

    assert first.start is not None
    assert second.start is not None
    assert (first.start.total_s, first.new_starts_s) == (10.0, (10.0,))
    assert (second.start.starts, second.new_starts_s) == (3, (40.0, 60.0))


def test_a_pod_that_is_ready_again_did_not_start_again() -> None:
    watch = PodWatch()
    watch.update([pod("a", 110.0)], 0.0)
    watch.update([pod("a")], 5.0)

    assert watch.update([pod("a", 900.0)], 10.0).new_starts_s == ()


def test_a_start_of_hours_is_ignored() -> None:
    # Its node was away for a moment, long after its start and before this process began.
    assert PodWatch().update([pod("a", 100.0 + 7200.0)], 0.0).start is None


def test_without_a_ready_pod_no_start_is_known() -> None:
    assert PodWatch().update([pod("a")], 0.0).start is None


def placed(name: str, *, leaving: bool = False) -> Pod:
    return Pod(name, f"uid-{name}", StartStamps(100.0), False, 0, placed=True, leaving=leaving)


def homeless(name: str, *, leaving: bool = False) -> Pod:
    return Pod(name, f"uid-{name}", StartStamps(100.0), True, 0, placed=False, leaving=leaving)


def test_there_is_room_for_the_pods_on_nodes_if_others_find_none_for_a_minute() -> None:
    watch = PodWatch()
    pods = [placed("a"), placed("b"), homeless("c")]

    room = [watch.update(pods, now_s).can_run for now_s in (0.0, 59.0, 60.0)]
    all_placed = watch.update(pods[:2], 70.0).can_run

    assert (room, all_placed) == ([None, None, 2], None)


def test_while_pods_come_and_go_nobody_knows_how_many_there_is_room_for() -> None:
    watch = PodWatch()
    before = watch.update([placed("a"), placed("b", leaving=True), homeless("c")], 0.0)
    leaving = watch.update([placed("a"), placed("b", leaving=True), homeless("c")], 60.0)
    # The scheduler has not looked at the free node yet.
    gone = watch.update([placed("a"), homeless("c"), homeless("d", leaving=True)], 70.0)
    later = watch.update([placed("a"), homeless("c"), homeless("d", leaving=True)], 130.0)

    assert (before.can_run, leaving.can_run) == (None, 2)
    assert (gone.can_run, later.can_run) == (None, 1)
    assert later.unschedulable == 1


@pytest.mark.parametrize(
    ("strategy", "places", "room"),
    [
        pytest.param((0, 1), 3, 3, id="one goes first"),
        pytest.param((0, 1), 0, 1, id="one at least"),
        pytest.param((1, 0), 3, 3, id="none goes first: nothing helps"),
        pytest.param(("25%", "25%"), 3, 2, id="a quarter of four is one, of three none"),
        pytest.param((0, "10%"), 3, 3, id="without surge one goes always"),
        pytest.param(("25%", "50%"), 3, 3, id="half of three is one"),
    ],
)
def test_a_rollout_has_room_if_a_ready_pod_may_go(
    strategy: tuple[int | str, int | str], places: int, room: int
) -> None:
    surge, unavailable = strategy
    four = Deployment("d", "u", "1", 4, 3, max_surge=surge, max_unavailable=unavailable)

    assert room_in_rollout(four, places) == room


def test_a_pod_counts_as_unschedulable_after_a_minute() -> None:
    watch = PodWatch()
    pending = pod("a", unschedulable=True)

    counts = [watch.update([pending], now_s).unschedulable for now_s in (0.0, 59.0, 60.0)]
    scheduled = watch.update([pod("a")], 70.0).unschedulable
    again = watch.update([pending], 80.0).unschedulable

    assert (counts, scheduled, again) == ([0, 0, 1], 0, 0)


def worker(host: str, state: str = "ready", silent_ms: int = 0) -> WorkerInfo:
    return WorkerInfo(
        id=host,
        model="shapes",
        shape=(96, 96, 3),
        batch_size=32,
        bucket_ms={},
        state=state,
        host=host,
        last_seen=1_000_000 - silent_ms,
    )


def snapshot(*workers: WorkerInfo, queued: int = 0, retry: int = 0, run: str = "") -> Snapshot:
    return Snapshot(
        now=1_000_000,
        queued=queued,
        retry=retry,
        in_flight=2,
        dead=0,
        oldest_ms=1500,
        stats={"accepted": 7, "rejected": 3},
        workers=workers,
        run=run,
    )


def test_the_deletion_cost_follows_the_state_of_the_worker() -> None:
    workers = [worker("idle"), worker("busy", "busy"), worker("stopping", "stopping")]
    silent = worker("silent", silent_ms=LIVE_MS + 1)
    pods = [pod(name) for name in ("idle", "busy", "stopping", "silent", "unknown")]

    costs = deletion_costs(pods, snapshot(*workers, silent))

    # An idle pod costs what an unmarked one does, so nothing is written for it.
    assert costs == {"busy": BUSY, "stopping": GONE, "silent": GONE, "unknown": GONE}


def test_a_pod_that_is_leaving_gets_no_deletion_cost() -> None:
    assert deletion_costs([placed("a", leaving=True)], snapshot(worker("a", "busy"))) == {}


def test_an_unchanged_deletion_cost_is_not_written() -> None:
    pods = [pod("busy", cost=BUSY), pod("idle", cost=BUSY)]

    assert deletion_costs(pods, snapshot(worker("busy", "busy"), worker("idle"))) == {"idle": IDLE}


def test_a_restarted_container_is_known_by_its_live_worker() -> None:
    before = replace(worker("pod", "busy", silent_ms=LIVE_MS + 1), id="before")

    assert deletion_costs([pod("pod")], snapshot(worker("pod", "busy"), before)) == {"pod": BUSY}


def test_the_worker_of_a_pod_with_a_long_name_is_found() -> None:
    # A pod's host name is cut at 63 characters.
    pods = [pod("m" * 70)]

    assert deletion_costs(pods, snapshot(worker("m" * 63, "busy"))) == {"m" * 70: BUSY}


def test_the_average_table_has_the_average_speed() -> None:
    # 100 and 300 per second: two average pods must do 400 as well.
    average = average_table([{1: 10.0, 2: 0.0}, {1: 10.0 / 3}])

    assert average == {1: pytest.approx(5.0)}
    assert average_table([]) == {}


def test_an_observation_has_the_queue_in_its_own_units() -> None:
    fast = replace(worker("a"), bucket_ms={4: 8.0})

    queue = snapshot(fast, queued=5, retry=1, run="run/0")
    seen = observation(
        10.0, queue, DEPLOYMENT, PodSummary(unschedulable=1, start=pod_start([{"model": 30.0}]))
    )

    assert seen == Observation(
        now_s=10.0,
        known=True,
        run="run/0",
        waiting=6,
        in_flight=2,
        accepted=7,
        rejected=3,
        oldest_s=1.5,
        bucket_ms={4: 8.0},
        replicas=2,
        ready=1,
        unschedulable=1,
        pod_start_s=30.0,
    )


def test_a_queue_that_cannot_be_read_is_unknown() -> None:
    seen = observation(10.0, UNREAD, DEPLOYMENT, PodSummary())

    assert (seen.known, seen.replicas, seen.ready) == (False, 2, 1)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (1, 2, EventReason.SCALED_UP),
        (3, 2, EventReason.SCALED_DOWN),
        (1, 0, EventReason.SCALED_TO_ZERO),
        (0, 1, EventReason.ACTIVATED),
    ],
)
def test_each_change_has_its_event(before: int, after: int, reason: EventReason) -> None:
    assert reason_of(before, after) is reason


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def lasts(backoff: FailureBackoff, clock: Clock, seconds: float) -> bool:
    """Whether it is still active after some seconds."""
    before = clock.now_s
    clock.now_s = before + seconds
    active = backoff.active()
    clock.now_s = before
    return active


def test_a_first_backoff_is_over_at_the_next_interval() -> None:
    clock = Clock()
    backoff = FailureBackoff(5.0, clock)

    assert backoff.add(ClusterUnavailable("away"))
    assert (lasts(backoff, clock, 2.4), lasts(backoff, clock, 5.0)) == (True, False)


def test_later_backoffs_are_longer_up_to_a_limit() -> None:
    clock = Clock()
    backoff = FailureBackoff(5.0, clock)

    for _ in range(20):
        backoff.add(ClusterUnavailable("away"))

    assert lasts(backoff, clock, LONGEST_BACKOFF_S / 2 - 0.1)
    assert not lasts(backoff, clock, LONGEST_BACKOFF_S)


def test_after_a_success_the_backoff_is_short_again() -> None:
    clock = Clock()
    backoff = FailureBackoff(5.0, clock)
    for _ in range(20):
        backoff.add(ClusterUnavailable("away"))

    backoff.clear()
    backoff.add(ClusterUnavailable("away"))

    assert not lasts(backoff, clock, 5.0)


def test_the_backoff_is_as_long_as_the_api_asks() -> None:
    clock = Clock()
    backoff = FailureBackoff(5.0, clock)

    backoff.add(ClusterUnavailable("slower", retry_after_s=42))

    assert (lasts(backoff, clock, 41.9), lasts(backoff, clock, 42.0)) == (True, False)


def test_an_absurd_retry_after_is_limited() -> None:
    clock = Clock()
    backoff = FailureBackoff(5.0, clock)

    backoff.add(ClusterUnavailable("never", retry_after_s=math.inf))

    assert not lasts(backoff, clock, 300.0)


def test_only_another_kind_of_failure_is_new() -> None:
    backoff = FailureBackoff(5.0, Clock())

    new = [
        backoff.add(error)
        for error in (ClusterMissing("a"), ClusterMissing("b"), ClusterForbidden("c"))
    ]

    assert (new, backoff.denied) == ([True, False, True], "c")
    assert (backoff.clear(), backoff.denied, backoff.clear()) == (True, "", False)


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (ClusterForbidden("x"), "rbac"),
        (ClusterMissing("x"), "target"),
        (ClusterConflict("x"), "conflict"),
        (ClusterUnavailable("x"), "api"),
        (ClusterError("x"), "api"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_failures_are_counted_by_their_source(error: ClusterError, word: str) -> None:
    assert error_source(error) == word


def test_unknown_values_are_no_metrics() -> None:
    unread = observation(10.0, UNREAD, DEPLOYMENT, PodSummary())
    read = observation(10.0, snapshot(queued=4), DEPLOYMENT, PodSummary())

    nothing = ScalerStatus().gauges()
    held = ScalerStatus(seen=unread, decision=Decision(2, None, Action.HOLD, "held")).gauges()
    whole = ScalerStatus(seen=read).gauges()

    assert set(nothing) == {f"imageserve_autoscaler_{n}" for n in ("leader", "paused", "dry_run")}
    assert held["imageserve_autoscaler_wanted_replicas"] == 2
    assert "imageserve_autoscaler_queue_waiting" not in held
    assert "imageserve_autoscaler_raw_replicas" not in held
    assert whole["imageserve_autoscaler_queue_waiting"] == 4


def test_without_a_known_deployment_there_is_no_recommendation() -> None:
    assert ScalerStatus().recommendation() is None
