"""Parts (a) and (b): whole systems under HTTP load, this one beside the first version."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from bench.first_version import helpers
from bench.load import Demand, Run, measured
from bench.picture import photo_jpeg
from bench.plan import Plan, say
from bench.processes import Bed
from bench.report import Section, Verdict, number, ratios, spread, times
from bench.stacks import (
    Stack,
    check_answer,
    start_first_version,
    start_imageserve,
    write_picture,
)
from imageserve.config.settings import Settings
from imageserve.decoding import DecodingPolicy, decode
from imageserve.models.stand_in import StandIn
from imageserve.preparation import Preparation

CLIENTS = (1, 16, 48)
WARM_UP_S = 2.0
"""Clients that connect together get their first answers late."""
LEAST_SPEED_UP = 4.0
MOST_ADDED = 1 / 40

OURS, WITH_AOF, FIRST = "imageserve", "imageserve, AOF everysec", "first version"


class Setting(NamedTuple):
    """What is measured once per round."""

    system: str
    clients: int


Runs = Mapping[Setting, Sequence[Run]]


def measure(plan: Plan) -> Runs:
    """Start the systems and load them in turns, round by round."""
    plan = plan if plan.is_quick else replace(plan, least_warm_up_s=WARM_UP_S)
    picture = photo_jpeg()
    with Bed() as bed:
        say("starting both systems")
        stacks = {OURS: start_imageserve(bed), FIRST: start_first_version(bed, picture)}
        settings = [Setting(system, n) for n in CLIENTS for system in stacks]
        stacks[WITH_AOF] = start_imageserve(bed, "with-aof", aof=True)
        settings.append(Setting(WITH_AOF, max(CLIENTS)))
        for stack in stacks.values():
            check_answer(stack, picture)
        path = write_picture(bed, picture)
        return _rounds(plan, stacks, settings, path)


def _rounds(
    plan: Plan, stacks: Mapping[str, Stack], settings: Sequence[Setting], picture: Path
) -> Runs:
    runs: dict[Setting, list[Run]] = defaultdict(list)
    for number_of_round in range(1, plan.rounds + 1):
        for setting in settings:
            run = measured(stacks[setting.system], Demand(setting.clients), plan, picture)
            runs[setting].append(run)
            say(
                f"round {number_of_round}: {setting.system}, {setting.clients} clients: "
                f"{number(run.per_second)} images/s, {number(run.latency_ms)} ms, "
                f"{number(run.total_cpu_ms)} CPU-ms per image"
            )
    return runs


# -- (a) ------------------------------------------------------------------------------------------


def throughput_section(runs: Runs) -> Section:
    rows = [_row(runs, OURS, n, str(n)) for n in CLIENTS]
    rows.append(_row(runs, WITH_AOF, max(CLIENTS), f"{max(CLIENTS)}, AOF everysec"))
    speed_ups = _speed_ups(runs, OURS, max(CLIENTS))
    verdict = Verdict(
        f">= {LEAST_SPEED_UP:g}x the first version at {max(CLIENTS)} clients",
        spread(speed_ups, times),
        statistics.median(speed_ups) >= LEAST_SPEED_UP,
    )
    return Section(
        "(a) Images per second, and CPU time per image",
        (
            "clients",
            "images/s",
            "first: images/s",
            "ratio",
            "CPU-ms",
            "first: CPU-ms",
            "latency, ms",
            "first: latency, ms",
        ),
        rows,
        [verdict],
        [
            "first: the first version. CPU-ms: of all server processes (web, worker, Redis), per "
            "image. Redis keeps nothing on disk (`--save '' --appendonly no`) but in the last row. "
            f"The first {WARM_UP_S:g} s of each load are not counted.",
            *(_cpu_note(runs, system, max(CLIENTS)) for system in (OURS, FIRST)),
        ],
    )


def _row(runs: Runs, system: str, clients: int, label: str) -> list[str]:
    ours, first = runs[Setting(system, clients)], runs[Setting(FIRST, clients)]
    return [
        label,
        spread([run.per_second for run in ours]),
        spread([run.per_second for run in first]),
        spread(_speed_ups(runs, system, clients), times),
        spread([run.total_cpu_ms for run in ours]),
        spread([run.total_cpu_ms for run in first]),
        *(number(statistics.median(run.latency_ms for run in each)) for each in (ours, first)),
    ]


def _speed_ups(runs: Runs, system: str, clients: int) -> list[float]:
    ours, first = runs[Setting(system, clients)], runs[Setting(FIRST, clients)]
    return ratios([run.per_second for run in ours], [run.per_second for run in first])


def _cpu_note(runs: Runs, system: str, clients: int) -> str:
    each = runs[Setting(system, clients)]
    parts = [
        f"{role} {number(statistics.median(run.cpu_ms(role) for run in each))}"
        for role in each[0].cpu_s
    ]
    client = statistics.median(1000 * run.counts.cpu_s / run.counts.images for run in each)
    return (
        f"CPU-ms per image of {system} at {clients} clients: {', '.join(parts)}; "
        f"the load client, on the same cores and not counted, {number(client)}."
    )


# -- (b) ------------------------------------------------------------------------------------------


def latency_section(runs: Runs) -> Section:
    model = StandIn()
    model_ms = model.batch_ms + model.image_ms
    decode_ms = _decode_ms(photo_jpeg())
    added: dict[str, list[float]] = {}
    rows = []
    for system in (OURS, FIRST):
        latencies = [run.latency_ms for run in runs[Setting(system, 1)]]
        added[system] = [ms - decode_ms[system] - model_ms for ms in latencies]
        row = [spread(latencies), number(decode_ms[system]), number(model_ms)]
        rows.append([system, *row, spread(added[system])])
    shares = ratios(added[OURS], added[FIRST])
    verdict = Verdict(
        "<= 1/40 of what the first version adds",
        f"1/{number(1 / statistics.median(shares))}",
        statistics.median(shares) <= MOST_ADDED,
    )
    return Section(
        "(b) Latency added over decoding and model, one client",
        ("system", "median latency, ms", "decode, ms", "model, ms", "added, ms"),
        rows,
        [verdict],
        [
            "decode: the median of that picture alone in a process; model: the stand-in's declared "
            "time for a batch of one."
        ],
    )


def _decode_ms(picture: bytes) -> dict[str, float]:
    """Time the decoding of each system, in this process."""
    policy = DecodingPolicy.from_settings(Settings())
    return {
        OURS: _median_ms(lambda: decode(picture, Preparation((224, 224)), policy)),
        FIRST: _median_ms(lambda: helpers.prepare_image(Image.open(BytesIO(picture)), (224, 224))),
    }


def _median_ms(call: Callable[[], object], repeats: int = 200) -> float:
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)
