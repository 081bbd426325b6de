"""For every alert of the chart: what Prometheus sees when it fires, and when it must not.

Series are written as ``promtool test rules`` reads them, a value a minute: ``1x3 0x10`` is 1 at the
minutes 0 to 3, then 0; ``0+60x9`` grows by 60 a minute; ``_x5`` is nothing for six minutes. They
are those of a release whose model ``resnet`` may sleep and ``shapes`` may not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """What Prometheus has seen after some minutes, and whether the alert then fires."""

    alert: str
    series: Mapping[str, str]
    """Without the labels of the release."""
    minute: int
    summary: str = ""
    """What the alert then says; "": it is silent."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the alert that fires, without those that its rule gives it."""


SHAPES, RESNET = {"model": "shapes"}, {"model": "resnet"}
#: The labels that absent() takes from its selector.
RELEASE = {"namespace": "pictures", "app_kubernetes_io_instance": "imageserve"}

WORKERS = 'imageserve_workers{model="shapes",queue="image_queue",pod="%s"}'
ASLEEP = 'imageserve_workers{model="resnet",queue="resnet"}'
WAITING = 'imageserve_queue_length{model="resnet",queue="resnet"}'
SLOTS = "imageserve_slots_in_use"
REDIS_UP = 'imageserve_redis_up{pod="%s"}'
EVICTS = 'imageserve_redis_evicts{pod="%s"}'
ANSWERS = 'imageserve_requests_total{endpoint="predict",status="%s",code="%s"}'
OK = ANSWERS % (200, "")
FULL = ANSWERS % (503, "queue_full")
LATE = ANSWERS % (504, "timeout")
BUG = ANSWERS % (500, "internal")
WITHIN = 'imageserve_request_seconds_bucket{le="%s"}'
OLDEST = 'imageserve_queue_oldest_seconds{model="shapes",queue="image_queue"}'
LENGTH = 'imageserve_queue_length{model="shapes",queue="image_queue"}'
LIMIT = 'imageserve_queue_limit{model="shapes",queue="image_queue"}'
BYTES = 'imageserve_queue_bytes{model="shapes",queue="image_queue"}'
BYTES_LIMIT = 'imageserve_queue_bytes_limit{model="shapes",queue="image_queue"}'
MEMORY = 'imageserve_redis_bytes{model="shapes",queue="image_queue"}'
MEMORY_LIMIT = 'imageserve_redis_bytes_limit{model="shapes",queue="image_queue"}'
DEAD = 'imageserve_queue_dead{model="shapes",queue="image_queue"}'
DEAD_OF_B = DEAD.replace("}", ',pod="b"}')
LEASES = 'imageserve_leases_lost_total{model="shapes",pod="a"}'
CHANGE = 'imageserve_model_change_failed{model="shapes",pod="%s"}'
SUCCESS = 'imageserve_autoscaler_last_success_timestamp_seconds{model="shapes",pod="a"}'
LEADER = 'imageserve_autoscaler_leader{model="shapes",pod="%s"}'
NO_NODE = 'imageserve_autoscaler_unschedulable_replicas{model="shapes"}'
RAW = 'imageserve_autoscaler_raw_replicas{model="shapes"}'
WANTED = 'imageserve_autoscaler_wanted_replicas{model="shapes"}'


def times(within_10: int, within_30: int) -> dict[str, str]:
    """Return the series of request times: of 100 a minute so many within 10 and 30 s."""
    buckets = {"10.0": within_10, "30.0": within_30, "+Inf": 100}
    return {WITHIN % le: f"0+{count}x30" for le, count in buckets.items()}


_GONE = {WORKERS % "a": "1x3 0x20"}
_ASLEEP = {ASLEEP: "0x20", WAITING: "0x20"}
_NO_WORKER = "Model shapes has no live worker"
_ASKED = "Model resnet has no live worker"
_SERVING = (
    Case("ImageserveNoWorkers", _GONE, 6, _NO_WORKER, SHAPES),
    # Two minutes have not passed.
    Case("ImageserveNoWorkers", _GONE, 5),
    # One of two web pods has not seen it yet.
    Case("ImageserveNoWorkers", {WORKERS % "a": "0x20", WORKERS % "b": "1x20"}, 20),
    Case("ImageserveNoWorkers", _ASLEEP, 20),
    Case("ImageserveNoWorkers", {**_ASLEEP, WAITING: "0x3 4x20"}, 6, _ASKED, RESNET),
    Case("ImageserveNotScraped", {}, 6, "No web pod answers Prometheus", RELEASE),
    Case("ImageserveNotScraped", {SLOTS: "0x20"}, 20),
    # A web pod was replaced.
    Case("ImageserveNotScraped", {SLOTS: "0x5 _x3 0x10"}, 12),
    Case(
        "ImageserveRedisAway",
        {REDIS_UP % "a": "1x20", REDIS_UP % "b": "1x2 0x20"},
        5,
        "A web or model pod cannot reach Redis",
    ),
    Case("ImageserveRedisAway", {REDIS_UP % "a": "1x20", REDIS_UP % "b": "1x2 0x20"}, 3),
    Case("ImageserveRedisAway", {REDIS_UP % "a": "1x20"}, 20),
    # A pod that could not reach Redis was deleted.
    Case("ImageserveRedisAway", {REDIS_UP % "a": "1x20", REDIS_UP % "b": "0x0 stale"}, 4),
    Case(
        "ImageserveRedisEvicts",
        {EVICTS % "a": "0x20", EVICTS % "b": "0x2 1x20"},
        3,
        "Redis may throw waiting pictures away",
    ),
    Case("ImageserveRedisEvicts", {EVICTS % "a": "0x20"}, 20),
)

_TIMED_OUT = "2% of the requests time out"
_SLOW = "One request in twenty takes longer than 20s"
_ANSWERS = (
    Case(
        "ImageserveRefusing",
        {OK: "0+90x30", FULL: "0+10x30"},
        16,
        "10% of the requests are refused: queue_full",
        {"code": "queue_full"},
    ),
    Case("ImageserveRefusing", {OK: "0+96x30", FULL: "0+4x30"}, 30),
    # By the other door too.
    Case(
        "ImageserveRefusing",
        {
            OK: "0+50x30",
            OK.replace("predict", "infer"): "0+40x30",
            FULL.replace("predict", "infer"): "0+10x30",
        },
        16,
        "10% of the requests are refused: queue_full",
        {"code": "queue_full"},
    ),
    # A burst of two minutes.
    Case("ImageserveRefusing", {OK: "0+90x30", FULL: "0+0x5 50+50x1 100x30"}, 15),
    Case("ImageserveTimeouts", {OK: "0+98x30", LATE: "0+2x30"}, 11, _TIMED_OUT),
    Case("ImageserveTimeouts", {OK: "0+995x30", LATE: "0+5x30"}, 30),
    # A single one at night.
    Case("ImageserveTimeouts", {OK: "0+1x60", LATE: "0x20 1x40"}, 26),
    # The first one ever: its counter did not exist before.
    Case("ImageserveBugs", {BUG: "_x5 1x30"}, 7, "Requests were answered 500"),
    Case("ImageserveBugs", {BUG: "3x17 4x20"}, 20, "Requests were answered 500"),
    # They were answered some time ago.
    Case("ImageserveBugs", {BUG: "_x5 1x40"}, 30),
    Case("ImageserveSlow", times(90, 100), 16, _SLOW),
    Case("ImageserveSlow", times(96, 100), 30),
)


def filling(length: str, in_bytes: str, *, with_bytes: bool = True) -> dict[str, str]:
    """Return the series of a queue of 2000 jobs and 100 bytes at most."""
    jobs = {LENGTH: length, LIMIT: "2000x30"}
    return {**jobs, BYTES_LIMIT: "100x30", **({BYTES: in_bytes} if with_bytes else {})}


_NEAR = "The queue of model shapes is at 80% of its limit"
_DIE = "Pictures make model shapes fail"
_FREEZE = "Workers of model shapes freeze for longer than their lease"
_WORKERS = (
    Case("ImageserveQueueOld", {OLDEST: "20x30"}, 6, "Pictures for model shapes wait 20s", SHAPES),
    Case("ImageserveQueueOld", {OLDEST: "14x30"}, 30),
    Case("ImageserveQueueOld", {OLDEST: "1x5 20x2 1x30"}, 11),
    Case("ImageserveQueueNearLimit", filling("1600x20", "10x20"), 2, _NEAR, SHAPES),
    Case("ImageserveQueueNearLimit", filling("10x20", "80x20"), 2, _NEAR, SHAPES),
    # How pictures are prepared is not known yet, so neither are the bytes.
    Case("ImageserveQueueNearLimit", filling("1600x20", "", with_bytes=False), 2, _NEAR, SHAPES),
    Case("ImageserveQueueNearLimit", filling("1400x20", "70x20"), 20),
    # A burst, worked off within a minute.
    Case("ImageserveQueueNearLimit", filling("10x5 1990x0 10x20", "1x5 99x0 1x20"), 7),
    Case(
        "ImageserveRedisNearFull",
        {MEMORY: "900x20", MEMORY_LIMIT: "1000x20"},
        2,
        "Redis uses 90% of its maxmemory",
    ),
    Case("ImageserveRedisNearFull", {MEMORY: "600x20", MEMORY_LIMIT: "1000x20"}, 20),
    # It has no limit.
    Case("ImageserveRedisNearFull", {MEMORY: "900x20"}, 20),
    Case("ImageserveDeadPictures", {DEAD: "2x10 3x20"}, 15, _DIE, SHAPES),
    # Pods are replaced, and the new one tells the same.
    Case("ImageserveDeadPictures", {DEAD: "3x10 stale", DEAD_OF_B: "_x8 3x20"}, 15),
    # The list is full: more do not make it longer.
    Case("ImageserveDeadPictures", {DEAD: "1000x40"}, 40, _DIE, SHAPES),
    Case("ImageserveDeadPictures", {DEAD: "3x40"}, 40),
    # It was given up after a day.
    Case("ImageserveDeadPictures", {DEAD: "3x10 0x20"}, 15),
    Case("ImageserveLeasesLost", {LEASES: "0x5 1x20"}, 8, _FREEZE, SHAPES),
    Case("ImageserveLeasesLost", {LEASES: "4x30"}, 30),
    Case(
        "ImageserveModelChangeFailed",
        {CHANGE % "a": "0x20", CHANGE % "b": "0x2 1x20"},
        9,
        "Model shapes still serves its old version",
        SHAPES,
    ),
    # The next try succeeded.
    Case("ImageserveModelChangeFailed", {CHANGE % "a": "0x2 1x3 0x20"}, 9),
)

_STUCK = "The autoscaler cannot size model shapes"
_AUTOSCALER = (
    Case("ImageserveAutoscalerStuck", {SUCCESS: "0+60x5 300x20"}, 9, _STUCK, SHAPES),
    Case("ImageserveAutoscalerStuck", {SUCCESS: "0+60x5 300x20"}, 7),
    # It has never succeeded, so it cannot say when.
    Case("ImageserveAutoscalerStuck", {LEADER % "a": "1x20"}, 3, _STUCK, SHAPES),
    Case("ImageserveAutoscalerStuck", {SUCCESS: "0+60x20", LEADER % "a": "1x20"}, 20),
    Case("ImageserveAutoscalerAway", {LEADER % "a": "0x20"}, 3, "No autoscaler pod is active"),
    Case("ImageserveAutoscalerAway", {}, 3, "No autoscaler pod is active"),
    Case("ImageserveAutoscalerAway", {LEADER % "a": "0x20", LEADER % "b": "1x20"}, 20),
    Case(
        "ImageserveUnschedulable",
        {NO_NODE: "2x20"},
        11,
        "2 pods of model shapes have no node",
        SHAPES,
    ),
    # A new node came.
    Case("ImageserveUnschedulable", {NO_NODE: "2x5 0x20"}, 12),
    Case(
        "ImageserveAtMaxReplicas",
        {RAW: "9x20", WANTED: "8x20"},
        16,
        "The load on model shapes needs 9 pods, more than it may have",
        SHAPES,
    ),
    Case("ImageserveAtMaxReplicas", {RAW: "8x20", WANTED: "8x20"}, 20),
    # It is on its way there.
    Case("ImageserveAtMaxReplicas", {RAW: "9x20", WANTED: "2x5 9x20"}, 20),
)

CASES = (*_SERVING, *_ANSWERS, *_WORKERS, *_AUTOSCALER)
