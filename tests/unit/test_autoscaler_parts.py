"""The small parts of the autoscaler's loop: pauses, pods, tables, troubles, reports."""

import math
from dataclasses import replace

import pytest

from imageserve.autoscaler.cluster import PAUSED, PAUSED_REPLICAS, Pod
from imageserve.autoscaler.journal import Reason, reason_of
from imageserve.autoscaler.observation import Action, Decision, Observation
from imageserve.autoscaler.pause import pause_of
from imageserve.autoscaler.pod_watch import BUSY, GONE, IDLE, PodWatch, deletion_costs
from imageserve.autoscaler.report import Report
from imageserve.autoscaler.sample import usual_table, with_queue
from imageserve.autoscaler.trouble import LONGEST_REST_S, Trouble, source_of
from imageserve.errors import (
    ClusterConflict,
    ClusterError,
    ClusterForbidden,
    ClusterMissing,
    ClusterUnavailable,
)
from imageserve.queue.snapshot import LIVE_MS, Snapshot, WorkerInfo

SEEN = Observation(10.0, False, "", 0, 0, 0, 0, 0.0, replicas=2, ready=1)


@pytest.mark.parametrize(
    ("annotations", "replicas"),
    [
        pytest.param({PAUSED: "true"}, None, id="true"),
        pytest.param({PAUSED: ""}, None, id="nothing counts as true"),
        pytest.param({PAUSED: "yes please"}, None, id="so does anything else"),
        pytest.param({PAUSED_REPLICAS: "3"}, 3, id="at a number"),
        pytest.param({PAUSED_REPLICAS: "0"}, 0, id="at zero"),
        pytest.param({PAUSED: "false", PAUSED_REPLICAS: "3"}, 3, id="a number is enough"),
        pytest.param({PAUSED_REPLICAS: "many"}, None, id="a number that is none"),
        pytest.param({PAUSED_REPLICAS: "-1"}, None, id="fewer than none"),
    ],
)
def test_annotations_pause(annotations: dict[str, str], replicas: int | None) -> None:
    pause = pause_of(annotations)

    assert pause is not None
    assert pause.replicas == replicas
    assert "imageserve.dev/" in pause.words


@pytest.mark.parametrize(
    "annotations", [{}, {PAUSED: "false"}, {PAUSED: " False "}, {"other/paused": "true"}]
)
def test_other_annotations_do_not_pause(annotations: dict[str, str]) -> None:
    assert pause_of(annotations) is None


def pod(name: str, ready_s: float | None = None, *, homeless: bool = False, cost: int = 0) -> Pod:
    return Pod(name, f"uid-{name}", 100.0, ready_s, homeless, cost)


def test_the_usual_start_is_the_median_and_each_pod_is_timed_once() -> None:
    watch = PodWatch()

    first = watch.look([pod("a", 110.0), pod("b")], 0.0)
    second = watch.look([pod("a", 110.0), pod("b", 140.0), pod("c", 160.0)], 5.0)

    assert (first.start_s, first.new_starts_s) == (10.0, (10.0,))
    assert (second.start_s, second.new_starts_s) == (40.0, (40.0, 60.0))


def test_a_pod_that_is_ready_again_did_not_start_again() -> None:
    watch = PodWatch()
    watch.look([pod("a", 110.0)], 0.0)
    watch.look([pod("a")], 5.0)

    assert watch.look([pod("a", 900.0)], 10.0).new_starts_s == ()


def test_a_pod_that_seems_to_have_started_for_hours_tells_nothing() -> None:
    # Its node was away for a moment, long after its start and before this process began.
    assert PodWatch().look([pod("a", 100.0 + 7200.0)], 0.0).start_s is None


def test_no_start_is_known_where_no_pod_is_ready() -> None:
    assert PodWatch().look([pod("a")], 0.0).start_s is None


def test_a_pod_counts_as_unschedulable_after_a_minute_of_being_so() -> None:
    watch = PodWatch()
    homeless = pod("a", homeless=True)

    seen = [watch.look([homeless], now_s).unschedulable for now_s in (0.0, 59.0, 60.0)]
    housed = watch.look([pod("a")], 70.0).unschedulable
    again = watch.look([homeless], 80.0).unschedulable

    assert (seen, housed, again) == ([0, 0, 1], 0, 0)


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


def snapshot(*workers: WorkerInfo, queued: int = 0, retry: int = 0) -> Snapshot:
    return Snapshot(
        now=1_000_000,
        queued=queued,
        retry=retry,
        in_flight=2,
        dead=0,
        oldest_ms=1500,
        stats={"accepted": 7, "rejected": 3},
        workers=workers,
    )


def test_pods_cost_what_their_workers_do() -> None:
    workers = [worker("idle"), worker("busy", "busy"), worker("stopping", "stopping")]
    silent = worker("silent", silent_ms=LIVE_MS + 1)
    pods = [pod(name) for name in ("idle", "busy", "stopping", "silent", "unknown")]

    costs = deletion_costs(pods, snapshot(*workers, silent))

    # An idle pod costs what an unmarked one does, so nothing is written for it.
    assert costs == {"busy": BUSY, "stopping": GONE, "silent": GONE, "unknown": GONE}


def test_a_pod_that_is_marked_already_is_left_alone() -> None:
    pods = [pod("busy", cost=BUSY), pod("idle", cost=BUSY)]

    assert deletion_costs(pods, snapshot(worker("busy", "busy"), worker("idle"))) == {"idle": IDLE}


def test_the_worker_of_a_pod_with_a_long_name_is_found() -> None:
    # A pod's host name is cut at 63 characters.
    pods = [pod("m" * 70)]

    assert deletion_costs(pods, snapshot(worker("m" * 63, "busy"))) == {"m" * 70: BUSY}


def test_the_usual_table_has_the_speed_that_workers_have_on_average() -> None:
    # 100 and 300 a second: two of the usual kind must do 400 as well.
    usual = usual_table([{1: 10.0, 2: 0.0}, {1: 10.0 / 3}])

    assert usual == {1: pytest.approx(5.0)}
    assert usual_table([]) == {}


def test_an_observation_has_the_queue_in_its_own_units() -> None:
    fast = replace(worker("a"), bucket_ms={4: 8.0})

    seen = with_queue(SEEN, "run/0", snapshot(fast, queued=5, retry=1))

    assert seen == Observation(
        now_s=10.0,
        known=True,
        run="run/0",
        backlog=6,
        in_flight=2,
        accepted=7,
        rejected=3,
        oldest_s=1.5,
        bucket_ms={4: 8.0},
        replicas=2,
        ready=1,
    )


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (1, 2, Reason.SCALED_UP),
        (3, 2, Reason.SCALED_DOWN),
        (1, 0, Reason.SCALED_TO_ZERO),
        (0, 1, Reason.ACTIVATED),
    ],
)
def test_each_change_has_its_event(before: int, after: int, reason: Reason) -> None:
    assert reason_of(before, after) is reason


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def rests(trouble: Trouble, clock: Clock, seconds: float) -> bool:
    """Whether it still rests after so many seconds."""
    before = clock.now_s
    clock.now_s = before + seconds
    resting = trouble.resting()
    clock.now_s = before
    return resting


def test_a_first_failure_is_over_at_the_next_interval() -> None:
    clock = Clock()
    trouble = Trouble(5.0, clock)

    assert trouble.add(ClusterUnavailable("away"))
    assert (rests(trouble, clock, 2.4), rests(trouble, clock, 5.0)) == (True, False)


def test_later_ones_are_rested_longer_but_not_for_ever() -> None:
    clock = Clock()
    trouble = Trouble(5.0, clock)

    for _ in range(20):
        trouble.add(ClusterUnavailable("away"))

    assert rests(trouble, clock, LONGEST_REST_S / 2 - 0.1)
    assert not rests(trouble, clock, LONGEST_REST_S)


def test_what_the_api_asks_for_is_waited() -> None:
    clock = Clock()
    trouble = Trouble(5.0, clock)

    trouble.add(ClusterUnavailable("slower", retry_after_s=42))

    assert (rests(trouble, clock, 41.9), rests(trouble, clock, 42.0)) == (True, False)


def test_an_absurd_wish_is_not_waited_for() -> None:
    clock = Clock()
    trouble = Trouble(5.0, clock)

    trouble.add(ClusterUnavailable("never", retry_after_s=math.inf))

    assert not rests(trouble, clock, 300.0)


def test_only_another_kind_of_failure_is_news() -> None:
    trouble = Trouble(5.0, Clock())

    news = [
        trouble.add(error)
        for error in (ClusterMissing("a"), ClusterMissing("b"), ClusterForbidden("c"))
    ]

    assert (news, trouble.denied) == ([True, False, True], "c")
    assert (trouble.over(), trouble.denied, trouble.over()) == (True, "", False)


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
    assert source_of(error) == word


def test_what_is_not_known_is_no_metric() -> None:
    nothing = Report().gauges()
    blind = Report(seen=SEEN, decision=Decision(2, None, Action.HOLD, "held")).gauges()
    whole = Report(seen=with_queue(SEEN, "run", snapshot(queued=4))).gauges()

    assert set(nothing) == {f"imageserve_autoscaler_{n}" for n in ("leader", "paused", "dry_run")}
    assert blind["imageserve_autoscaler_wanted_replicas"] == 2
    assert "imageserve_autoscaler_queue_waiting" not in blind
    assert "imageserve_autoscaler_raw_replicas" not in blind
    assert whole["imageserve_autoscaler_queue_waiting"] == 4


def test_nothing_is_recommended_without_knowing_the_deployment() -> None:
    assert Report().recommendation() is None
