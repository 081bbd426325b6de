"""What a rate of pictures takes: what always holds, and plain examples."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from imageserve import measured
from imageserve.autoscaler.decision import Observation
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.sizing import State, size
from imageserve.cli.plan_values import values_of
from imageserve.errors import ImageserveError
from imageserve.plan import (
    BATCHES_IN_TIME,
    MEBI,
    NETWORK_USE,
    REDIS_USE,
    WEB_USE,
    Costs,
    Load,
    Place,
    Plan,
    Worker,
    known_costs,
    plan,
)
from imageserve.preparation import Preparation

INPUT = Preparation((224, 224))
TABLE = {1: 20.0, 8: 80.0, 32: 320.0}
"""50/s one by one, 100/s in batches."""
WORKER = Worker("resnet50", INPUT, TABLE, "given", cores=2)
COSTS = Costs(rest_ms=1.0, decode_ms=1.0, source="given")
"""500 pictures/s of one core."""

rates = st.floats(0.01, 1e6)
loads = st.builds(
    Load,
    rate=rates,
    peak=st.floats(1, 20),
    size=st.tuples(st.integers(8, 8000), st.integers(8, 8000)),
    jpeg_bytes=st.none() | st.integers(100, 10_000_000),
    deadline_s=st.floats(0.3, 120),
)
workers = st.builds(
    Worker,
    name=st.sampled_from(["resnet50", "my flowers/2"]),
    preparation=st.integers(8, 600).map(lambda side: Preparation((side, side))),
    bucket_ms=st.dictionaries(st.sampled_from([1, 4, 32]), st.floats(1, 90), min_size=1),
    source=st.just("given"),
    cores=st.none() | st.integers(1, 8),
    gpu=st.booleans(),
)
costs = st.builds(
    Costs, rest_ms=st.floats(0.1, 20), decode_ms=st.floats(0.1, 200), source=st.just("given")
)
places = st.builds(
    Place,
    web_processes=st.integers(1, 16),
    least_web_pods=st.integers(1, 9),
    least_model_pods=st.integers(1, 9),
    network_gbit=st.floats(1, 200),
    logged=st.booleans(),
)


@given(loads, workers, costs, places)
def test_nothing_is_used_beyond_its_share(
    load: Load, worker: Worker, cost: Costs, place: Place
) -> None:
    made = plan(load, worker, cost, place)

    web, models, redis = made.web, made.models, made.redis
    near = 1 + 1e-9
    assert load.peak_rate <= web.processes * web.process_per_s * WEB_USE * near
    # The autoscaler leaves a twentieth of a pod out of account.
    needed = load.peak_rate / (models.pod_per_s * models.utilization)
    assert models.pods >= max(needed - 0.05, load.peak_rate / models.pod_per_s) / near
    assert redis.node_cores <= REDIS_USE * near
    assert redis.node_gbit <= NETWORK_USE * place.network_gbit * near
    assert web.pods >= place.least_web_pods
    assert models.pods >= max(place.least_model_pods, redis.nodes)
    assert models.batch_ms * BATCHES_IN_TIME <= load.deadline_s * 1000 * near


@given(loads, st.floats(1, 100), workers, costs, places)
def test_a_higher_rate_never_takes_less(
    load: Load, factor: float, worker: Worker, cost: Costs, place: Place
) -> None:
    less = plan(load, worker, cost, place)
    more = plan(replace(load, rate=load.rate * factor), worker, cost, place)

    for tier, name in (
        ("web", "pods"),
        ("web", "cores"),
        ("models", "pods"),
        ("redis", "nodes"),
    ):
        assert getattr(getattr(less, tier), name) <= getattr(getattr(more, tier), name)
    assert _total(less) <= _total(more) * (1 + 1e-9)


def _total(made: Plan) -> float:
    """Return the network of all Redis nodes together, Gbit/s."""
    return made.redis.nodes * made.redis.node_gbit


@given(loads, workers, costs, places)
def test_a_queue_fits_into_its_redis(load: Load, worker: Worker, cost: Costs, place: Place) -> None:
    redis = plan(load, worker, cost, place).redis

    jobs = redis.waiting + redis.in_work
    assert redis.queue_bytes >= jobs * redis.picture_bytes
    assert redis.queue_bytes <= 0.6 * redis.maxmemory
    most = redis.queue_bytes / redis.picture_bytes
    held = most * (measured.allocated_bytes(redis.picture_bytes) + measured.JOB_BYTES)
    assert held + redis.answers_bytes <= redis.maxmemory
    assert redis.maxmemory % MEBI == 0


@given(loads, workers, costs, places)
def test_each_queue_of_a_cluster_is_on_a_node_of_its_own(
    load: Load, worker: Worker, cost: Costs, place: Place
) -> None:
    load = replace(load, rate=min(load.rate, 1000))
    made = plan(load, worker, cost, place)

    models = values_of(made, "/models/x", "keras", "float32")["models"]
    queues = [entry["queue"] for entry in models.values() if "queue" in entry]
    nodes = [key_slot(queue.encode()) * made.redis.nodes // 16384 for queue in queues]
    assert nodes == (list(range(made.redis.nodes)) if made.redis.nodes > 1 else [])


def test_an_example_by_hand() -> None:
    made = plan(Load(1000), WORKER, COSTS)

    assert made.web.process_per_s == 500
    assert made.web.pods == 2, "1000 / (500 x 0.7) = 2.9 processes, two in a pod"
    assert made.web.cores == 2
    assert made.web.pod_cores == 2
    assert (made.models.batch, made.models.pod_per_s) == (32, 100)
    assert made.models.pods == 17, "1000 / (100 x 0.6) = 16.7"
    assert made.redis.nodes == 1
    assert made.redis.node_gbit == pytest.approx(1000 * (150_528 + 1350) * 8 / 1e9)
    assert made.redis.node_log_mbyte == pytest.approx(1000 * (150_528 + 1350) / 1e6)
    assert made.redis.in_work == 17 * 2 * 32
    assert made.redis.waiting == 5000
    assert made.web.pod_in_mbit == pytest.approx(500 * (58_125 + 600) * 8 / 1e6)


def test_model_pods_are_those_that_the_autoscaler_asks_for() -> None:
    policy, state = Policy(max_replicas=1000), State()
    start = Observation(now_s=0, known=True, bucket_ms=TABLE, replicas=500, ready=500)
    for second in range(0, 300, 5):
        seen = replace(start, now_s=second, accepted=2000 * second)
        decision, state = size(policy, state, seen)

    assert decision.raw == plan(Load(2000), WORKER, COSTS).models.pods


def test_the_peak_is_what_counts() -> None:
    assert plan(Load(500, peak=4), WORKER, COSTS).web == plan(Load(2000), WORKER, COSTS).web


def test_a_short_deadline_takes_smaller_batches_and_more_pods() -> None:
    short = plan(Load(2000, deadline_s=0.1), WORKER, COSTS)

    assert short.models.batch == 1
    assert short.models.pods == 67, "2000 / (50 x 0.6) = 66.7"


def test_a_deadline_that_no_batch_meets_is_refused_with_what_to_do() -> None:
    with pytest.raises(ImageserveError, match="a batch of 1 takes 20 ms: 3 of them") as refused:
        plan(Load(1, deadline_s=0.05), WORKER, COSTS)

    assert "--clients-deadline" in str(refused.value)


def test_large_pictures_are_decoded_beside_the_web_process() -> None:
    large = plan(Load(100, size=(4000, 3000)), WORKER, Costs(2.0, 30.0, "given"))

    assert large.web.in_decoder
    assert large.web.process_per_s == pytest.approx(1000 / 30)
    assert large.web.pod_cores == 2.2, "two processes and their decoders: 2 x 32 / 30"


def test_uploads_are_held_until_the_answer() -> None:
    photos = Load(100, size=(4000, 3000), jpeg_bytes=4 * MEBI)

    large = plan(photos, WORKER, COSTS, Place(least_web_pods=3)).web

    assert large.in_progress == math.ceil(100 / 4 * (3 * 0.32 + 0.001)), "two of three pods"
    assert large.memory_bytes == 128 * MEBI, "25 x 4 MiB"
    assert plan(replace(photos, rate=200), WORKER, COSTS).web.memory_bytes == 448 * MEBI


def test_no_process_has_more_in_progress_than_it_can_do() -> None:
    slow = replace(WORKER, bucket_ms={32: 1600.0})

    one_pod = plan(Load(1000), slow, COSTS, Place(least_web_pods=1, web_processes=4)).web

    assert one_pod.pods == 1
    assert one_pod.in_progress == math.ceil(250 * (3 * 1.6 + 0.001))
    assert one_pod.slots == 1216


def test_a_low_rate_keeps_the_limits_of_the_chart() -> None:
    made = plan(Load(1), WORKER, COSTS)

    assert made.web.slots == 256
    assert made.web.memory_bytes == 128 * MEBI
    assert made.redis.queue_bytes == 256 * MEBI
    assert made.redis.maxmemory == 512 * MEBI
    assert values_of(made, "resnet50", "keras", "float32")["limits"]["queueLimit"] == 2048


def test_a_redis_that_keeps_nothing_carries_more() -> None:
    logged, bare = (plan(Load(2000), WORKER, COSTS, Place(logged=each)) for each in (True, False))

    assert bare.redis.node_by_cpu == pytest.approx(logged.redis.node_by_cpu * measured.LOGGED_TIMES)
    assert bare.redis.node_log_mbyte == 0


def test_the_benchmarks_picture_costs_what_was_measured() -> None:
    known = known_costs(Load(1), INPUT)

    assert known.decode_ms + known.rest_ms == pytest.approx(measured.WEB_MS)


@pytest.mark.parametrize(
    ("size", "scale"), [((800, 600), 1), ((1600, 1200), 2), ((4000, 3000), 4), ((8000, 6000), 8)]
)
def test_large_jpegs_cost_less_a_pixel(size: tuple[int, int], scale: int) -> None:
    known = known_costs(Load(1, size=size), INPUT)

    assert known.decode_ms == measured.decode_ms(size[0] * size[1], scale)


def test_a_slow_machine_is_slower_at_everything() -> None:
    slow, known = (known_costs(Load(1), INPUT, speed) for speed in (0.5, 1.0))

    assert (slow.rest_ms, slow.decode_ms) == (2 * known.rest_ms, 2 * known.decode_ms)


@pytest.mark.parametrize(
    ("size", "allocated"),
    [(1, 16), (17, 32), (27_648, 28_672), (150_528, 163_840), (268_203, 327_680)],
)
def test_jemalloc_has_four_sizes_for_each_power_of_two(size: int, allocated: int) -> None:
    assert measured.allocated_bytes(size) == allocated


def test_redis_takes_what_was_measured_and_less_for_smaller_pictures() -> None:
    for pixels, ceiling in measured.REDIS_CEILINGS.items():
        assert measured.redis_ms(pixels) == pytest.approx(1000 / ceiling)
    assert 0 < measured.redis_ms(0) < measured.redis_ms(96 * 96 * 3)
