"""``imageserve loadtest``: measure a running server, and check every one of its answers."""

import argparse
import asyncio
import contextlib
import gc
import importlib.util
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from imageserve.cli.loadtest_options import Data, add_outputs, parser_of, plan_of
from imageserve.cli.loadtest_scenario import UsageError
from imageserve.loadtest import merge, search
from imageserve.loadtest.client import precise_loop
from imageserve.loadtest.driver import Driver
from imageserve.loadtest.measure import Plan, Session, Watch, session
from imageserve.loadtest.objective import ObjectiveError
from imageserve.loadtest.progress import Progress
from imageserve.loadtest.reader import ScenarioError
from imageserve.loadtest.result import Result, SearchStep
from imageserve.loadtest.scenario import Phase, Scenario, load_scenario
from imageserve.loadtest.table import table
from imageserve.loadtest.tally import Record

USAGE = 2
_FIRST_PER_S = 10.0
_FILES = 65_536


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Return 0 where the verdict holds, 1 where it does not, 2 where the call makes no sense."""
    try:
        if arguments[:1] == ["merge"]:
            return _merge(arguments[1:])
        return _measure(arguments, environ)
    except (UsageError, ScenarioError, ObjectiveError) as error:
        print(f"imageserve loadtest: {error}", file=sys.stderr)
        return USAGE


# -- measuring ----------------------------------------------------------------------------------


def _measure(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    data = Data.of(environ)
    options = parser_of(data).parse_args(arguments)
    if options.list:
        return _list(data)
    plan = plan_of(options, environ, data)
    _check_outputs(options)
    _allow_many_connections()
    with _records(options.records) as on_record, asyncio.Runner(loop_factory=precise_loop) as run:
        result = run.run(_run(plan, options, on_record))
    _report(result, options)
    return 0 if result.verdict.holds else 1


def _list(data: Data) -> int:
    for name, path in data.scenarios().items():
        print(f"{name:<14} {load_scenario(path).description}")
    return 0


async def _run(
    plan: Plan, options: argparse.Namespace, on_record: Callable[[Record], None]
) -> Result:
    async with session(plan) as found:
        # What is there now stays until the end: looking through it again and again takes time
        # in which nothing is sent.
        gc.collect()
        gc.freeze()
        try:
            if options.search:
                return await _search(found, options, on_record)
            return await _one_load(found, found.scenario, options, on_record)
        finally:
            gc.unfreeze()


async def _one_load(
    found: Session,
    scenario: Scenario,
    options: argparse.Namespace,
    on_record: Callable[[Record], None],
) -> Result:
    live = sys.stderr.isatty() and not options.quiet
    progress = Progress(sys.stderr, scenario.seconds, live=live)
    on_tick = progress.show if not options.quiet else lambda *_: None
    try:
        return await found.run(scenario, Watch(_stop_on_signal, on_tick, on_record))
    finally:
        progress.end()


def _stop_on_signal(driver: Driver) -> None:
    """End the load at the first signal and report what was done; the second ends at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        driver.stop()
        print("\nending; what is open is waited for. Once more ends at once", file=sys.stderr)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


async def _search(
    found: Session, options: argparse.Namespace, on_record: Callable[[Record], None]
) -> Result:
    """Try rates until the highest that meets the objective is known well enough."""
    results: list[Result] = []
    steps: list[SearchStep] = []
    first_per_s = options.rate or _FIRST_PER_S
    while (rate_per_s := search.next_rate(first_per_s, steps)) is not None:
        result = await _one_load(found, _at_rate(found.scenario, rate_per_s), options, on_record)
        results.append(result)
        steps.append(_step(rate_per_s, result))
        print(_step_line(steps[-1]), file=sys.stderr)
        if result.interrupted:
            break
    best = None if results[-1].interrupted else search.best_rate(steps)
    chosen = next((i for i, step in enumerate(steps) if step.rate_per_s == best), -1)
    return replace(results[chosen], search=tuple(steps))


def _at_rate(scenario: Scenario, rate_per_s: float) -> Scenario:
    return replace(
        scenario, name="search", phases=(Phase(scenario.seconds, rate_per_s=rate_per_s),)
    )


def _step(rate_per_s: float, result: Result) -> SearchStep:
    figures = result.latency.good.percentiles_ms([50.0, 99.0])
    return SearchStep(
        rate_per_s=rate_per_s,
        holds=result.verdict.holds,
        goodput_per_s=result.goodput_per_s,
        p50_ms=figures.get(50.0),
        p99_ms=figures.get(99.0),
        reasons=result.verdict.reasons,
    )


def _step_line(step: SearchStep) -> str:
    p99 = "-" if step.p99_ms is None else f"{step.p99_ms:.1f} ms"
    said = "holds" if step.holds else "; ".join(step.reasons)
    return f"{step.rate_per_s:.1f}/s: goodput {step.goodput_per_s:.1f}/s, p99 {p99}: {said}"


def _allow_many_connections() -> None:
    """Raise the soft limit of open files: each open request is a connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


# -- merging ------------------------------------------------------------------------------------


def _merge(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="imageserve loadtest merge",
        description="Make one report of what the pods of a load test logged.",
        epilog="Lines that are no result are passed over, so 'kubectl logs' can be piped in.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="logs of pods; - reads them here")
    parser.add_argument(
        "--any-target", action="store_true", help="add up results of different targets, too"
    )
    add_outputs(parser)
    options = parser.parse_args(arguments)
    _check_outputs(options)
    results = [result for name in options.files for result in merge.results_in(_lines(name))]
    try:
        whole = merge.merged(results, any_target=options.any_target)
    except merge.MergeError as error:
        raise UsageError(str(error)) from error
    print(f"results of {whole.pods} pods", file=sys.stderr)
    _report(whole, options)
    return 0 if whole.verdict.holds else 1


def _lines(name: str) -> list[str]:
    if name == "-":
        return list(sys.stdin)
    try:
        return Path(name).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error}") from error


# -- output -------------------------------------------------------------------------------------


def _check_outputs(options: argparse.Namespace) -> None:
    """Find out now, not after an hour of load, that the report cannot be written."""
    files = [Path(options.json) if options.json not in (None, "-") else None, options.html]
    for file in (file for file in files if file is not None):
        folder = file.absolute().parent
        if not folder.is_dir():
            raise UsageError(f"{file}: there is no folder {folder}")
        if file.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
            raise UsageError(f"{file}: is a folder, or must not be written")
    if options.html is not None and importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--html draws with matplotlib: pip install 'imageserve[plots]'")


def _report(result: Result, options: argparse.Namespace) -> None:
    if options.json == "-":
        print(table(result), file=sys.stderr)
        print(result.to_json())
    else:
        print(table(result))
    if options.json not in (None, "-"):
        Path(options.json).write_text(result.to_json() + "\n", encoding="utf-8")
    if options.html is not None:
        from imageserve.loadtest import report_html

        options.html.write_text(report_html.render(result), encoding="utf-8")


@contextlib.contextmanager
def _records(path: Path | None) -> Iterator[Callable[[Record], None]]:
    if path is None:
        yield lambda _: None
        return
    try:
        file: TextIO = path.open("w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--records: {path} cannot be written: {error}") from error
    with file:
        yield lambda record: print(record.to_json(), file=file)
