"""Objectives, and whether a load test met them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from loadtest.tests.results import SECONDS, a_result, histogram

from imageserve_loadtest.result import Counts, Latencies, Refusals, Result, Verdict
from imageserve_loadtest.verdict import LatencyTerm, Objective, ObjectiveError, judged


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("p99=500ms", Objective((LatencyTerm(99, 500),))),
        ("p99.9=1.5s", Objective((LatencyTerm(99.9, 1500),))),
        ("max=2s", Objective((LatencyTerm(100, 2000),))),
        ("refused_p50=20ms", Objective((LatencyTerm(50, 20, of_refusals=True),))),
        ("goodput=95%", Objective(goodput_share=0.95)),
        ("goodput=120/s", Objective(goodput_per_s=120)),
        ("errors=1%", Objective(errors_share=0.01)),
        ("refused=100%", Objective(refused_share=1.0)),
        ("lateness=20ms", Objective(lateness_ms=20)),
        (" p50=1ms , errors=1%", Objective((LatencyTerm(50, 1),), errors_share=0.01)),
        ("p50=1ms,p50=2ms", Objective((LatencyTerm(50, 2),))),
        ("", Objective()),
    ],
)
def test_terms_are_read_and_written(term: str, expected: Objective) -> None:
    objective = Objective.parse([term])

    assert objective == expected
    assert Objective.parse(objective.terms()) == objective


@pytest.mark.parametrize(
    "term",
    ["p99", "p99=500", "p0=1s", "p101=1s", "p99=-1ms", "goodput=95", "errors=101%", "speed=1s"],
)
def test_a_term_that_is_not_valid_is_named(term: str) -> None:
    with pytest.raises(ObjectiveError, match=term):
        Objective.parse([term])


@pytest.mark.parametrize(
    ("terms", "within_ms"),
    [
        (["p50=20ms,p99=500ms,max=9s"], 500),
        (["max=9s"], 9000),
        (["refused_p99=9s"], None),
        ([], None),
    ],
    ids=["the highest percentile", "only a maximum", "only of refusals", "none"],
)
def test_in_time_means_the_limit_of_the_highest_percentile(
    terms: list[str], within_ms: float | None
) -> None:
    assert Objective.parse(terms).within_ms == within_ms


def verdict_of(result: Result, *terms: str) -> Verdict:
    objective = Objective.parse(terms)
    return judged(replace(result, goodput_within_ms=objective.within_ms), objective).verdict


def test_a_good_result_holds() -> None:
    result = a_result()

    verdict = verdict_of(
        result,
        "p50=50ms,p99=101ms,max=200ms,refused_p50=1ms,goodput=100%,goodput=9/s,lateness=5ms",
    )

    assert verdict == Verdict(holds=True)


def counted(**changes: Any) -> Callable[[Result], Result]:
    return lambda result: replace(result, counts=replace(result.counts, **changes))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(counted(good=99, wrong=1), "1 request got a wrong answer", id="wrong"),
        pytest.param(counted(good=98, duplicated=2), "2 requests got more", id="duplicated"),
        pytest.param(counted(good=99, missing=1), "1 request got fewer", id="missing"),
        pytest.param(counted(good=99), "1 request ended without a trace", id="lost trace"),
        pytest.param(counted(planned=103), "3 requests were due but never began", id="not begun"),
        pytest.param(counted(unsolicited=1), "1 answers came that no request", id="unsolicited"),
        pytest.param(
            counted(good=99, refused=1, refusals={"busy": Refusals(0, 1)}),
            "1 request were refused without Retry-After",
            id="refused without Retry-After",
        ),
        pytest.param(
            lambda result: replace(result, interrupted=True, seconds=3.0),
            "interrupted after 3.0 s of 10 s",
            id="interrupted",
        ),
        pytest.param(
            lambda result: replace(result, sending_seconds=SECONDS + 4.5),
            "the load test could not send this fast: its last request was sent 4.5 s after the end",
            id="sent too late",
        ),
    ],
)
def test_some_outcomes_fail_every_objective(spoil: Callable[[Result], Result], reason: str) -> None:
    verdict = verdict_of(spoil(a_result()), "errors=100%,refused=100%")

    assert not verdict.holds
    assert verdict.reasons[0].startswith(reason)


@pytest.mark.parametrize(
    ("term", "changes", "reason"),
    [
        ("p99=99ms", {}, "p99 is 100.0 ms; 99 ms are allowed"),
        ("max=99ms", {}, "max is 100.0 ms"),
        (
            "errors=1%",
            {"good": 98, "error": 1, "failed": 1, "errors": {"reset": 1}, "failures": {"500 x": 1}},
            "2 requests (2.00 %) failed or got no answer; 1.00% are allowed: 500 x 1, reset 1",
        ),
        (
            "refused=1%",
            {"good": 98, "refused": 2, "refusals": {"busy": Refusals(2, 0)}},
            "2 requests (2.00 %) were refused; 1.00% are allowed: busy 2",
        ),
        ("goodput=10.1/s", {}, "goodput is 10.0/s; 10.1/s are required"),
        ("p99=60ms,goodput=99%", {}, "p99 is 100.0 ms"),
        ("lateness=1ms", {}, "the load test sent late: p99 2.0 ms"),
    ],
)
def test_an_exceeded_limit_is_named_with_its_numbers(
    term: str, changes: dict[str, Any], reason: str
) -> None:
    verdict = verdict_of(counted(**changes)(a_result()), term)

    assert not verdict.holds
    assert verdict.reasons[0].startswith(reason)


@pytest.mark.parametrize(
    ("term", "changes"),
    [
        ("errors=2%", {"good": 98, "error": 2, "errors": {"reset": 2}}),
        ("refused=2%", {"good": 98, "refused": 2, "refusals": {"busy": Refusals(2, 0)}}),
        ("goodput=10/s", {}),
    ],
)
def test_a_limit_that_is_just_met_holds(term: str, changes: dict[str, Any]) -> None:
    assert verdict_of(counted(**changes)(a_result()), term).holds


def test_without_a_good_answer_the_verdict_fails() -> None:
    nothing = replace(a_result(), counts=Counts(), latency=Latencies())

    verdict = verdict_of(nothing, "p99=1s")

    assert verdict.reasons == (
        "no request got a good answer",
        "p99 is unknown: no picture got a label",
    )


def test_slow_refusals_fail_an_objective_for_refusals() -> None:
    latency = replace(a_result().latency, refused=histogram(0.05))

    verdict = verdict_of(replace(a_result(), latency=latency), "refused_p50=20ms")

    assert verdict.reasons == ("refused_p50 is 50.0 ms; 20 ms are allowed",)


def test_one_of_several_pods_needs_only_its_share_of_the_goodput() -> None:
    one_of_four = replace(a_result(), load=replace(a_result().load, shards=4))

    assert verdict_of(one_of_four, "goodput=40/s").holds
    assert not verdict_of(one_of_four, "goodput=41/s").holds


def test_goodput_is_counted_over_the_load_plus_the_time_limit() -> None:
    overloaded = replace(a_result(), seconds=2 * SECONDS)

    assert overloaded.goodput_per_s == pytest.approx(100 / (2 * SECONDS))
    assert replace(overloaded, goodput_within_ms=50.0).good_in_time == 98
    in_time = replace(overloaded, goodput_within_ms=500.0)
    assert in_time.goodput_per_s == pytest.approx(100 / (SECONDS + 0.5))


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"lateness": histogram(0.5)}, "the load test sent late (p99 500"),
        ({"tool": replace(a_result().tool, cpu_s=9.5)}, "the load test used 95% of a core"),
        ({}, "with 100 answers, p99.9 is simply the slowest one"),
    ],
    ids=["late", "busy", "few answers"],
)
def test_doubtful_figures_are_noted(changes: dict[str, Any], note: str) -> None:
    (first, *_) = judged(replace(a_result(), **changes), Objective()).notes

    assert first.startswith(note)
