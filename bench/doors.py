"""Part (j): the Open Inference Protocol beside /predict, on one web server, in turns."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.closed_loop import Form
from bench.load import Demand, Run, measured
from bench.picture import photo_jpeg
from bench.plan import Plan, say
from bench.processes import Bed
from bench.report import Section, Verdict, number, percent, ratios, spread
from bench.serving import WARM_UP_S
from bench.stacks import start_imageserve, write_picture

CLIENTS = 48
LEAST_ROUNDS = 7
"""The target is close to what two rounds of the same thing differ by."""
LEAST_SHARE = 0.95

DOORS = {
    Form.PLAIN: "/predict, the body is the picture",
    Form.V2_LABELS: "/v2, binary, five labels",
    Form.V2_SCORES: "/v2, binary, all probabilities",
}

Runs = Mapping[Form, Sequence[Run]]


def doors_section(plan: Plan) -> Section:
    """Load each door in turns, and compare with the target."""
    return section(_measure(plan))


def _measure(plan: Plan) -> Runs:
    runs: dict[Form, list[Run]] = defaultdict(list)
    rounds = plan.rounds if plan.is_quick else max(plan.rounds, LEAST_ROUNDS)
    plan = plan if plan.is_quick else replace(plan, least_warm_up_s=WARM_UP_S)
    with Bed() as bed:
        stack = start_imageserve(bed)
        picture = write_picture(bed, photo_jpeg())
        order = list(DOORS)
        for number_of_round in range(1, rounds + 1):
            for form in order:
                run = measured(stack, Demand(CLIENTS, form), plan, picture)
                runs[form].append(run)
                say(
                    f"round {number_of_round}: {DOORS[form]}: {number(run.per_second)} images/s, "
                    f"{number(run.total_cpu_ms)} CPU-ms per image"
                )
            order.reverse()
    return runs


def section(runs: Runs) -> Section:
    """Write the table, and compare with the target."""
    return Section(
        f"(j) The Open Inference Protocol beside /predict, {CLIENTS} clients",
        ("door", "images/s", "of /predict", "CPU-ms", "p50, ms", "p99, ms"),
        [_row(runs, form) for form in DOORS],
        [_verdict(runs, form) for form in DOORS if form is not Form.PLAIN],
        [
            f"In turns, {len(runs[Form.PLAIN])} rounds. CPU-ms: of all server processes, per "
            f"image. The first {WARM_UP_S:g} s of each load are not counted."
        ],
    )


def _row(runs: Runs, form: Form) -> list[str]:
    each = runs[form]
    return [
        DOORS[form],
        spread([run.per_second for run in each]),
        spread(_shares(runs, form), percent),
        spread([run.total_cpu_ms for run in each]),
        spread([run.latency_ms for run in each]),
        spread([run.p99_ms for run in each]),
    ]


def _shares(runs: Runs, form: Form) -> list[float]:
    rates = ([run.per_second for run in runs[each]] for each in (form, Form.PLAIN))
    return ratios(*rates)


def _verdict(runs: Runs, form: Form) -> Verdict:
    shares = _shares(runs, form)
    return Verdict(
        f"{DOORS[form]}: >= {percent(LEAST_SHARE)} of /predict's images/s",
        spread(shares, percent),
        statistics.median(shares) >= LEAST_SHARE,
    )
