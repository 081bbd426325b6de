"""``imageserve autoscaler simulate``: compares scaling rules on load traces, without a cluster."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from imageserve.autoscaler.policy import Policy
from imageserve.errors import ImageserveError, SettingsError
from imageserve_loadtest import plots
from imageserve_loadtest.simulator.budget_comparison import (
    Model,
    budget_table,
    built_in_models,
    compare_budget,
)
from imageserve_loadtest.simulator.clairvoyant import Bests, foresee, require_solver
from imageserve_loadtest.simulator.comparison import (
    DAILY,
    FIXED,
    IMAGESERVE,
    KEDA_LIST,
    KEDA_SUM,
    Conditions,
    Results,
    Rule,
    SweepResult,
    cheapest,
    compare,
    sweep,
)
from imageserve_loadtest.simulator.comparison_report import (
    bests_table,
    draw,
    results_table,
    sweep_table,
    targets,
    targets_table,
)
from imageserve_loadtest.simulator.scalers import BucketMs
from imageserve_loadtest.simulator.simulation import Setting
from imageserve_loadtest.simulator.trace import read_trace, shipped_traces
from imageserve_loadtest.simulator.week_report import week_parts

BUCKET_MS = {1: 100.0, 2: 140.0, 4: 220.0, 8: 380.0, 12: 540.0, 16: 700.0, 24: 1020.0, 32: 1340.0}
"""60 ms plus 40 ms per picture, 24 pictures a second: a large network on a CPU."""

CALIBRATED = {KEDA_SUM: Rule(KEDA_SUM, 4), FIXED: Rule(FIXED, 6)}
"""The rules that ``--sweep`` finds under the default conditions."""

SIMULATOR, BUDGET = "simulator", "budget"
"""The names of the marks on a page that tables are written between."""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    del environ
    options = _parser().parse_args(arguments)
    conditions = _conditions(options)
    if options.budget is not None:
        return _budget(conditions, options)
    traces = [read_trace(path) for path in options.traces] or shipped_traces()
    page = None if options.markdown is None else _Page(options.markdown, SIMULATOR)
    if options.plot is not None and not plots.are_available():
        raise ImageserveError(f"--plot: {plots.MISSING}")
    if options.clairvoyant:
        require_solver()
    progress = _progress()
    daily = next((trace for trace in traces if trace.name == DAILY), traces[0])
    tried = sweep(conditions, daily, options.seed, progress) if options.sweep else []
    rules = _rules(conditions, options, tried)
    results = compare(conditions, traces, rules, options.seed, progress)
    bests = foresee(conditions, results, options.seed, progress) if options.clairvoyant else {}
    parts = [*_parts(results, bests, conditions, (tried, rules))]
    if options.weeks:
        keda = next(rule for rule in rules if rule.kind == KEDA_SUM)
        parts += week_parts(conditions, keda, options.seed, progress, is_judged=options.clairvoyant)
    progress("")
    text = "\n\n".join(parts)
    print(text)
    if options.plot is not None:
        _write(options.plot, draw(results))
    if page is not None:
        page.write(text)
    return 0


def _budget(conditions: Conditions, options: argparse.Namespace) -> int:
    """Compare ways to share GPUs; each trace is one model."""
    page = None if options.markdown is None else _Page(options.markdown, BUDGET)
    models = [Model(read_trace(path)) for path in options.traces] or built_in_models()
    given = options.pod_gpus or [model.gpus for model in models]
    if len(given) != len(models):
        raise SettingsError(f"--pod-gpus: must be {len(models)} numbers, one for each model")
    models = [replace(model, gpus=gpus) for model, gpus in zip(models, given, strict=True)]
    progress = _progress()
    results = compare_budget(conditions, models, options.budget, options.seed, progress)
    progress("")
    text = budget_table(models, options.budget, results)
    print(text)
    if page is not None:
        page.write(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imageserve autoscaler simulate",
        description="Compare the autoscaler with KEDA and with a fixed fleet. Pods, queue and time "
        "are simulated; the autoscaler's rule is the real one. A trace is a CSV file with the "
        "columns second and requests_per_second; each row holds until the next, the last one is "
        "the end.",
    )
    add = parser.add_argument
    add("traces", nargs="*", type=Path, metavar="TRACE.csv", help="default: the built-in traces")
    add("--seed", type=int, default=1, help="for the instants of the requests (1)")
    add("--sweep", action="store_true", help="find KEDA's listLength and the fleet's size: the "
        "cheapest that answer 95 %% in time on 'day', or on the first trace")  # fmt: skip
    add("--clairvoyant", action="store_true", help="also how few replica-hours would "
        "do if the whole load were known: a lower bound, and the best schedule found")  # fmt: skip
    add("--weeks", action="store_true", help="also three traces of seven days, with and without "
        "the memory of the week, and with --clairvoyant one of the days beside the best possible "
        "(ten minutes of one core)")  # fmt: skip
    add("--budget", type=int, metavar="GPUS", help="instead, share so many GPUs between models: "
        "each trace is one; default: three built-in ones")  # fmt: skip
    add("--pod-gpus", type=_pod_gpus, metavar="N,N,...", help="with --budget: the GPUs of a pod of "
        "each model, in the order of the traces (1)")  # fmt: skip
    add("--list-length", type=int, metavar="N", help="KEDA's listLength for list + in flight")
    add("--fleet", type=int, metavar="N", help="pods of the fixed fleet")
    add("--plot", type=Path, metavar="FILE.svg", help="draw load and pods")
    add("--markdown", type=Path, metavar="FILE", help="write the tables between the marks in it")
    _add_conditions(parser.add_argument_group("what is simulated"))
    return parser


def _add_conditions(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--pod-start", type=float, default=60, metavar="SECONDS", help="until a pod serves (60)")
    add("--timeout", type=float, default=30, metavar="SECONDS", help="a request's deadline (30)")
    add("--bucket-ms", type=_bucket_ms, default=BUCKET_MS, metavar="SIZE=MS,...", help="times of "
        "one model call by batch size; default: 60 ms and 40 ms per picture, up to 32")  # fmt: skip
    add("--set", type=_field, action="append", default=[], metavar="FIELD=VALUE", help="a field of "
        "the policy, such as target_utilization=0.7. min_replicas (0), max_replicas (20) and "
        "scale_to_zero_after_s apply to KEDA too")  # fmt: skip


def _bucket_ms(text: str) -> BucketMs:
    try:
        table = {int(n): float(ms) for n, ms in (pair.split("=") for pair in text.split(","))}
    except ValueError as error:
        raise argparse.ArgumentTypeError("must be like 1=100,8=380,32=1340") from error
    if not all(0 < n <= 1024 and 0 < ms < float("inf") for n, ms in table.items()):
        raise argparse.ArgumentTypeError("sizes must be from 1 to 1024, times above 0")
    return table


def _pod_gpus(text: str) -> list[int]:
    if not re.fullmatch(r"[1-9]\d{0,2}(,[1-9]\d{0,2})*", text):
        raise argparse.ArgumentTypeError("must be like 1,1,2")
    return [int(each) for each in text.split(",")]


def _field(text: str) -> tuple[str, float | str]:
    kinds = {each.name: each.type for each in fields(Policy) if each.name != "batch_size"}
    name, _, value = text.partition("=")
    if name not in kinds:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(kinds)}")
    if kinds[name] is str:
        return name, value
    try:
        return name, int(value) if kinds[name] is int else float(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{name}: {value!r} is not a valid number") from error


def _conditions(options: argparse.Namespace) -> Conditions:
    for option, value in (("--pod-start", options.pod_start), ("--timeout", options.timeout)):
        if not 0 < value <= 3600:
            raise SettingsError(f"{option}: must be above 0, at most 3600")
    setting = Setting(options.bucket_ms, options.pod_start, options.timeout)
    chosen: dict[str, Any] = {"min_replicas": 0, "max_replicas": 20, **dict(options.set)}
    return Conditions(setting, Policy(**chosen, batch_size=setting.batch_size))


def _rules(
    conditions: Conditions, options: argparse.Namespace, tried: Sequence[SweepResult]
) -> list[Rule]:
    """Return the rules to compare, with numbers from the options, the sweep, or the defaults."""
    given = {KEDA_SUM: options.list_length, FIXED: options.fleet}
    calibrated = [
        Rule(kind, number) if number else cheapest(tried, kind) or CALIBRATED[kind]
        for kind, number in given.items()
    ]
    return [Rule(IMAGESERVE), Rule(KEDA_LIST, conditions.setting.batch_size), *calibrated]


def _progress() -> Callable[[str], None]:
    """Return a function that updates a line in the terminal, or does nothing without one."""
    if not sys.stderr.isatty():
        return lambda _: None
    return lambda text: print(f"\r\x1b[K{text[:78]}", end="", file=sys.stderr, flush=True)


def _parts(
    results: Results,
    bests: Bests,
    conditions: Conditions,
    calibration: tuple[Sequence[SweepResult], Sequence[Rule]],
) -> Iterator[str]:
    yield results_table(results, bests)
    if bests:
        yield bests_table(results, bests)
    if found := targets(results, conditions):
        yield targets_table(found)
    if calibration[0]:
        yield sweep_table(*calibration)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ImageserveError(f"{path}: cannot be written: {error}") from error


class _Page:
    """A Markdown file with marks. It is read before the simulation, so that errors come early."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._begin, self._end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ImageserveError(f"{path}: cannot be read: {error}") from error
        self._before, begin, rest = text.partition(self._begin)
        _, end, self._after = rest.partition(self._end)
        if not begin or not end:
            missing = f"{self._begin.strip()} and {self._end}"
            raise ImageserveError(f"{path}: must have the lines {missing}")

    def write(self, text: str) -> None:
        """Replace the text between the marks."""
        between = f"{self._begin}\n{text}\n\n{self._end}"
        _write(self._path, f"{self._before}{between}{self._after}")
