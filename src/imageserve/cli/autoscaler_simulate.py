"""``imageserve autoscaler simulate``: rules of scaling on traces of load, without a cluster."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.simulator.calibration import DAILY, Tried, cheapest, sweep
from imageserve.autoscaler.simulator.comparison import (
    FIXED,
    IMAGESERVE,
    KEDA_LIST,
    KEDA_SUM,
    Conditions,
    Results,
    Rule,
    compare,
)
from imageserve.autoscaler.simulator.report import (
    results_table,
    sweep_table,
    targets,
    targets_table,
)
from imageserve.autoscaler.simulator.simulation import Setting
from imageserve.autoscaler.simulator.traces import read_trace, shipped_traces
from imageserve.errors import ImageserveError, SettingsError
from imageserve.queue.snapshot import BucketMs

BUCKET_MS = {1: 100.0, 2: 140.0, 4: 220.0, 8: 380.0, 12: 540.0, 16: 700.0, 24: 1020.0, 32: 1340.0}
"""60 ms and 40 ms per picture, 24 pictures a second: a large network on a CPU."""

CALIBRATED = {KEDA_SUM: Rule(KEDA_SUM, 4), FIXED: Rule(FIXED, 6)}
"""What ``--sweep`` takes under the default conditions."""

BEGIN, END = "<!-- simulator -->\n", "<!-- /simulator -->"


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    del environ
    options = _parser().parse_args(arguments)
    conditions = _conditions(options)
    traces = [read_trace(path) for path in options.traces] or shipped_traces()
    page = None if options.markdown is None else _Page(options.markdown)
    progress = _progress()
    daily = next((trace for trace in traces if trace.name == DAILY), traces[0])
    tried = sweep(conditions, daily, options.seed, progress) if options.sweep else []
    rules = _rules(conditions, options, tried)
    results = compare(conditions, traces, rules, options.seed, progress)
    progress("")
    text = _text(results, conditions, tried, rules)
    print(text)
    if options.plot is not None:
        _write(options.plot, _drawn(results))
    if page is not None:
        page.write(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="imageserve autoscaler simulate",
        description="Compare the autoscaler with KEDA and with a fixed fleet: pods, queue and time "
        "are simulated, the autoscaler is not. A trace is a CSV file with the columns second and "
        "requests_per_second; each row holds until the next, the last one is the end.",
    )
    add = parser.add_argument
    add("traces", nargs="*", type=Path, metavar="TRACE.csv", help="default: those that come along")
    add("--seed", type=int, default=1, help="draws the instants of the requests (default 1)")
    add("--sweep", action="store_true", help="find KEDA's listLength and the fleet's size: the "
        "cheapest that answer 95 %% in time on 'day', or on the first trace")  # fmt: skip
    add("--list-length", type=int, metavar="N", help="KEDA's listLength for list + in flight")
    add("--fleet", type=int, metavar="N", help="pods of the fixed fleet")
    add("--plot", type=Path, metavar="FILE.svg", help="draw load and pods")
    add("--markdown", type=Path, metavar="FILE", help="write the tables between its marks")
    _add_conditions(parser.add_argument_group("what is simulated"))
    return parser


def _add_conditions(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--pod-start", type=float, default=60, metavar="SECONDS", help="until it serves (60)")
    add("--timeout", type=float, default=30, metavar="SECONDS", help="a request's deadline (30)")
    add("--bucket-ms", type=_bucket_ms, default=BUCKET_MS, metavar="SIZE=MS,...", help="times of "
        "one model call by batch size; default: 60 ms and 40 ms per picture, up to 32")  # fmt: skip
    add("--set", type=_field, action="append", default=[], metavar="FIELD=VALUE", help="a field of "
        "the policy, such as target_utilization=0.7. min_replicas (0), max_replicas (20) and "
        "scale_to_zero_after_s hold for KEDA too")  # fmt: skip


def _bucket_ms(text: str) -> BucketMs:
    try:
        table = {int(n): float(ms) for n, ms in (pair.split("=") for pair in text.split(","))}
    except ValueError as error:
        raise argparse.ArgumentTypeError("must be like 1=100,8=380,32=1340") from error
    if not all(0 < n <= 1024 and 0 < ms < float("inf") for n, ms in table.items()):
        raise argparse.ArgumentTypeError("sizes must be from 1 to 1024, times above 0")
    return table


def _field(text: str) -> tuple[str, float]:
    kinds = {each.name: each.type for each in fields(Policy) if each.name != "batch_size"}
    name, _, value = text.partition("=")
    if name not in kinds:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(kinds)}")
    try:
        return name, int(value) if kinds[name] is int else float(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{name}: {value!r} is not such a number") from error


def _conditions(options: argparse.Namespace) -> Conditions:
    for option, value in (("--pod-start", options.pod_start), ("--timeout", options.timeout)):
        if not 0 < value <= 3600:
            raise SettingsError(f"{option}: must be above 0, at most 3600")
    setting = Setting(options.bucket_ms, options.pod_start, options.timeout)
    chosen = {"min_replicas": 0, "max_replicas": 20, **dict(options.set)}
    return Conditions(setting, Policy(**chosen, batch_size=setting.batch_size))


def _rules(
    conditions: Conditions, options: argparse.Namespace, tried: Sequence[Tried]
) -> list[Rule]:
    """Return the rules to compare: with the numbers given, else those found, else the usual."""
    given = {KEDA_SUM: options.list_length, FIXED: options.fleet}
    calibrated = [
        Rule(kind, number) if number else cheapest(tried, kind) or CALIBRATED[kind]
        for kind, number in given.items()
    ]
    return [Rule(IMAGESERVE), Rule(KEDA_LIST, conditions.setting.batch_size), *calibrated]


def _progress() -> Callable[[str], None]:
    """Return what keeps one line of a terminal up to date; silent where nobody looks."""
    if not sys.stderr.isatty():
        return lambda _: None
    return lambda text: print(f"\r\x1b[K{text[:78]}", end="", file=sys.stderr, flush=True)


def _text(
    results: Results, conditions: Conditions, tried: Sequence[Tried], rules: Sequence[Rule]
) -> str:
    parts = [results_table(results)]
    found = targets(results, conditions)
    if found:
        parts.append(targets_table(found))
    if tried:
        parts.append(sweep_table(tried, rules))
    return "\n\n".join(parts)


def _drawn(results: Results) -> str:
    try:
        from imageserve.autoscaler.simulator.drawing import draw
    except ImportError as error:
        raise ImageserveError(
            f"nothing can be drawn here ({error}): pip install matplotlib"
        ) from error
    return draw(results)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ImageserveError(f"{path}: cannot be written: {error}") from error


class _Page:
    """A Markdown file with marks; read before anything runs, so that a wrong one costs no time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ImageserveError(f"{path}: cannot be read: {error}") from error
        self._before, begin, rest = text.partition(BEGIN)
        _, end, self._after = rest.partition(END)
        if not begin or not end:
            raise ImageserveError(f"{path}: must have the lines {BEGIN.strip()} and {END}")

    def write(self, text: str) -> None:
        """Put a text between the marks."""
        _write(self._path, f"{self._before}{BEGIN}\n{text}\n\n{END}{self._after}")
