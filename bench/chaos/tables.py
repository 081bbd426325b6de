"""The tables and sentences of the report. Pure."""

from collections.abc import Sequence

from bench.chaos.accounts import LATE_S
from bench.chaos.arena import BATCH_MS, BATCH_SIZE, IMAGE_MS, Scale
from bench.chaos.run import NotRun, Report
from bench.chaos.scenarios import LOAD_SHARE, Scenario
from bench.report import Section, number, percent


def method(scale: Scale) -> str:
    """Return in a sentence what was loaded, and how much."""
    return (
        f"{scale.workers} workers, batches of {BATCH_SIZE}, a stand-in that sleeps "
        f"{BATCH_MS:g} ms per batch and {IMAGE_MS:g} ms per picture: "
        f"{number(scale.capacity_per_s)} pictures/s. Load: Poisson arrivals at "
        f"{percent(LOAD_SHARE)} of that, {number(LOAD_SHARE * scale.capacity_per_s)}/s, for "
        f"{scale.seconds:g} s. Lease: {scale.lease_s:g} s."
    )


def guarantees(reports: Sequence[Report], not_run: Sequence[NotRun] = ()) -> str:
    """Return each guarantee, what attacks it and what came of it."""
    lines = [
        "| guarantee | attack | `make chaos ARGS=` | what happened | |",
        "| --- | --- | --- | --- | --- |",
    ]
    for report in reports:
        end = "held" if report.holds else f"**missed**: {_missed(report)}"
        lines.append(_line(report.scenario, _happened(report), end))
    lines += [_line(each.scenario, f"it needs {each.lacks}", "**not run**") for each in not_run]
    return "\n".join(["### Guarantees", "", *lines])


def _line(scenario: Scenario, happened: str, end: str) -> str:
    cells = (scenario.guarantee, scenario.does, f"`{scenario.name}`", happened, end)
    return f"| {' | '.join(cells)} |"


def _happened(report: Report) -> str:
    done = [f"{what}: {count:,}" for what, count in report.done.items()]
    seen = report.account
    if seen.forgotten or seen.run_again:
        done.append(f"jobs forgotten by Redis and queued again: {seen.forgotten}")
        done.append(f"results forgotten by Redis, their jobs run again: {seen.run_again}")
    done += [f"refused, `{code}`: {count:,}" for code, count in sorted(seen.refusals.items())]
    done += [f"{end}: {count}" for end, count in seen.others.items()]
    done += [f"{each.target}: {each.measured}" for each in report.verdicts if _is_own(each.target)]
    return "; ".join(done)


def _is_own(target: str) -> bool:
    """Whether a demand is this scenario's alone: the others are columns of the second table."""
    return ">=" in target or "within" in target


def _missed(report: Report) -> str:
    return "; ".join(f"{v.target} (was {v.measured})" for v in report.verdicts if not v.is_met)


def numbers(reports: Sequence[Report]) -> str:
    """Return what became of all requests."""
    header = (
        "scenario",
        "sent",
        "accepted",
        "answered",
        "lost",
        "duplicated",
        "wrong",
        "refused",
        "resets",
        "p99 in the fault, ms",
        "p99 out of it, ms",
        "late, ms",
        "CPU",
    )
    notes = [
        "accepted: jobs, counted by Redis's own announcements. answered: with the answer that this "
        "very picture must get. refused: 503, each with Retry-After. resets: connections that a "
        "killed web process broke. p99: of the answered requests, from when they were meant to be "
        "sent; in the fault: on their way while something was broken or a backlog of it was left. "
        "late: p99 of the load tool's own delay, which all times contain. CPU: of the whole "
        "machine, by the service and the load tool, while the load ran."
    ]
    return str(Section("Numbers", header, [_row(report) for report in reports], [], notes))


def outages(reports: Sequence[Report]) -> str:
    """Return what each kind of outage of Redis costs its clients; empty where there was none."""
    header = (
        "scenario",
        "outages",
        "sent",
        "answered",
        "refused",
        "no end",
        f"after {LATE_S:g} s",
        "silence, s",
        "jobs forgotten",
        "results forgotten",
        "runs too many",
    )
    rows = [_outage_row(report) for report in reports if report.scenario.ends_redis]
    notes = [
        "refused: 503, each with Retry-After. no end: requests that were neither answered nor "
        f"refused so. after {LATE_S:g} s: answers that took longer. silence: the longest time in "
        "which nobody was answered. jobs forgotten: their pictures were queued again. runs too "
        "many: pictures that were run beyond one for each answer."
    ]
    return str(Section("What each cost", header, rows, [], notes)) if rows else ""


def _outage_row(report: Report) -> list[str]:
    seen, done = report.account, report.done
    ends = sum(done.get(what, 0) for what in ("restarts", "failovers", "changes of places"))
    counts = (ends, seen.sent, seen.answered, seen.refused, seen.without_an_end, seen.late)
    lost = (seen.forgotten, seen.run_again, seen.runs_too_many)
    return [report.scenario.name, *map(str, counts), f"{seen.outage_s:.1f}", *map(str, lost)]


def _row(report: Report) -> list[str]:
    seen = report.account
    counts = (
        seen.sent,
        seen.accepted,
        seen.answered,
        seen.lost,
        seen.duplicated,
        seen.wrong,
        seen.refused,
        seen.resets,
    )
    times_ms = (seen.p99_in_ms, seen.p99_out_ms, seen.late_ms)
    times = ("-" if ms is None else f"{ms:.0f}" for ms in times_ms)
    return [report.scenario.name, *map(str, counts), *times, percent(seen.cpu_share)]
