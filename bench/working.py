"""Part (d): more workers on a full queue, compared with linear scaling."""

import statistics

from bench.backlog import Backlog, check_full
from bench.plan import Plan, say
from bench.processes import Bed, Process
from bench.report import Section, Verdict, number, percent, ratios, spread
from bench.stacks import Redis, start_redis, start_worker, wait_for_workers

BATCH_SIZE = 32
WORKERS = (1, 2, 4, 8)
LEAST_LINEAR = 0.9
BATCH_MS = 400
SIZE = 32
MODEL = f"stand-in:batch_ms={BATCH_MS},image_ms=0,size={SIZE}"


def scaling_section(plan: Plan) -> Section:
    measured = _by_workers(plan)
    one = measured[1]
    rows = [
        [
            str(n),
            spread(each),
            spread(ratios(each, [n * rate for rate in one]), percent),
            percent(statistics.median(each) / (n * BATCH_SIZE * 1000 / BATCH_MS)),
        ]
        for n, each in measured.items()
    ]
    most = max(WORKERS)
    share = statistics.median(ratios(measured[most], [most * rate for rate in one]))
    verdict = Verdict(
        f">= {percent(LEAST_LINEAR)} of linear at {most} workers",
        percent(share),
        share >= LEAST_LINEAR,
    )
    return Section(
        "(d) More workers",
        ("workers", "images/s", "of linear", "of the stand-in's limit"),
        rows,
        [verdict],
        [
            f"A stand-in that sleeps {BATCH_MS} ms per batch of {BATCH_SIZE}, a full queue of "
            f"{SIZE} x {SIZE} pictures, from the first claim to the last result. Linear: so many "
            "times what one worker did in that round."
        ],
    )


def _by_workers(plan: Plan) -> dict[int, list[float]]:
    batches = max(5, round(plan.seconds * 1000 / BATCH_MS))
    measured: dict[int, list[float]] = {n: [] for n in WORKERS}
    with Bed() as bed:
        server = start_redis(bed, "redis")
        backlogs = _start_groups(bed, server)
        for number_of_round in range(1, plan.rounds + 1):
            for n, backlog in backlogs.items():
                drained = backlog.drain(n * batches * BATCH_SIZE)
                check_full(drained, BATCH_SIZE)
                measured[n].append(drained.per_second)
                say(f"round {number_of_round}: {n} workers: {number(drained.per_second)} images/s")
    return measured


def _start_groups(bed: Bed, server: Redis) -> dict[int, Backlog]:
    """Start a group of workers per number, each on a queue of its own; idle ones cost nothing."""
    say(f"starting {sum(WORKERS)} workers")
    groups: dict[int, list[Process]] = {}
    for n in WORKERS:
        settings = {"IMAGE_QUEUE": f"queue-{n}"}
        groups[n] = [
            start_worker(bed, f"worker-{n}-{i}", server, MODEL, settings) for i in range(n)
        ]
    for n, workers in groups.items():
        wait_for_workers(server, f"queue-{n}", *workers)
    return {n: Backlog(server, f"queue-{n}", "stand-in", SIZE) for n in groups}
