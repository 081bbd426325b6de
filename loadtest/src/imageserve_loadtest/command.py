"""``imageserve loadtest``: measure a running server and check each of its answers."""

import argparse
import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from imageserve_loadtest import html_report, merge, plots
from imageserve_loadtest.client import precise_loop
from imageserve_loadtest.driver import Driver
from imageserve_loadtest.measure import Plan, ProgressCallbacks, Session, session
from imageserve_loadtest.options import Data, UsageError, add_outputs, parser_of, plan_of
from imageserve_loadtest.result import Result, SearchStep
from imageserve_loadtest.scenario import Phase, Scenario, ScenarioError, load_scenario
from imageserve_loadtest.search import search
from imageserve_loadtest.tally import Record
from imageserve_loadtest.terminal import Progress, step_line, table
from imageserve_loadtest.verdict import ObjectiveError

USAGE = 2
_FIRST_PER_S = 10.0
_FILES = 65_536

OnRecord = Callable[[Record], None]


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Return 0 if the verdict holds, 1 if it does not, 2 if the options are not valid."""
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


async def _run(plan: Plan, options: argparse.Namespace, on_record: OnRecord) -> Result:
    async with session(plan, lambda text: print(text, file=sys.stderr)) as prepared:
        # The collector skips what exists now: scanning thousands of pictures again and again takes
        # time in which nothing is sent.
        gc.collect()
        gc.freeze()
        try:
            if options.search:
                return await _search(prepared, options, on_record)
            return await _one_load(prepared, prepared.scenario, options, on_record)
        finally:
            gc.unfreeze()


async def _one_load(
    prepared: Session, scenario: Scenario, options: argparse.Namespace, on_record: OnRecord
) -> Result:
    live = sys.stderr.isatty() and not options.quiet
    progress = Progress(sys.stderr, scenario.seconds, live=live)
    on_tick = progress.show if not options.quiet else lambda *_: None
    try:
        callbacks = ProgressCallbacks(_stop_on_signal, on_tick, on_record)
        return await prepared.run(scenario, callbacks)
    finally:
        progress.end()


async def _search(prepared: Session, options: argparse.Namespace, on_record: OnRecord) -> Result:
    async def load_at(rate_per_s: float) -> Result:
        phase = Phase(prepared.scenario.seconds, rate_per_s=rate_per_s)
        scenario = replace(prepared.scenario, name="search", phases=(phase,))
        return await _one_load(prepared, scenario, options, on_record)

    def on_step(step: SearchStep) -> None:
        print(step_line(step), file=sys.stderr)

    return await search(options.rate or _FIRST_PER_S, load_at, on_step)


def _stop_on_signal(driver: Driver) -> None:
    """Make the first SIGINT or SIGTERM end the load with a report, the second the process."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        driver.stop()
        print("\nending; waiting for open requests. Once more ends at once", file=sys.stderr)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)


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
        epilog="Lines that are not results are ignored, so the output of 'kubectl logs' will do.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="logs of pods; - reads stdin")
    parser.add_argument(
        "--any-target", action="store_true", help="add up results of different targets, too"
    )
    add_outputs(parser)
    options = parser.parse_args(arguments)
    _check_outputs(options)
    results = [result for name in options.files for result in merge.results_in(_lines(name))]
    try:
        total = merge.merged(results, any_target=options.any_target)
    except merge.MergeError as error:
        raise UsageError(str(error)) from error
    print(f"results of {total.pods} pods", file=sys.stderr)
    _report(total, options)
    return 0 if total.verdict.holds else 1


def _lines(name: str) -> list[str]:
    if name == "-":
        return list(sys.stdin)
    try:
        return Path(name).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error}") from error


# -- output -------------------------------------------------------------------------------------


def _check_outputs(options: argparse.Namespace) -> None:
    """Check that the report can be written now, not after an hour of load."""
    files = [Path(options.json) if options.json not in (None, "-") else None, options.html]
    for file in (file for file in files if file is not None):
        folder = file.absolute().parent
        if not folder.is_dir():
            raise UsageError(f"{file}: there is no folder {folder}")
        if file.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
            raise UsageError(f"{file}: is a folder or cannot be written")
    if options.html is not None and not plots.are_available():
        raise UsageError(f"--html: {plots.MISSING}")


def _report(result: Result, options: argparse.Namespace) -> None:
    if options.json == "-":
        print(table(result), file=sys.stderr)
        print(result.to_json())
    else:
        print(table(result))
    if options.json not in (None, "-"):
        Path(options.json).write_text(result.to_json() + "\n", encoding="utf-8")
    if options.html is not None:
        options.html.write_text(html_report.render(result), encoding="utf-8")


@contextlib.contextmanager
def _records(path: Path | None) -> Iterator[OnRecord]:
    if path is None:
        yield lambda _: None
        return
    try:
        file: TextIO = path.open("w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--records: {path} cannot be written: {error}") from error
    with file:
        yield lambda record: print(record.to_json(), file=file)
